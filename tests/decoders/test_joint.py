"""Denoiser and CTC joined at every step, against sums over all paths and all texts."""

import itertools

import pytest
import torch

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.decoders import joint
from speechbrain_diffasr.decoders.ctc import read_pieces
from speechbrain_diffasr.decoders.joint import Evidence, hear, join
from speechbrain_diffasr.decoders.queueing import Utterance
from speechbrain_diffasr.kernels.common import Predictions
from speechbrain_diffasr.lobes.output_layer import Head

END, WIDTH = 0, 3
TOKENS = [1, 2]


def random_case(seed):
    """A denoiser of the tokens 1 and 2, of others (3) and of the end, and what CTC hears.

    Tokens are heard in every other frame, so that none is held: what is exact only then.
    """
    generator = torch.Generator().manual_seed(seed)
    denoised = torch.rand(WIDTH, 4, generator=generator)
    denoised = denoised / denoised.sum(dim=1, keepdim=True)  # of the end, 1, 2 and 3
    heard = torch.rand(5, 3, generator=generator)
    heard[1::2] = torch.tensor([1.0, 1e-7, 1e-7])
    heard = heard / heard.sum(dim=1, keepdim=True)  # of a blank, 1 and 2
    return denoised, heard


def joined(denoised, heard, weight=1.0, uniforms=0.5):
    top = denoised.argmax(dim=1)[None]
    predictions = Predictions(top, denoised.amax(dim=1)[None].log(), torch.ones(1, WIDTH), top)
    evidence = Evidence(
        torch.tensor([TOKENS]),
        heard[None, :, 1:].log(),
        heard[None, :, 0].log(),
        torch.tensor([len(heard)]),
    )
    return join(
        predictions,
        denoised[None, :, 1:3],
        denoised[None, :, END],
        evidence,
        weight,
        torch.tensor([WIDTH]),
        torch.full((1, WIDTH), uniforms),
        END,
    )


def enumerated(denoised, heard, weight):
    """Probabilities of 1, 2 and the end at each position, path by path."""
    heard = heard**weight
    mass = torch.zeros(WIDTH, 4)
    for path in itertools.product(range(3), repeat=len(heard)):
        text = [label for label in path if label]
        if len(text) > WIDTH:
            continue
        weighed = float(heard[torch.arange(len(heard)), list(path)].prod())
        for place, label in enumerate(text):
            weighed *= float(denoised[place, label])
        weighed *= float(denoised[len(text), END]) if len(text) < WIDTH else 1.0
        for place in range(WIDTH):
            mass[place, text[place] if place < len(text) else END] += weighed
    return mass / mass.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_sum_over_all_texts_and_alignments(seed, weight):
    denoised, heard = random_case(seed)
    predictions, probs, tokens = joined(denoised, heard, weight)
    expected = enumerated(denoised, heard, weight)
    assert tokens[0, 0].tolist() == [1, 2, int(denoised[0].argmax()), END]
    torch.testing.assert_close(probs[0, :, :2], expected[:, 1:3], atol=2e-3, rtol=0)
    torch.testing.assert_close(probs[0, :, 3], expected[:, END], atol=2e-3, rtol=0)
    assert predictions.tokens[0].tolist() == expected.argmax(dim=1).tolist()
    torch.testing.assert_close(
        predictions.log_probs[0].exp(), expected.amax(dim=1), atol=2e-3, rtol=0
    )


def test_where_ctc_hears_anything_alike_the_denoiser_decides():
    denoised = torch.tensor([[0.01, 0.1, 0.88, 0.01], [0.01, 0.9, 0.08, 0.01], [1.0, 0.0, 0, 0]])
    predictions, _, _ = joined(denoised, torch.full((6, 3), 1 / 3))
    assert predictions.tokens.tolist() == [[2, 1, END]]


def test_where_the_denoiser_is_unsure_ctc_decides():
    heard = torch.full((5, 3), 0.01)
    heard[[0, 1, 2, 3, 4], [0, 1, 1, 2, 0]] = 0.98  # the second token is held
    denoised = torch.tensor([[0.2, 0.3, 0.3, 0.2], [0.4, 0.25, 0.25, 0.1], [0.98, 0.01, 0.01, 0.0]])
    predictions, _, _ = joined(denoised, heard)
    assert predictions.tokens.tolist() == [[1, 2, END]]
    assert (predictions.entropy < 0.5).all()


def test_tokens_are_sampled_as_often_as_they_are_probable():
    denoised, heard = random_case(1)
    drawn = torch.tensor(
        [
            joined(denoised, heard, uniforms=(draw + 0.5) / 1000)[0].proposals[0].tolist()
            for draw in range(1000)
        ]
    )
    _, probs, tokens = joined(denoised, heard)
    for place in range(WIDTH):
        for token in set(tokens[0, place].tolist()):
            expected = probs[0, place][tokens[0, place] == token].sum()
            share = (drawn[:, place] == token).float().mean()
            assert abs(share - expected) < 0.01


def random_audio(batch, frames, vocab=9, width=5):
    generator = torch.Generator().manual_seed(batch)
    return (
        torch.randn(batch, frames, width, generator=generator),
        Head(torch.randn(vocab, width, generator=generator), 30.0),
    )


@pytest.mark.parametrize("logits_bytes", [1, 2**30])
def test_evidence_is_that_of_the_output_layer(logits_bytes, monkeypatch):
    monkeypatch.setattr(joint, "LOGITS_BYTES_PLAIN", logits_bytes)
    audio, head = random_audio(4, 7)
    frames = torch.tensor([7, 1, 3, 5])
    evidence = hear(audio, head, 4, 6, frames, count=3)
    logits = 30 * torch.tanh(audio @ head.weight.T / 30)
    expected = logits.log_softmax(dim=-1)
    for row, count in enumerate(frames.tolist()):
        tokens = evidence.tokens[row].tolist()
        assert not {4, 6} & set(tokens) and len(set(tokens)) == 3
        highest = expected[row, :count].amax(dim=0)
        highest[[4, 6]] = -torch.inf
        assert set(highest.topk(3).indices.tolist()) == set(tokens)
        torch.testing.assert_close(evidence.log_probs[row], expected[row][:, tokens])
        torch.testing.assert_close(evidence.blank[row], expected[row, :, 4])


def test_its_reading_is_that_of_greedy_ctc():
    audio, head = random_audio(20, 17)
    frames = torch.arange(20) % 17 + 1
    for row, reading in enumerate(hear(audio, head, 4, 6, frames, count=7).read()):
        pieces = read_pieces(audio[row], head, 4, 1.0, frames[row].item())
        # Ends of text are not among the evidence.
        if all(piece.token != 6 for piece in pieces):
            assert reading.tokens == [piece.token for piece in pieces]
            sure = [piece.probability for piece in pieces]
            assert reading.confidences == pytest.approx(sure, abs=1e-5)


def test_what_may_not_be_read_is_no_evidence():
    audio, head = random_audio(2, 5)
    allowed = torch.zeros(2, 9, dtype=torch.bool)
    allowed[0, [1, 2]] = True
    allowed[1, [3, 5, 7]] = True
    evidence = hear(audio, head, 4, 6, torch.tensor([5, 5]), count=3, allowed=allowed)
    assert {1, 2} < set(evidence.tokens[0].tolist())
    assert set(evidence.tokens[1].tolist()) == {3, 5, 7}
    forbidden = [token not in (1, 2) for token in evidence.tokens[0].tolist()]
    assert (evidence.log_probs[0][:, forbidden] == -torch.inf).all()
    assert set(evidence.read()[0].tokens) <= {1, 2}


@pytest.fixture
def searcher(random_model):
    searcher = DiffusionASR.from_hparams(random_model).mods.decoder
    searcher.configure(ctc_weight=1.5)
    return searcher


def audio_of(searcher, batch):
    generator = torch.Generator().manual_seed(5)
    shape = batch, searcher.prompt.num_frames, searcher.model.hidden_size
    return 3 * torch.randn(shape, generator=generator)


def texts(searcher, utterances, batch_size):
    found = searcher.stream(utterances, batch_size, steps=3)
    return {one.key: one.tokens for one in found}


SETTINGS = [
    {},
    {"start": "ctc"},
    {"noise": "audio"},
    {"candidates": 3},
    {"candidates": 3, "choose": "consensus"},
    {"candidates": 2, "readings": 3},
    {"start": "ctc", "ctc_weight": 0.0, "candidates": 2, "noise": "audio"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_texts_are_the_same_alone_in_a_batch_reversed_and_in_a_queue(searcher, settings):
    searcher.configure(**settings)
    searcher.window = 2.0
    utterances = [
        Utterance(one, key=key, language=language, seconds=seconds)
        for key, (one, language, seconds) in enumerate(
            zip(audio_of(searcher, 4), ["en", "de", None, "en"], [2.0, 0.3, 1.0, 2.0], strict=True)
        )
    ]
    alone = texts(searcher, utterances, 1)
    assert len(alone) == 4 and len({tuple(text) for text in alone.values()}) > 1
    assert texts(searcher, utterances, 16) == alone
    assert texts(searcher, utterances[::-1], 3) == alone


@pytest.mark.parametrize("settings", SETTINGS)
def test_fused_layers_say_what_transformers_says(searcher, settings):
    searcher.configure(**settings)
    utterances = [Utterance(one, key=key) for key, one in enumerate(audio_of(searcher, 3))]
    fused = texts(searcher, utterances, 3)
    searcher.fused = False
    assert texts(searcher, utterances, 3) == fused


def test_ctc_is_heard(searcher):
    """With a random denoiser, what CTC is sure of is what comes out."""
    head, blank = searcher.model.head, searcher.prompt.tokenizer.token_id("<|audio|>")
    said = [20, 31, 42, 20, 53]
    audio = torch.zeros(1, searcher.prompt.num_frames, searcher.model.hidden_size)
    frames = [blank] * audio.shape[1]
    frames[2:12:2] = said
    weight = head.weight / head.weight.norm(dim=1, keepdim=True)
    audio[0] = 40 * weight[frames] / head.weight.norm(dim=1).mean()
    searcher.configure(ctc_weight=4.0)
    (found,) = searcher.search(audio, steps=4)
    searcher.configure(ctc_weight=0.0)
    (alone,) = searcher.search(audio, steps=4)
    assert found.tokens == said != alone.tokens


def test_a_canvas_that_is_too_short_is_full_and_grows(searcher):
    """What CTC hears is not squeezed into the tokens that there are at first."""
    searcher.window, searcher.tokens_per_second = 2.0, 2.0
    searcher.sampler.canvas_length = 64
    audio = audio_of(searcher, 1)
    (short,) = searcher.search(audio, seconds=[2.0], steps=3)
    searcher.tokens_per_second = None
    (whole,) = searcher.search(audio, seconds=[2.0], steps=3)
    assert len(short.log_probs) > 16  # the first canvas had so many
    assert abs(len(short.tokens) - len(whole.tokens)) <= 3


def test_what_was_heard_stays_with_an_utterance_whose_canvas_grows(searcher, monkeypatch):
    """It is heard once, and nobody else is given it."""
    from speechbrain_diffasr.decoders import searcher as module

    searcher.window = 2.0
    searcher.sampler.canvas_length = 64
    generator = torch.Generator().manual_seed(3)
    shape = 12, searcher.prompt.num_frames, searcher.model.hidden_size
    audio = 3 * torch.randn(shape, generator=generator)

    def found(tokens_per_second, batch_size):
        searcher.tokens_per_second = tokens_per_second
        utterances = (Utterance(one, key=key, seconds=2.0) for key, one in enumerate(audio))
        return list(searcher.stream(utterances, batch_size, steps=2))

    heard = []
    hear_all = module.hear
    monkeypatch.setattr(
        module, "hear", lambda rows, *others: heard.append(len(rows)) or hear_all(rows, *others)
    )
    short = {one.key: one for one in found(2.0, 2)}
    assert sum(heard) == 12 and not searcher._heard
    # Some did not end on their first canvas, which had 16 tokens.
    assert any(len(one.log_probs) > 16 for one in short.values())
    widths = {key: len(one.log_probs) for key, one in short.items()}
    alone = {one.key: one for one in found(2.0, 1)}
    assert {key: one.tokens for key, one in alone.items()} == {
        key: one.tokens for key, one in short.items()
    }
    assert {key: len(one.log_probs) for key, one in alone.items()} == widths


def test_settings_are_checked_before_any_changes(searcher):
    before = searcher.settings()
    for settings, message in [
        ({"start": "ctx"}, "start: 'ctx' is unknown; expected noise or ctc or draft"),
        ({"candidates": 0}, "candidates: 0; expected 1 or more"),
        ({"ctc_weight": -1.0, "candidates": 3}, "ctc_weight: -1.0; expected 0 or more"),
        ({"choose": "consensus", "readings": 3}, "choose: consensus .* set readings to 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            searcher.configure(**settings)
    assert searcher.settings() == before
