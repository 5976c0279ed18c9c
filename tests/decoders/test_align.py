"""Forced alignment by CTC."""

import itertools
import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchaudio.functional import forced_align

from speechbrain_diffasr.decoders.ctc import align_tokens
from speechbrain_diffasr.lobes.output_layer import Head

VOCAB, WIDTH, SOFTCAP = 13, 6, 30.0
BLANK = 4
RATE = 16000


def random_case(seed, frames, batch=1):
    """Audio [B, T, D] and an output layer, both random and of strong opinions."""
    generator = torch.Generator().manual_seed(seed)
    audio = 2 * torch.randn(batch, frames, WIDTH, generator=generator)
    return audio, Head(torch.randn(VOCAB, WIDTH, generator=generator), SOFTCAP)


def all_log_probs(audio, head):
    """[B, T, V], all at once."""
    logits = audio @ head.weight.T
    return (head.softcap * torch.tanh(logits / head.softcap)).log_softmax(-1)


def collapse(path):
    """What CTC reads from a path: repetitions and blanks dropped."""
    return [token for token, _ in itertools.groupby(path) if token != BLANK]


def path_of(alignment, tokens, frames):
    """The path that an alignment stands for."""
    path = [BLANK] * frames
    for token, start, end in zip(tokens, alignment.starts, alignment.ends, strict=True):
        path[int(start) : int(end)] = [token] * int(end - start)
    return path


@pytest.mark.parametrize("tokens", [[1], [1, 2], [2, 2], [3, 1, 3], [5, 5, 5], [], [7, 8, 7, 7]])
@pytest.mark.parametrize("frames", [1, 3, 5, 6])
def test_no_path_of_all_is_more_probable(tokens, frames):
    audio, head = random_case(10 * frames + len(tokens), frames)
    (found,) = align_tokens(audio, head, [tokens], [frames], BLANK)
    log_probs = all_log_probs(audio, head)[0]
    paths = [
        path
        for path in itertools.product({BLANK, *tokens}, repeat=frames)
        if collapse(path) == tokens
    ]
    assert found.forced == bool(paths)
    if paths:
        best = max(paths, key=lambda path: sum(log_probs[t, c] for t, c in enumerate(path)))
        assert path_of(found, tokens, frames) == list(best)
        for token, start, end, score in zip(
            tokens, found.starts, found.ends, found.log_probs, strict=True
        ):
            inside = log_probs[int(start) : int(end), token]
            assert score == pytest.approx(inside.max().item(), abs=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 7, 256])
def test_few_columns_of_a_chunk_align_as_the_whole_vocabulary_does(chunk_size):
    audio, head = random_case(3, frames=40, batch=3)
    rng = random.Random(0)
    others = [token for token in range(VOCAB) if token != BLANK]
    tokens = [rng.choices(others, k=number) for number in (9, 1, 15)]
    found = align_tokens(audio, head, tokens, [40, 40, 40], BLANK, chunk_size)
    for row, labels, scores in zip(found, tokens, all_log_probs(audio, head), strict=True):
        path, _ = forced_align(scores[None], torch.tensor([labels]), blank=BLANK)
        assert path_of(row, labels, 40) == path[0].tolist()


def test_tokens_that_outnumber_the_frames_are_spread_evenly():
    audio, head = random_case(1, frames=4, batch=2)
    many, doubled = align_tokens(audio, head, [[1, 2, 3, 5, 6, 7], [1, 1, 1]], [3.6, 3.0], BLANK)
    assert not many.forced and not doubled.forced
    assert many.starts == pytest.approx([0.0, 0.6, 1.2, 1.8, 2.4, 3.0])
    assert many.ends == pytest.approx([0.6, 1.2, 1.8, 2.4, 3.0, 3.6])
    assert doubled.starts == [0.0, 1.0, 2.0]  # with blanks in between they need five
    log_probs = all_log_probs(audio, head)
    assert many.log_probs[5] == pytest.approx(log_probs[0, 3, 7].item(), abs=1e-5)
    assert doubled.log_probs[1] == pytest.approx(log_probs[1, 1, 1].item(), abs=1e-5)


def test_what_lies_behind_the_audio_is_not_heard():
    audio, head = random_case(5, frames=30)
    tokens = [1, 2, 9, 9, 3]
    (cut,) = align_tokens(audio[:, :12], head, [tokens], [12], BLANK)
    louder = audio.clone()
    louder[:, 12:] = 50 * torch.randn(18, WIDTH)
    assert align_tokens(louder, head, [tokens], [12], BLANK) == [cut]
    assert max(cut.ends) <= 12
    (inside,) = align_tokens(louder, head, [tokens], [11.3], BLANK)  # the last frame begins inside
    assert max(inside.ends) <= 11.3
    assert inside.starts == cut.starts


def test_an_utterance_alone_and_in_a_batch():
    audio, head = random_case(8, frames=25, batch=6)
    tokens = [[1, 2, 3], [], [5], [6, 6, 7, 8, 9, 10, 11], [BLANK], [3] * 20]
    lengths = [25, 14, 1, 19.5, 3, 25]
    together = align_tokens(audio, head, tokens, lengths, BLANK)
    for place, row in enumerate(together):
        one = slice(place, place + 1)
        (alone,) = align_tokens(audio[one], head, tokens[one], lengths[one], BLANK)
        assert (alone.starts, alone.ends, alone.forced) == (row.starts, row.ends, row.forced)
        assert alone.log_probs == pytest.approx(row.log_probs, abs=1e-5)
    assert [row.forced for row in together] == [True, True, True, True, True, False]


def test_blanks_among_the_tokens_take_no_time():
    audio, head = random_case(2, frames=20)
    (without,) = align_tokens(audio, head, [[1, 2]], [20], BLANK)
    (found,) = align_tokens(audio, head, [[BLANK, 1, BLANK, BLANK, 2, BLANK]], [20], BLANK)
    first, second = without.starts
    assert found.starts == [first, first, second, second, second, without.ends[1]]
    assert found.ends == [first, without.ends[0], second, second, without.ends[1], without.ends[1]]
    assert [found.log_probs[place] for place in (0, 2, 3, 5)] == [0.0] * 4
    assert align_tokens(audio, head, [[BLANK]], [20], BLANK)[0].starts == [0.0]


@pytest.mark.parametrize("token", [VOCAB, -1])
def test_a_token_outside_of_the_vocabulary_is_named(token):
    audio, head = random_case(0, frames=5)
    with pytest.raises(ValueError, match=f"{token} is outside of the vocabulary of {VOCAB}"):
        align_tokens(audio, head, [[1, token]], [5], BLANK)


class LargestTensor(TorchDispatchMode):
    """Watches how many elements the largest new tensor has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.elements = max(self.elements, output.numel())
        return output


def test_the_logits_of_a_batch_are_never_together():
    vocab, chunk, batch, frames = 20000, 16, 3, 30
    head = Head(torch.randn(vocab, 4), SOFTCAP)
    audio = torch.randn(batch, frames, 4)
    with LargestTensor() as largest:
        align_tokens(audio, head, [[5, 6], [7], [8]], [frames] * batch, BLANK, chunk)
    assert largest.elements == vocab * chunk < vocab * batch * frames


def test_low_precision_of_the_output_layer_is_kept():
    audio, head = random_case(4, frames=20)
    low = Head(head.weight.bfloat16(), head.softcap)
    (found,) = align_tokens(audio, low, [[1, 2, 3]], [20], BLANK)
    rounded = Head(head.weight.bfloat16().float(), head.softcap)
    (exact,) = align_tokens(audio.bfloat16().float(), rounded, [[1, 2, 3]], [20], BLANK)
    assert found.log_probs == pytest.approx(exact.log_probs, abs=0.2)
    assert max(found.log_probs) <= 0.0
