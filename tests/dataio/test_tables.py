"""Tables: the exact number of fields, or a line that names file, line and reason."""

import csv
import gzip

import pytest

from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.dataio.tables import open_table, read_table
from speechbrain_diffasr.inference.manifest import read_manifest
from speechbrain_diffasr.utils.errors import CsvError, ManifestError

ROWS = [{"ID": "a", "wav": "a.wav", "wrd": "hello you"}, {"ID": "b", "wav": "b.wav", "wrd": "où"}]
COMMAS = "ID,wav,wrd\na,a.wav,hello you\nb,b.wav,où\n"
WAYS = {
    "plain": COMMAS.encode(),
    "byte order mark": COMMAS.encode("utf-8-sig"),
    "UTF-16": COMMAS.encode("utf-16"),
    "UTF-16, big": b"\xfe\xff" + COMMAS.encode("utf-16-be"),
    "UTF-16 without a mark": COMMAS.encode("utf-16-le"),
    "big UTF-16 without a mark": COMMAS.encode("utf-16-be"),
    "semicolons": COMMAS.replace(",", ";").encode(),
    "tabs": COMMAS.replace(",", "\t").encode(),
    "lines of Windows": COMMAS.replace("\n", "\r\n").encode(),
    "lines of an old Mac": COMMAS.replace("\n", "\r").encode(),
    "spaces in the header": COMMAS.replace("ID,wav,wrd", " ID , wav, wrd ").encode(),
    "spaces behind commas": COMMAS.replace(",", ", ").encode(),
    "quotes": b'"ID","wav","wrd"\n"a","a.wav","hello you"\n"b","b.wav","o\xc3\xb9"\n',
    "empty lines": COMMAS.replace("\n", "\n\n").encode(),
    "semicolons in UTF-16": COMMAS.replace(",", ";").encode("utf-16"),
    "no last line end": COMMAS.strip().encode(),
}


@pytest.mark.parametrize("way", WAYS)
def test_whichever_program_wrote_it(way, tmp_path):
    path = tmp_path / "test.csv"
    path.write_bytes(WAYS[way])
    with open_table(path) as rows:
        assert list(rows) == ROWS
    zipped = tmp_path / "test.csv.gz"
    zipped.write_bytes(gzip.compress(WAYS[way]))
    with open_table(zipped) as rows:
        assert list(rows) == ROWS
    assert [row["wrd"] for row in read_rows(path)] == ["hello you", "où"]
    assert [item.name for item in read_manifest(path)] == ["a", "b"]


def test_commas_stay_in_a_table_of_semicolons(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("ID;wav;wrd\na;a.wav;yes, no\n")
    assert read_rows(path)[0]["wrd"] == "yes, no"


HEAD = "ID,wav,wrd\n"
WRONG = {
    "a quote that swallows rows": (
        HEAD + 'a,a.wav,"hello\nb,b.wav,two\nc,c.wav,three" four\nd,d.wav,five\n',
        "line 2: a line break in the column 'wrd' (a quote that is not closed, up to line 4?)",
    ),
    "a quote that swallows all": (
        HEAD + 'a,a.wav,one\nb,b.wav,"two\nc,c.wav,three\n',
        "line 3: a line break in the column 'wrd' (a quote that is not closed, up to line 4?)",
    ),
    "a quote in the name": (
        HEAD + 'a,"a.wav,one\nb,b.wav,two\n',
        "a line break in the column 'wav'",
    ),
    "a text in two lines": (HEAD + 'a,a.wav,"one\r\ntwo"\n', "line 2: a line break in"),
    "a comma too many": (
        HEAD + "a,a.wav,yes, no\n",
        "line 2 has 4 values, not 3, for ID, wav, wrd",
    ),
    "a comma too few": (HEAD + "a,a.wav,yes\nb,b.wav\n", "line 3 has 2 values, not 3"),
    "behind an empty line": (HEAD + "\n\na,a.wav\n", "line 4 has 2 values, not 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_has_its_line(name, tmp_path):
    text, words = WRONG[name]
    path = tmp_path / "test.csv"
    path.write_bytes(text.encode())
    with pytest.raises(CsvError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    # A file can be called so, and what is wrong is then told otherwise.
    assert words in str(caught.value) or "'wav'" in words


def test_empty_cells_that_a_spreadsheet_left_are_none(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("ID,wav,wrd,,\na,a.wav,hello,,\nb,b.wav,you,,,,\n")
    assert [row["wrd"] for row in read_rows(path)] == ["hello", "you"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path\tsentence\na.mp3\tone\ttwo\n", "line 2 has 3 values, not 2"),
        ("path\tsentence\na.mp3\n", "line 2 has 1 values, not 2"),
    ],
)
def test_a_corpus_with_a_tab_in_a_field_is_not_read_on(text, words, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(text)
    with pytest.raises(CsvError) as caught:
        list(read_table(path, ["path", "sentence"]))
    assert words in str(caught.value) and "get the file again" in str(caught.value)


def test_a_quote_in_a_table_without_quotes_is_text(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text('path\tsentence\na.mp3\t"No\nb.mp3\tyes"\n')
    assert [row["sentence"] for row in read_table(path, ["path"])] == ['"No', 'yes"']


def test_what_csv_writes_is_read(tmp_path):
    path = tmp_path / "test.csv"
    texts = ['she said "no"', "a, b; c", "tab\there", " spaces "]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "wav", "wrd"])
        writer.writerows(
            [name, f"{name}.wav", text] for name, text in zip("abcd", texts, strict=True)
        )
    assert [row["wrd"].strip() for row in read_rows(path)] == [text.strip() for text in texts]
