"""Word and character error rates, per language, with SpeechBrain's own alignment."""

import numpy as np
from speechbrain.utils.metric_stats import ErrorRateStats

from speechbrain_diffasr.text.normalizers import is_scored_by_characters

# Of the bootstrap: draws, their seed, and the percentiles between which nineteen in twenty lie.
BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_SEED = 0
PERCENTILES = (2.5, 97.5)


class ErrorRates:
    """Collects hypotheses and gives WER and CER by group.

    Example
    -------
    >>> rates = ErrorRates()
    >>> rates.append(["a", "b"], ["the cat", "你好吗"], ["the hat", "你 好 吗"], ["en", "zh"])
    >>> summary = rates.summarize()
    >>> summary["en"]["wer"], round(summary["en"]["cer"], 1), summary["zh"]["cer"]
    (50.0, 16.7, 0.0)
    >>> summary["en"]["word_errors"]
    {'insertions': 0, 'deletions': 0, 'substitutions': 1}
    >>> rates.main_rate("zh"), rates.main_rate("en")
    (0.0, 50.0)
    >>> summary["en"]["wer_interval"]  # of a single utterance
    [50.0, 50.0]
    """

    def __init__(self):
        self.words = {}
        self.characters = {}

    def append(self, ids, hypotheses, references, groups):
        """Adds utterances.

        Arguments
        ---------
        ids : list of str
        hypotheses : list of str
        references : list of str
        groups : list of str
            Group of each, such as its language.
        """
        for name, hypothesis, reference, group in zip(
            ids, hypotheses, references, groups, strict=True
        ):
            for stats, split in ((self.words, str.split), (self.characters, _characters)):
                stats.setdefault(group, ErrorRateStats()).append(
                    [name], [split(hypothesis)], [split(reference)]
                )

    def summarize(self):
        """The rates of each group.

        Returns
        -------
        summary : dict
            By group: wer and cer in percent; wer_interval and cer_interval, between which they lie
            with 95 % confidence by `bootstrap`; the numbers of utterances, and of words and
            characters in their references; word_errors and character_errors, each with the
            numbers of insertions, deletions and substitutions.
        """
        summary = {}
        for group in self.words:
            words = self.words[group].summarize()
            characters = self.characters[group].summarize()
            summary[group] = {
                "wer": words["WER"],
                "cer": characters["WER"],
                "wer_interval": bootstrap(self.words[group].scores),
                "cer_interval": bootstrap(self.characters[group].scores),
                "utterances": words["num_scored_sents"],
                "words": words["num_scored_tokens"],
                "characters": characters["num_scored_tokens"],
                "word_errors": _errors(words),
                "character_errors": _errors(characters),
            }
        return summary

    def main_rate(self, group):
        """CER in percent for languages written without spaces, WER for the others."""
        return self.summarize()[group][main_kind(group)]

    def write_alignments(self, group, stream):
        """Writes how each utterance of a group aligns with its reference.

        Arguments
        ---------
        group : str
        stream : file
            Gets what `ErrorRateStats.write_stats` of SpeechBrain writes: of characters for
            languages written without spaces, of words for the others.
        """
        stats = self.words if main_kind(group) == "wer" else self.characters
        stats[group].write_stats(stream)


def bootstrap(scores):
    """How far an error rate would move with other utterances of the same kind.

    Utterances are drawn again, as many as there are, with replacement (Bisani and Ney, 2004:
    "Bootstrap estimates for confidence intervals in ASR performance evaluation").

    Arguments
    ---------
    scores : list of dict
        Of `ErrorRateStats`: num_edits and num_ref_tokens of each utterance.

    Returns
    -------
    interval : list of float
        Percent, in which 95 % of the draws lie; the same for the same scores.

    Example
    -------
    >>> scores = [{"num_edits": edits, "num_ref_tokens": 10} for edits in (0, 1, 2, 3) * 25]
    >>> low, high = bootstrap(scores)
    >>> 12 < low < 15 < high < 18
    True
    """
    edits, tokens = (
        np.array([score[kind] for score in scores]) for kind in ("num_edits", "num_ref_tokens")
    )
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = rng.integers(0, len(scores), (BOOTSTRAP_DRAWS, len(scores)))
    rates = 100 * edits[drawn].sum(axis=1) / np.maximum(tokens[drawn].sum(axis=1), 1)
    return [round(float(rate), 2) for rate in np.percentile(rates, PERCENTILES)]


def main_kind(language):
    """The rate by which a language is judged, `wer` or `cer`.

    Example
    -------
    >>> main_kind("zh"), main_kind("hi")
    ('cer', 'wer')
    """
    return "cer" if is_scored_by_characters(language) else "wer"


def unit_splitter(language):
    """What divides a text into the units by which a language is judged: words or characters.

    Example
    -------
    >>> unit_splitter("zh")("你 好"), unit_splitter("en")("so it")
    (['你', '好'], ['so', 'it'])
    """
    return _characters if main_kind(language) == "cer" else str.split


def _characters(text):
    """The characters of a text without its spaces."""
    return list("".join(text.split()))


def _errors(summary):
    return {kind: summary[kind] for kind in ("insertions", "deletions", "substitutions")}
