"""Canvases that start from what CTC reads, in decoding and in training."""

import pytest
import torch

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.decoders import EntropyBoundSampler
from speechbrain_diffasr.decoders.ctc import read_canvas, read_pieces
from speechbrain_diffasr.decoders.queueing import Utterance
from speechbrain_diffasr.lobes.output_layer import Head
from speechbrain_diffasr.training.objective import LanguageModelLosses

VOCAB, WIDTH, BLANK, EOS = 7, 5, 4, 6
SAMPLER = EntropyBoundSampler(canvas_length=10)


def random_case(batch, frames):
    generator = torch.Generator().manual_seed(batch)
    audio = torch.randn(batch, frames, WIDTH, generator=generator)
    return audio, Head(torch.randn(VOCAB, WIDTH, generator=generator), 30.0)


@pytest.mark.parametrize("chunk_size", [1, 5, 1000])
@pytest.mark.parametrize("width", [3, 12])
def test_it_reads_what_greedy_reading_one_by_one_does(chunk_size, width):
    """Repetitions and blanks are dropped, what lies behind the audio and the canvas is not read."""
    audio, head = random_case(20, 17)
    lengths = [1 + row % 17 for row in range(20)]
    canvas = read_canvas(
        audio, head, BLANK, torch.tensor(lengths), width, EOS, chunk_size=chunk_size
    )
    for row, one, length in zip(canvas.tolist(), audio, lengths, strict=True):
        pieces = read_pieces(one, head, BLANK, frame=1.0, duration=length)
        expected = [piece.token for piece in pieces][:width]
        assert row == expected + [EOS] * (width - len(expected))
    assert len({tuple(row) for row in canvas.tolist()}) > 10


@pytest.fixture
def searcher(random_model):
    """That starts from CTC; noise in its frames is read as many tokens."""
    asr = DiffusionASR.from_hparams(random_model)
    asr.mods.decoder.start, asr.mods.decoder.draft_confidence = "ctc", 0.0
    return asr.mods.decoder


def first_canvases(searcher, utterances):
    """What the first step sees of each utterance, without what pads a short canvas."""
    drafts = []
    start = searcher.sampler.start

    def spy(*args, **kwargs):
        canvases = start(*args, **kwargs)
        drafts.extend(zip(canvases.canvas.tolist(), canvases.lengths.tolist(), strict=True))
        return canvases

    searcher.sampler.start = spy
    list(searcher.stream(utterances, batch_size=len(utterances), steps=1))
    searcher.sampler.start = start
    return [row[:length] for row, length in drafts]


def test_the_first_step_sees_the_reading(searcher):
    head, tokenizer = searcher.model.head, searcher.prompt.tokenizer
    blank = tokenizer.token_id(searcher.prompt.slot_token)
    audio = 3 * torch.randn(3, searcher.prompt.num_frames, searcher.model.hidden_size)
    found = first_canvases(searcher, [Utterance(one) for one in audio])
    for row, one in zip(found, audio, strict=True):
        tokens = [piece.token for piece in read_pieces(one, head, blank, 1.0, len(one))]
        padded = tokens + [tokenizer.eos_id] * len(row)
        assert row == padded[: len(row)]
        assert len(tokens) > 5


def test_only_what_the_audio_fills_is_read(searcher):
    searcher.window = 2.0
    audio = 3 * torch.randn(searcher.prompt.num_frames, searcher.model.hidden_size)
    whole, half = first_canvases(searcher, [Utterance(audio, seconds=s) for s in (2.0, 0.2)])
    eos = searcher.prompt.tokenizer.eos_id
    few = half.index(eos)
    assert 0 < few < len(half) - 3 and half[few:] == [eos] * (len(half) - few)
    assert whole[:few] == half[:few] and whole[few] != eos


def test_the_text_is_the_same_alone_and_in_a_batch(searcher):
    audio = 3 * torch.randn(4, searcher.prompt.num_frames, searcher.model.hidden_size)

    def texts(batch_size):
        utterances = [Utterance(one, key=key) for key, one in enumerate(audio)]
        found = searcher.stream(utterances, batch_size, steps=3)
        return {one.key: one.tokens for one in found}

    assert texts(1) == texts(4)


def test_an_unknown_start_is_refused(random_model):
    with pytest.raises(ValueError, match="start: 'ctx' is unknown; expected noise or ctc or draft"):
        DiffusionASR.from_hparams(random_model, overrides={"decoder": {"start": "ctx"}})


def seen_in_training(searcher, audio, filled=None, **settings):
    """The canvases of the first pass, one set with seeds and one of the last two rows alone."""
    model, seen = searcher.model, []

    class Spy:
        def __getattr__(self, name):
            return getattr(model, name)

        def denoise(self, canvas, *args, **kwargs):
            seen.append(canvas)
            return model.denoise(canvas, *args, **kwargs)

    losses = LanguageModelLosses(
        Spy(), searcher.prompt, SAMPLER, self_conditioning=0.0, blank=4, **settings
    )
    tokens, languages = [[20, 21, 22]] * len(audio), ["en"] * len(audio)
    with torch.no_grad():
        losses(audio, languages, tokens, list(range(len(audio))), filled)
        last = None if filled is None else filled[-2:]
        seeds = list(range(len(audio)))[-2:]
        losses(audio[-2:], languages[-2:], tokens[-2:], seeds, last)
    return seen


def test_training_sees_the_reading_corrupted_less_than_all(searcher):
    audio = 3 * torch.randn(40, searcher.prompt.num_frames, searcher.model.hidden_size)
    lengths = torch.full((40,), audio.shape[1])
    eos = searcher.prompt.tokenizer.eos_id
    reading = read_canvas(audio, searcher.model.head, 4, lengths, 10, eos)
    canvas, last = seen_in_training(searcher, audio, drafted=1.0, draft_rate=0.0)
    assert torch.equal(canvas, reading)
    canvas, last = seen_in_training(searcher, audio, drafted=1.0, draft_rate=0.3)
    assert torch.equal(canvas[-2:], last)  # whoever else is in the batch
    assert 0.05 < (canvas != reading).float().mean() < 0.25  # 0.15 on average
    canvas, _ = seen_in_training(searcher, audio, drafted=0.5, draft_rate=0.0)
    assert 0.2 < (canvas == reading).all(dim=1).float().mean() < 0.8


def test_training_reads_what_is_filled_only(searcher):
    """Audio of fewer slots than a whole window is as if the others were there, unread."""
    audio = 3 * torch.randn(4, searcher.prompt.num_frames, searcher.model.hidden_size)
    filled, settings = [3, 10, 4, 12], {"drafted": 1.0, "draft_rate": 0.0}
    whole, _ = seen_in_training(searcher, audio, filled, **settings)
    part, _ = seen_in_training(searcher, audio[:, :12], filled, **settings)
    assert torch.equal(whole, part)
    reading = read_canvas(
        audio, searcher.model.head, 4, torch.tensor(filled), whole.shape[1],
        searcher.prompt.tokenizer.eos_id,
    )  # fmt: skip
    assert torch.equal(whole, reading)


def test_drafts_need_a_blank(searcher):
    with pytest.raises(ValueError, match=r"drafted: 0\.5; what CTC reads needs blank"):
        LanguageModelLosses(searcher.model, searcher.prompt, SAMPLER, drafted=0.5)
