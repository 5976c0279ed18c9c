"""Recordings in files of columns: no two share a name."""

import pytest

from speechbrain_diffasr.text.display import one_field
from speechbrain_diffasr.text.recordings import recording_name, recording_names
from speechbrain_diffasr.utils.paths import path_text


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.wav", "b.wav"], ["a", "b"]),
        (["mon/1.wav", "tue/1.wav"], ["mon_1", "tue_1"]),
        (["mon/1.wav", "tue/1.wav", "tue/2.wav"], ["mon_1", "tue_1", "2"]),
        (["x/mon/1.wav", "y/mon/1.wav"], ["x_mon_1", "y_mon_1"]),
        (["/x/mon/1.wav", "1.wav"], ["mon_1", "1"]),
        (["a.wav", "a.flac"], ["a_wav", "a_flac"]),
        (["mon/1.wav", "tue/1.wav", "mon_1.wav"], ["x", "x", "x"]),
        (["my call.wav", "my_call.wav"], ["my_call_1", "my_call_2"]),
        (["a.wav", "a.wav"], ["a", "a"]),
        (["v1.0/a.b.wav", "v1.1/a.b.wav"], ["v1.0_a.b", "v1.1_a.b"]),
        ([], []),
    ],
)
def test_names(paths, names):
    found = recording_names(paths)
    assert len(set(found)) == len(set(paths))
    assert not any(set(name) & set(' \t\n"') for name in found)
    if "x" not in names:
        assert found == names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my call.wav", "my_call"),
        ('a "quoted" name.wav', "a_'quoted'_name"),
        (";;comment.wav", "comment"),
        ("#hash.wav", "hash"),
        ("\t.wav", "_"),
        ("two\nlines.wav", "two_lines"),
    ],
)
def test_what_divides_columns_is_in_no_name(path, name):
    assert recording_name(path) == name


def test_a_name_is_one_field_whatever_it_holds():
    name = "a\tb\nc\r\u2028d\x85\udcc3 é"
    assert one_field(name) == "a\\tb\\nc\\r\\u2028d\\x85\udcc3 é"


def test_paths_are_the_bytes_of_their_names(monkeypatch):
    raw = "café.wav".encode()
    for encoding in ("latin-1", "ascii", "utf-8"):
        monkeypatch.setattr(
            "os.fsencode", lambda path, e=encoding: path.encode(e, "surrogateescape")
        )
        assert path_text(raw.decode(encoding, "surrogateescape")) == "café.wav"
