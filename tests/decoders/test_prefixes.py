"""The search over CTC's prefixes, against everything that there is to search."""

import itertools
import math

import pytest
import torch

from speechbrain_diffasr.decoders.ngram import TokenNGram
from speechbrain_diffasr.decoders.prefixes import Taste, search_prefixes

BLANK, END = 2, 7


def random_log_probs(seed, frames=5, vocab=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, vocab, generator=generator).mul(2).log_softmax(dim=-1)


def all_readings(log_probs):
    """Log-likelihood of every reading, summed over its paths one by one."""
    frames, vocab = log_probs.shape
    sums = {}
    for path in itertools.product(range(vocab), repeat=frames):
        reading = tuple(token for token, _ in itertools.groupby(path) if token != BLANK)
        value = math.exp(sum(float(log_probs[place, token]) for place, token in enumerate(path)))
        sums[reading] = sums.get(reading, 0.0) + value
    return {reading: math.log(value) for reading, value in sums.items()}


@pytest.fixture(scope="module")
def taste():
    ngram = TokenNGram(order=3)
    ngram.count({"en": [[0, 1, 3], [0, 1, 3], [1, 0], [3]]}, vocab_size=8, end=END)
    return Taste(ngram, "en", weight=0.8, bonus=0.5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tasting", [False, True])
def test_a_wide_search_finds_the_best_of_all_readings(seed, tasting, taste):
    log_probs = random_log_probs(seed)
    scores = all_readings(log_probs)
    if tasting:
        worth = taste.ngram.score("en", list(scores))
        for reading, more in zip(list(scores), worth, strict=True):
            scores[reading] += taste.weight * more + taste.bonus * len(reading)
    best = sorted(scores, key=scores.get, reverse=True)
    found = search_prefixes(log_probs, BLANK, 2000, taste if tasting else None)
    assert [tuple(tokens) for tokens in found[:8]] == best[:8]


def test_it_returns_no_more_than_asked_for(taste):
    for count in (1, 3):
        assert len(search_prefixes(random_log_probs(0), BLANK, count, taste)) == count


def test_what_must_not_be_read_is_not(taste):
    log_probs = random_log_probs(1).clone()
    log_probs[:, 0] = -torch.inf
    readings = search_prefixes(log_probs, BLANK, 50, taste)
    assert len(readings) > 5 and not any(0 in reading for reading in readings)
    silent = torch.full((4, 4), -torch.inf)
    silent[:, BLANK] = 0.0
    assert search_prefixes(silent, BLANK, 5, taste) == [[]]
