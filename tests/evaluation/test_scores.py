"""What scores are made of: CSV files, normalizers, error rates, the audio of others."""

import functools
import json
import random
import unicodedata

import jiwer
import pytest
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)
from whisper_normalizer import english

from speechbrain_diffasr import cli
from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.evaluation import ErrorRates
from speechbrain_diffasr.evaluation.selection import mismatch
from speechbrain_diffasr.text import make_normalizer
from speechbrain_diffasr.utils.errors import CsvError

HINDI = "यह सही है, कैसे?"


# Normalizers


def test_whispers_normalizer_tears_hindi_words_and_ours_does_not():
    whisper, marks = make_normalizer("whisper"), make_normalizer("marks")
    assert marks(HINDI, "hi").split() == ["यह", "सही", "है", "कैसे"]
    assert len(whisper(HINDI, "hi").split()) > 4
    assert not [c for c in whisper(HINDI, "hi") if unicodedata.category(c)[0] == "M"]


def test_marks_keeps_all_marks_and_letters_and_no_punctuation():
    marks = make_normalizer("marks")
    compatible = functools.partial(unicodedata.normalize, "NFKC")
    for character in map(chr, range(0x20, 0x3000)):
        kind = unicodedata.category(character)
        text = marks(f"क{character}क")
        if character in "\u055b\u055c\u055e\u0640":
            assert text == "कक"  # Armenian signs on vowels, and the tatweel
        elif kind[0] in "PS":
            # NFKC takes a symbol such as ™ or ℃ apart into letters: it goes before that.
            assert text == "क क"
        elif all(unicodedata.category(c)[0] in "LMN" for c in compatible(character)):
            assert len(text.split()) == 1 and text != "कक"
        assert marks(text) == text
        # All but the dotless i of Turkish and its kind.
        if character.upper().lower() == character.lower():
            assert marks(character.upper()) == marks(character.lower())


@pytest.mark.parametrize(
    "text", ["Don't, [noise] Mr. GREY said: £20!", "  Ça va?  ", HINDI, "你好。"]
)
def test_whisper_is_what_transformers_has(text, tmp_path):
    path = tmp_path / "normalizer.json"
    path.write_text(json.dumps({"grey": "hue"}))
    own_table, normalizer = make_normalizer("whisper", path), make_normalizer("whisper")
    basic = BasicTextNormalizer()(text).strip()
    assert own_table(text, "en") == EnglishTextNormalizer({"grey": "hue"})(text).strip()
    assert normalizer(text, "hi") == normalizer(text, None) == basic
    split = BasicTextNormalizer(split_letters=True)(text)
    assert normalizer(text, "zh").split() == normalizer(text, "zh-TW").split() == split.split()


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("I won't.", "i will not"),
        ("Mr. Smith's colour", "mister smith's color"),
        ("twenty one grey theatres", "21 gray theaters"),
        ("she has £20 and three hundred organised files", "£20 and 300 organized files"),
        ("the nineteen eighties", "the 1980s"),
        ("um, you know, mm, it's half past ten", "it is half past 10"),
    ],
)
def test_english_is_scored_as_in_the_literature(said, written):
    """By the package that Whisper's normalizer was taken out into, which shares no code."""
    ours, theirs = make_normalizer("whisper"), english.EnglishTextNormalizer()
    for text in (said, written):
        assert ours(text, "en") == theirs(text).strip()
    assert ours(said, "en-GB") == ours(said, "en")


# Rates


def test_rates_are_those_of_jiwer():
    rng = random.Random(0)
    pairs = {"en": [], "zh": []}
    for words in pairs.values():
        for _ in range(30):
            reference = rng.choices(["a", "cat", "sat", "猫", "on"], k=rng.randint(1, 9))
            hypothesis = [w for w in reference if rng.random() > 0.2]
            hypothesis += rng.choices(["mat", "cat"], k=rng.randint(0, 2))
            words.append((" ".join(reference), " ".join(hypothesis)))
    rates = ErrorRates()
    for group, texts in pairs.items():
        for i, (reference, hypothesis) in enumerate(texts):
            rates.append([str(i)], [hypothesis], [reference], [group])
    for group, summary in rates.summarize().items():
        references, hypotheses = map(list, zip(*pairs[group], strict=True))
        words = jiwer.process_words(references, hypotheses)
        characters = jiwer.process_characters(
            [text.replace(" ", "") for text in references],
            [text.replace(" ", "") for text in hypotheses],
        )
        assert summary["wer"] == pytest.approx(100 * words.wer)
        assert summary["cer"] == pytest.approx(100 * characters.cer)
        # The split into kinds is not unique, insertions less deletions are.
        for errors, expected in (
            (summary["word_errors"], words),
            (summary["character_errors"], characters),
        ):
            edits = expected.insertions + expected.deletions + expected.substitutions
            assert sum(errors.values()) == edits
            surplus = errors["insertions"] - errors["deletions"]
            assert surplus == expected.insertions - expected.deletions
        assert rates.main_rate(group) == summary["cer" if group == "zh" else "wer"]


# Mismatched pairs


@pytest.mark.parametrize("seed", range(20))
def test_no_utterance_keeps_its_audio_its_text_or_its_language(seed):
    rng = random.Random(seed)
    rows = []
    for language in ("en", "de"):
        size = rng.randint(4, 30)
        texts = [f"{language} {rng.randrange(size)}" for _ in range(size)]
        rows += [{"lang": language, "wrd": text} for text in texts]
    for i, row in enumerate(rows):
        row |= {"ID": str(i), "wav": f"{i}.wav"}
    by_id = {row["ID"]: row for row in rows}
    pairs, skipped = mismatch(rows, seed)
    assert mismatch(rows, seed) == (pairs, skipped)
    for row in pairs:
        own, other = by_id[row["ID"]], by_id[row["audio_of"]]
        assert row["wav"] == other["wav"] != own["wav"]
        assert (row["wrd"], row["lang"]) == (own["wrd"], other["lang"])
        assert other["wrd"] != own["wrd"]
    assert len({row["wav"] for row in pairs}) == len(pairs)
    most = {
        language: max([r["wrd"] for r in rows if r["lang"] == language].count(r["wrd"])
                      for r in rows if r["lang"] == language)
        for language in ("en", "de")
    }  # fmt: skip
    if all(2 * most[lang] <= sum(r["lang"] == lang for r in rows) for lang in most):
        assert not skipped
    assert len(pairs) + len(skipped) == len(rows)


def test_other_seeds_give_other_pairs():
    rows = [{"ID": str(i), "wav": f"{i}.wav", "wrd": f"w{i}"} for i in range(30)]
    assert mismatch(rows, 0) != mismatch(rows, 1)


# CSV files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "the file is empty"),
        (b"ID,wav,wrd\n", "no utterances"),
        (b"ID,path,wrd\na,b,c\n", "no column wav; expected ID, wav, wrd and lang"),
        ("ID,wav,wrd\na,b,ç\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_bad_csv_gets_one_line_before_the_model_is_loaded(tmp_path, capfd, content, reason):
    path = tmp_path / "test.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CsvError, match=reason):
        read_rows(path)
    assert cli.main(["evaluate", "--csv", str(path), "--model", "no/model"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"diffasr: --csv: {path}: ")
    assert len(err.splitlines()) == 1


def test_a_csv_from_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("ID,wav,wrd\r\na,$data_root/a.wav,ça\r\n", encoding="utf-8-sig")
    assert read_rows(path, "data") == [{"ID": "a", "wav": "data/a.wav", "wrd": "ça"}]
