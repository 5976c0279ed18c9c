"""N-grams over tokens: by hand, whatever is dropped, and from a file."""

import math

import numpy as np
import pytest

from speechbrain_diffasr.decoders.ngram import TokenNGram

LINES = {"en": [[1, 2, 3], [1, 2, 3], [2, 1], [3]], "de": [[4, 2], [4, 3], [2, 4, 2]]}
VOCAB, END = 6, 0


def counted(order, least=None, lines=LINES):
    ngram = TokenNGram(order)
    ngram.count(lines, VOCAB, END, least)
    return ngram


def test_a_bigram_is_as_worked_out_by_hand():
    """Behind 1 stand 2 twice and the end once; 2 follows two different tokens of eight pairs."""
    # Different pairs: end-1, 1-2, 2-3, 3-end, end-2, 2-1, 1-end, end-3.
    lower = (2 - 0.75) / 8 + 0.75 * 4 / 8 * (1 / VOCAB)
    expected = (2 - 0.75) / 3 + 0.75 * 2 / 3 * lower
    (found,) = counted(2).log_probs("en", [(1,)], [2])
    assert math.exp(found) == pytest.approx(expected, rel=1e-6)
    # A context that was never seen says nothing.
    (found,) = counted(2).log_probs("en", [(5,)], [2])
    assert math.exp(found) == pytest.approx(lower, rel=1e-6)


@pytest.mark.parametrize("least", [None, [1, 1, 2, 2], [1, 2, 3, 9]])
@pytest.mark.parametrize("language", ["en", "de"])
def test_probabilities_add_up_to_one_however_many_are_dropped(least, language):
    ngram = counted(4, least)
    for context in ((0, 0, 0), (0, 1, 2), (1, 2, 3), (5, 5, 5), (2, 4, 2)):
        total = np.exp(ngram.log_probs(language, [context] * VOCAB, range(VOCAB))).sum()
        assert total == pytest.approx(1.0, abs=1e-6)


def test_a_language_says_the_same_whatever_others_there_are():
    both, alone = counted(3), counted(3, lines={"de": LINES["de"]})
    readings = [[4, 2], [], [5, 5], [2, 4, 2]]
    assert both.score("de", readings) == pytest.approx(alone.score("de", readings))
    assert both.score("de", readings) != pytest.approx(both.score("en", readings))
    assert both.guess_language([4, 2]) == "de" and both.guess_language([1, 2, 3]) == "en"


def test_a_line_is_worth_what_its_tokens_are():
    ngram = counted(3)
    (found,) = ngram.score("en", [[1, 2]])
    parts = ngram.log_probs("en", [(END, END), (END, 1), (1, 2)], [1, 2, END])
    assert found == pytest.approx(parts.sum())


def test_a_file_gives_the_same_within_its_16_bits(tmp_path):
    ngram, loaded = counted(4, [1, 1, 1, 2]), TokenNGram()
    path = tmp_path / "ngram.safetensors"
    ngram.save(path)
    loaded.load(path)
    assert (loaded.order, loaded.end, loaded.languages) == (4, END, ["en", "de"])
    readings = [[1, 2, 3], [5], []]
    assert loaded.score("en", readings) == pytest.approx(ngram.score("en", readings), abs=1e-2)
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_does_not_fit_into_its_numbers_is_refused():
    with pytest.raises(ValueError, match="order: 5 tokens of 262144"):
        TokenNGram(5).count({"en": [[1]]}, 262144, 0)
