"""What `make demo` prints."""

import json
import subprocess
import sys

import pytest
from miniature import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "beside_reference.py"


@pytest.fixture
def show(tmp_path):
    """Runs the script on texts by file name, some of which have references."""

    def run(texts, references):
        for name, reference in references.items():
            (tmp_path / f"{name}.txt").write_text(reference, encoding="utf-8")
        heard = [{"path": str(tmp_path / f"{n}.wav"), "text": text} for n, text in texts.items()]
        done = subprocess.run(
            [sys.executable, SCRIPT],
            input=json.dumps(heard),
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        return done.stdout.splitlines()

    return run


def test_errors_are_counted_in_characters_and_files_without_reference_left_out(show):
    """One of four characters wrong, three that only case and punctuation tell apart, no text."""
    lines = show({"a": "abce", "b": "abc", "c": "x"}, {"a": "abcd", "b": "A, b C!"})
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[2:5]]
    assert cells[0] == ["a.wav", "abce", "abcd", "25.0"]
    assert cells[1] == ["b.wav", "abc", "A, b C!", "0.0"]
    assert cells[2][:3] == ["c.wav", "x", "(none)"]
    assert lines[-1] == "1 of 2 are right; CER 14.3 % of all"


def test_without_references_nothing_is_counted(show):
    assert show({"a": "x"}, {})[-1].split("|")[2].strip() == "(none)"
