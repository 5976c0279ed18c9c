"""CTC with an n-gram: the search against all that there is to search, the n-gram by hand."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import ngram

LINES = [[1, 2, 3], [1, 2, 3], [2, 1], [3]]


class Indifferent:
    """A language model that likes every line alike."""

    end, order = 9, 3

    def log_prob(self, context, token):
        return 0.0


def best_labelling(log_probs, blank, taste):
    """By adding up every path: exponential, and certain."""
    frames, size = log_probs.shape
    sums = {}
    for path in itertools.product(range(size), repeat=frames):
        merged = [a for a, b in zip(path, (None, *path), strict=False) if a != b]
        line = tuple(token for token in merged if token != blank)
        value = math.exp(sum(log_probs[t, token].item() for t, token in enumerate(path)))
        sums[line] = sums.get(line, 0.0) + value
    return list(max(sums, key=lambda line: math.log(sums[line]) + taste(line)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_wide_search_finds_the_best_labelling(seed, weight):
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(5, 4, generator=generator).mul(2).log_softmax(-1)
    model = ngram.NGram(LINES, end=9, order=3) if weight else Indifferent()

    def taste(line):
        padded = (model.end, model.end, *line, model.end)
        return 0.5 * len(line) + weight * sum(
            model.log_prob(padded[place - 2 : place], padded[place])
            for place in range(2, len(padded))
        )

    found = ngram.search(log_probs, 0, model, weight, 0.5, beam=1000, tokens_per_frame=4)
    assert found == best_labelling(log_probs, 0, taste)


def test_probabilities_add_up_to_one_behind_any_context():
    model = ngram.NGram(LINES, end=9, order=3)
    for context in ((9, 9), (1, 2), (2, 3), (3, 3)):
        total = sum(math.exp(model.log_prob(context, token)) for token in (1, 2, 3, 9))
        assert total == pytest.approx(1.0)


def test_a_bigram_is_as_worked_out_by_hand():
    """Behind 1 stand 2 twice and the end once; 2 follows two different tokens of seven pairs."""
    model = ngram.NGram(LINES, end=9, order=2)
    lower = (2 - 0.75) / 8 + 0.75 * 4 / 8 * (1 / 4)
    assert math.exp(model.log_prob((1,), 2)) == pytest.approx((2 - 0.75) / 3 + 0.75 * 2 / 3 * lower)
    # Different pairs: 9-1, 1-2, 2-3, 3-9, 9-2, 2-1, 1-9, 9-3.
    assert model.totals[0][()] == 8
