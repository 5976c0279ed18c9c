"""Readings beside the canvas, and the choice among them."""

import itertools
import math

import pytest
import torch

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.decoders.candidates import (
    CandidateRanker,
    score_ctc,
    score_text,
)
from speechbrain_diffasr.decoders.ngram import TokenNGram
from speechbrain_diffasr.decoders.queueing import Utterance

BLANK = 2


def random_log_probs(seed, frames=4, vocab=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, vocab, generator=generator).log_softmax(dim=-1)


def all_readings(log_probs):
    """Log-likelihood of every reading, summed over its paths one by one."""
    frames, vocab = log_probs.shape
    scores = {}
    for path in itertools.product(range(vocab), repeat=frames):
        reading = tuple(token for token, _ in itertools.groupby(path) if token != BLANK)
        score = float(sum(log_probs[place, token] for place, token in enumerate(path)))
        old = scores.get(reading, -math.inf)
        scores[reading] = float(torch.logaddexp(torch.tensor(old), torch.tensor(score)))
    return scores


@pytest.mark.parametrize("seed", range(3))
def test_ctc_scores_are_sums_over_all_paths(seed):
    log_probs = random_log_probs(seed)
    scores = all_readings(log_probs)
    readings = list(scores)
    found = score_ctc(log_probs, [list(tokens) for tokens in readings], BLANK)
    assert found == pytest.approx([scores[tokens] for tokens in readings], abs=1e-4)
    assert score_ctc(log_probs, [[0, 0, 0], [0, BLANK], [1] * 9], BLANK) == [-math.inf] * 3


@pytest.fixture
def searcher(random_model):
    asr = DiffusionASR.from_hparams(random_model)
    asr.mods.decoder.readings = 6
    return asr.mods.decoder


def audio_of(searcher, batch):
    generator = torch.Generator().manual_seed(5)
    shape = batch, searcher.prompt.num_frames, searcher.model.hidden_size
    return 3 * torch.randn(shape, generator=generator)


def test_texts_are_scored_as_one_whole_sequence_each_would_be(searcher):
    """The prompt is read once, and what pads the shorter readings changes nothing."""
    model, end = searcher.model, searcher.prompt.tokenizer.eos_id
    embeddings, _ = searcher._embed([Utterance(None, language="en")], audio_of(searcher, 1))
    readings = [[20, 21, 22], [], [30], [20, 21, 22, 23, 24]]
    found = score_text(model, embeddings, readings, end, chunk_size=3)
    for tokens, log_probs in zip(readings, found, strict=True):
        text = torch.tensor([[*tokens, end]])
        hidden, _ = model.encode(torch.cat([embeddings, model.embed(text)], dim=1))
        logits = model.logits(hidden[:, embeddings.shape[1] - 1 : -1])
        expected = logits.log_softmax(dim=-1)[0].gather(1, text[0, :, None])[:, 0]
        torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def ngram(searcher):
    ngram = TokenNGram(order=3)
    lines = {"en": [[20, 21, 22]] * 3, "de": [[30, 31]]}
    ngram.count(lines, searcher.model.vocab_size, searcher.prompt.tokenizer.eos_id)
    return ngram


def test_where_nothing_is_read_the_end_alone_is_scored(searcher):
    model, end = searcher.model, searcher.prompt.tokenizer.eos_id
    embeddings = model.embed(torch.tensor([[2, 3, 4]]))
    (alone,) = score_text(model, embeddings, [[]], end, chunk_size=3)
    _, beside = score_text(model, embeddings, [[5, 6], []], end, chunk_size=3)
    assert alone.shape == beside.shape == (1,)
    torch.testing.assert_close(alone, beside)


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
def test_the_first_is_the_likeliest_by_the_sum_of_both(searcher, ctc_weight):
    tokenizer = searcher.prompt.tokenizer
    blank, end = tokenizer.token_id(searcher.prompt.slot_token), tokenizer.eos_id
    audio = audio_of(searcher, 1)
    embeddings, _ = searcher._embed([Utterance(None)], audio)
    rank = CandidateRanker(searcher.model, blank, end, 6, ctc_weight)
    found = rank(audio[0], embeddings, [[20, 21], [20] * 100])
    assert len(found) == 8 and len({tuple(one.tokens) for one in found}) == 8
    scores = [
        ctc_weight * one.ctc + (1 - ctc_weight) * float(one.log_probs.sum())
        for one in found
        if one.ctc > -math.inf
    ]
    assert scores == sorted(scores, reverse=True)
    assert all(len(one.log_probs) == len(one.tokens) + 1 for one in found)
    assert found[-1].tokens == [20] * 100 or ctc_weight == 0  # more tokens than frames


@pytest.mark.parametrize("language", ["en", "de", None, "fr"])
def test_n_grams_have_their_say_in_languages_that_they_have(searcher, ngram, language):
    tokenizer = searcher.prompt.tokenizer
    blank, end = tokenizer.token_id(searcher.prompt.slot_token), tokenizer.eos_id
    audio = audio_of(searcher, 1)
    embeddings, _ = searcher._embed([Utterance(None)], audio)
    rank = CandidateRanker(searcher.model, blank, end, 6, 0.6, ngram, 0.5, 2.0)
    found = rank(audio[0], embeddings, [[20, 21, 22], [30, 31]], language=language)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    texts = [one.tokens for one in found]
    if language == "fr":
        assert not any(one.ngram for one in found)
    elif language is not None:
        assert [one.ngram for one in found] == pytest.approx(ngram.score(language, texts))
    for one in found:
        expected = 0.6 * one.ctc + 0.4 * float(one.log_probs.sum())
        bonus = 0 if language == "fr" else 2 * len(one.tokens)
        assert one.score == pytest.approx(expected + 0.5 * one.ngram + bonus)
    if language == "fr":
        plain = CandidateRanker(searcher.model, blank, end, 6, 0.6)
        others = plain(audio[0], embeddings, [[20, 21, 22], [30, 31]])
        assert {tuple(one.tokens) for one in others} == set(map(tuple, texts))


def test_the_choice_is_the_same_alone_and_in_a_batch(searcher):
    audio = audio_of(searcher, 4)

    def found(batch_size):
        utterances = [Utterance(one, key=key) for key, one in enumerate(audio)]
        hypotheses = searcher.stream(utterances, batch_size, steps=2)
        return {one.key: one for one in hypotheses}

    alone, together = found(1), found(4)
    searcher.readings = 0
    canvases = found(4)
    for key, one in alone.items():
        assert one.tokens == together[key].tokens
        torch.testing.assert_close(one.log_probs, together[key].log_probs, atol=1e-4, rtol=1e-4)
        assert len(one.log_probs) == len(one.tokens) + 1
        assert one.steps == canvases[key].steps
    assert any(one.tokens != canvases[key].tokens for key, one in alone.items())


def test_a_canvas_that_both_find_likelier_stays(searcher):
    """CTC hears one text best, and it is on the canvas."""
    head, tokenizer = searcher.model.head, searcher.prompt.tokenizer
    audio = 50 * torch.nn.functional.normalize(head.weight[[20, 21, 20, 22]], dim=1)
    rows = torch.zeros(1, searcher.prompt.num_frames, searcher.model.hidden_size)
    rows[0, :4] = audio
    rank = CandidateRanker(
        searcher.model, tokenizer.token_id(searcher.prompt.slot_token), tokenizer.eos_id, 4, 1.0
    )
    embeddings, _ = searcher._embed([Utterance(None)], rows)
    best = rank(rows[0, :4], embeddings, [[20, 21, 20, 22]])[0]
    assert best.tokens == [20, 21, 20, 22]


def test_a_named_language_is_read_in_its_letters(searcher, monkeypatch):
    """The tokenizer's words are Latin; in Chinese CTC reads none of them, unnamed it reads them."""
    searcher.scripts = {"zh": ["CJK"], "de": ["LATIN"]}
    read, original = [], CandidateRanker.__call__

    def spy(rank, audio, prompt, readings, *others):
        found = original(rank, audio, prompt, readings, *others)
        read.append({tuple(one.tokens) for one in found} - set(map(tuple, readings)))
        return found

    monkeypatch.setattr(CandidateRanker, "__call__", spy)
    audio = audio_of(searcher, 1)[0]
    for language in ("zh", "de", None):
        list(searcher.stream([Utterance(audio, language=language)], steps=1))
    chinese, german, unnamed = read
    pieces = searcher.prompt.tokenizer.backend.convert_ids_to_tokens
    assert not any(letter.isalpha() for text in chinese for letter in "".join(pieces(list(text))))
    assert german == unnamed and any(len(text) > 5 for text in german)
