"""Data preparation of recipes/CSV: one's own CSV files."""

import csv

import pytest
from miniature import (
    load_recipe,
    make_csv,
    noise,
    rows_of,
    sample_utterances,
    skipped_of,
    times_of,
    write_audio,
)

recipe = load_recipe("CSV")


def prepare(folder, output, **changes):
    return recipe.prepare_csv(folder, output, **{"progress": False, **changes})


@pytest.fixture
def corpus(tmp_path):
    utterances = [*sample_utterances("en", "de"), (noise(0.75), "Don't, PANIC!", "en")]
    return make_csv(tmp_path / "own", utterances)


def write_rows(path, *rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_recordings_are_measured_and_listed(corpus, tmp_path):
    assert prepare(corpus, tmp_path / "csv") == {"train": 5, "valid": 5, "test": 5}
    rows = rows_of(tmp_path / "csv", "valid")
    assert rows[-1] == {
        "ID": "en_4", "duration": "0.75", "wav": "$data_root/wavs/en_4.wav", "lang": "en",
        "voice": "", "wrd": "Don't, PANIC!",
    }  # fmt: skip
    samples = sample_utterances("en", "de")
    assert [(row["wrd"], row["lang"]) for row in rows[:-1]] == [item[1:] for item in samples]


def test_a_second_run_changes_nothing_and_a_changed_file_is_noticed(corpus, tmp_path):
    prepare(corpus, tmp_path / "csv")
    before = times_of(tmp_path)
    prepare(corpus, tmp_path / "csv")
    assert times_of(tmp_path) == before
    text = (corpus / "train.csv").read_text(encoding="utf-8")
    (corpus / "train.csv").write_text(text.replace("PANIC", "panic"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"made with other settings \(files: "):
        prepare(corpus, tmp_path / "csv")


def test_texts_are_normalized_if_asked(corpus, tmp_path):
    prepare(corpus, tmp_path / "csv", normalize=True)
    assert rows_of(tmp_path / "csv", "test")[-1]["wrd"] == "don't panic"


def test_paths_languages_and_speakers(corpus, tmp_path):
    lists = tmp_path / "lists"
    write_audio(lists / "near.wav", noise(0.5), "WAV")
    write_audio(corpus / "in.flac", noise(0.25), "FLAC")
    write_rows(
        lists / "mine.csv",
        ("wrd", "wav", "ID", "duration", "voice", "lang"),
        ("one", "near.wav", "a", "99", "anna", ""),
        ("two", "$data_root/in.flac", "b", "", "bela", "fr"),
        ("three", str(corpus / "in.flac"), "c", "", "", "sw"),
    )
    options = {"train_csv": lists / "mine.csv", "valid_csv": "", "test_csv": None, "lang": "it"}
    assert prepare(corpus, tmp_path / "csv", **options) == {"train": 3}
    rows = rows_of(tmp_path / "csv", "train")
    assert [tuple(row.values()) for row in rows] == [
        ("a", "0.5", str(lists / "near.wav"), "it", "anna", "one"),
        ("b", "0.25", "$data_root/in.flac", "fr", "bela", "two"),
        ("c", "0.25", "$data_root/in.flac", "sw", "", "three"),
    ]


def test_damaged_and_missing_recordings_are_left_out(corpus, tmp_path, caplog):
    damaged = corpus / "wavs" / "en_0.wav"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    (corpus / "wavs" / "de_3.wav").unlink()
    assert prepare(corpus, tmp_path / "csv")["train"] == 3
    skipped = skipped_of(tmp_path / "csv", "train")
    assert "truncated" in skipped["en_0"] and skipped["de_3"] == "no such file"
    assert "train: 2 of 5 clips left out" in caplog.text


HEADER = ("ID", "wav", "wrd", "lang")
ROW = ("a", "wavs/en_0.wav", "hello", "en")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("ID", "path", "wrd", "lang"), ROW], r"no column 'wav' in its first line \(ID,path,wrd"),
        ([("ID", "wav", "text"), ROW[:3]], "no column 'wrd'"),
        ([], r"no column 'ID' in its first line \(\)"),
        ([HEADER, ROW, ROW[:2]], "line 3 has 2 values, not 4"),
        ([HEADER, (*ROW, "more")], "line 2 has 5 values, not 4, for ID, wav, wrd, lang; put"),
        ([HEADER, ("", *ROW[1:])], "line 2 has nothing in the column 'ID'"),
        ([HEADER, ("a", "", "hello", "en")], "line 2 has nothing in the column 'wav'"),
        ([HEADER[:3], ROW[:3]], "line 2 has no language; add a column 'lang'"),
        ([HEADER, ("a", "$home/a.wav", "b", "en")], r"'\$home/a.wav' in the column 'wav'"),
        ([HEADER], r"for train \(the corpus lists none\)"),
    ],
)
def test_a_wrong_file_is_named_with_its_column_or_line(corpus, tmp_path, rows, message):
    write_rows(corpus / "train.csv", *rows)
    with pytest.raises(ValueError, match=message) as error:
        prepare(corpus, tmp_path / "csv")
    assert str(corpus) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_named(corpus, tmp_path):
    (corpus / "train.csv").write_bytes("ID,wav,wrd\na,b,caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train\.csv: not UTF-8"):
        prepare(corpus, tmp_path / "csv")


def test_spreadsheets_begin_with_a_byte_order_mark(corpus, tmp_path):
    content = (corpus / "train.csv").read_bytes()
    (corpus / "train.csv").write_bytes(b"\xef\xbb\xbf" + content)
    assert prepare(corpus, tmp_path / "csv")["train"] == 5


def test_one_s_own_files_are_not_taken_for_the_result(corpus, tmp_path):
    before = times_of(corpus)
    with pytest.raises(ValueError, match=r"output_folder: .*train.csv would be overwritten"):
        prepare(corpus, corpus)
    assert times_of(corpus) == before


def test_a_wrong_folder_is_one_sentence(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no file 'nothing\.csv'; expected CSV files"):
        prepare(corpus, tmp_path / "csv", valid_csv="nothing.csv")
    assert not (tmp_path / "csv").exists()
