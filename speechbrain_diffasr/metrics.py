"""Word and character error rates, per language, with SpeechBrain's own alignment."""

from speechbrain.utils.metric_stats import ErrorRateStats

# Languages written without spaces between words are scored by their characters.
CHARACTER_LANGUAGES = ("zh", "ja", "th", "yue")


class ErrorRates:
    """Collects hypotheses and gives WER and CER by group.

    Example
    -------
    >>> rates = ErrorRates()
    >>> rates.append(["a", "b"], ["the cat", "你好吗"], ["the hat", "你 好 吗"], ["en", "zh"])
    >>> summary = rates.summarize()
    >>> summary["en"]["wer"], round(summary["en"]["cer"], 1), summary["zh"]["cer"]
    (50.0, 16.7, 0.0)
    >>> rates.main_rate("zh"), rates.main_rate("en")
    (0.0, 50.0)
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
            By group: wer and cer in percent, the number of utterances, words and characters.
        """
        summary = {}
        for group in self.words:
            words = self.words[group].summarize()
            characters = self.characters[group].summarize()
            summary[group] = {
                "wer": words["WER"],
                "cer": characters["WER"],
                "utterances": words["num_scored_sents"],
                "words": words["num_scored_tokens"],
                "characters": characters["num_scored_tokens"],
            }
        return summary

    def main_rate(self, group):
        """CER in percent for languages written without spaces, WER for the others."""
        kind = "cer" if is_scored_by_characters(group) else "wer"
        return self.summarize()[group][kind]


def is_scored_by_characters(language):
    """Whether a language is written without spaces between words.

    Example
    -------
    >>> is_scored_by_characters("zh"), is_scored_by_characters("hi")
    (True, False)
    """
    return str(language).split("-")[0].split("_")[0] in CHARACTER_LANGUAGES


def _characters(text):
    """The characters of a text without its spaces."""
    return list("".join(text.split()))
