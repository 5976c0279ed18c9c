"""The benchmark of words to expect: which are listed, and what is counted."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import keywords

from speechbrain_diffasr import shipped_model
from speechbrain_diffasr.lobes.tokenizer import Tokenizer

REFERENCES = [
    ["the", "sheriff", "spoke", "twice"],
    ["nobody", "spoke", "of", "anna", "o'clock"],
    ["łódźki", "twice", "again", "again"],
]


def test_listed_are_long_words_that_occur_once():
    assert keywords.choose_words(REFERENCES, 100) == ["nobody", "sheriff", "łódźki"]
    assert keywords.choose_words(REFERENCES, 100, can_spell=str.isascii) == ["nobody", "sheriff"]
    assert keywords.choose_words(REFERENCES, 100, spoken=[["sheriff"]]) == ["nobody", "łódźki"]


def test_a_choice_among_them_depends_on_the_seed_only():
    references = [[f"word{letter}" for letter in "abcdefghij"]]
    choices = [keywords.choose_words(references, 3, seed) for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]
    assert all(len(words) == 3 for words in choices)


def test_words_are_counted_as_often_as_they_are_said_and_heard():
    references = [["anna", "and", "bob"], ["anna", "anna"], ["carla"]]
    texts = [["anna", "and", "rob"], ["anna"], ["carla", "carla", "bob", "dora"]]
    assert keywords.count_words(["anna", "bob", "carla"], references, texts) == (5, 3, 2)
    assert keywords.count_words([], references, texts) == (0, 0, 0)


MARKS = str.maketrans("", "", ".,!")


class Recognizer:
    """Hears what is said but its long words, unless they are expected, and some that are not."""

    def __init__(self, rows):
        self.texts = {row["wav"]: row["wrd"].lower().translate(MARKS) for row in rows}
        self.tokenizer = Tokenizer()
        self.tokenizer.load(Path(shipped_model("diffasr-base")) / "tokenizer.json")
        self.asked = []

    def transcribe_files(self, paths, language, batch_size, keywords=()):
        self.asked.append((paths, list(keywords)))
        heard = [
            [word for word in self.texts[path].split() if len(word) < 5 or word in keywords]
            for path in paths
        ]
        return [" ".join([*words, *keywords[:1]]) for words in heard]


def test_recall_and_false_alarms_are_those_of_the_transcripts():
    rows = [
        {"wav": "a.wav", "wrd": "The SHERIFF spoke."},
        {"wav": "b.wav", "wrd": "Nobody knew the general."},
        {"wav": "c.wav", "wrd": "Yes, of course!"},
    ]
    asr = Recognizer(rows)
    row = keywords.measure(asr, rows, "en", count=100, seed=0, batch_size=2)
    assert (row["utterances"], row["listed"], row["said"]) == (3, 5, 5)
    assert (row["recall_without"], row["recall"]) == (0.0, 1.0)
    # One in each utterance, though no listed word is said.
    assert (row["false_alarms_without"], row["false_alarms"]) == (0, 3)
    assert asr.asked == [
        (["a.wav", "b.wav", "c.wav"], []),
        (["a.wav", "b.wav", "c.wav"], ["course", "general", "nobody", "sheriff", "spoke"]),
        (["a.wav", "c.wav"], ["general", "nobody"]),
        (["b.wav"], ["course", "sheriff", "spoke"]),
    ]


@pytest.mark.parametrize("option", ["--words", "--batch_size"])
def test_numbers_that_cannot_be_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        keywords.main(["--csv", "valid.csv", option, "0"])
    assert f"{option}: 0 is not 1 or more" in capsys.readouterr().err
