"""What a batch is made of: folders with links in them, and lists."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from batches import run

from speechbrain_diffasr import AudioError
from speechbrain_diffasr.dataio.header import read_header
from speechbrain_diffasr.inference.manifest import read_manifest


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder):
    items = read_manifest(folder)
    for item in items:
        assert Path(item.path) == folder / item.name
    return [item.name for item in items]


def test_links_are_followed_once(tmp_path):
    top, outside, far = tmp_path / "top", tmp_path / "outside", tmp_path / "far"
    touch(top / "b" / "1.wav", outside / "2.WAV", outside / "sub" / "3.flac", far / "4.ogg")
    (top / "b" / "hard.wav").hardlink_to(top / "b" / "1.wav")
    (top / "a").symlink_to(outside)
    (top / "again").symlink_to(outside / "sub")
    (outside / "on").symlink_to(far)
    (top / "0.wav").symlink_to("b/1.wav")
    (top / "single.wav").symlink_to(tmp_path / "elsewhere.wav")
    touch(tmp_path / "elsewhere.wav")
    found = [os.path.relpath(os.path.realpath(item.path), tmp_path) for item in read_manifest(top)]
    expected = ["2.WAV", "sub/3.flac"]
    expected = [f"outside/{name}" for name in expected] + ["far/4.ogg", "elsewhere.wav"]
    assert sorted(found) == sorted([*expected, "top/b/1.wav", "top/b/hard.wav"])
    # What needs no link is called so.
    assert {"b/1.wav", "b/hard.wav", "a/2.WAV", "single.wav"} < set(names(top))
    # A folder that is itself a link.
    assert [os.path.basename(name) for name in names(top / "a")] == ["2.WAV", "4.ogg", "3.flac"]


def test_links_in_circles_end(tmp_path):
    touch(tmp_path / "top" / "a" / "1.wav", tmp_path / "beside.wav")
    for name, target in [("self", "."), ("up", ".."), ("loop", "loop"), ("none", "nowhere")]:
        (tmp_path / "top" / "a" / name).symlink_to(target)
    (tmp_path / "top" / "out").symlink_to(tmp_path)
    assert names(tmp_path / "top") == ["a/1.wav", "out/beside.wav"]
    # A link to nothing that is called audio fails by name, as it would in a list.
    (tmp_path / "top" / "b.wav").symlink_to("nowhere.wav")
    assert "b.wav" in names(tmp_path / "top")


def test_what_soundfile_cannot_read_is_told(model, tmp_path, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.full(999, 0.1), 16000)
    (folder / "phone.m4a").write_bytes(bytes(4) + b"ftypM4A " + bytes(99))
    assert run(folder, tmp_path / "out") == 1
    assert "phone.m4a: truncated or damaged MP4 or M4A (" in capfd.readouterr().err


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    """Root may read everything, so the refusal is simulated."""
    touch(tmp_path / "a.wav", tmp_path / "secret" / "b.wav")
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert names(tmp_path) == ["a.wav", "secret"]
    with pytest.raises(AudioError, match="secret: permission denied; make the folder readable"):
        read_header(str(tmp_path / "secret"))


def test_paths_of_a_list_are_its_own(tmp_path, monkeypatch):
    touch(tmp_path / "lists" / "1.wav", tmp_path / "lists" / "sub" / "2.wav")
    rows = f"wav\n1.wav\n$data_root/sub/2.wav\n{tmp_path}/lists/sub/../1.wav\n"
    (tmp_path / "lists" / "all.csv").write_text(rows)
    for folder, path in [(tmp_path, "lists/all.csv"), (tmp_path / "lists", "all.csv")]:
        monkeypatch.chdir(folder)
        for manifest in (path, folder / path):
            assert all(os.path.isfile(item.path) for item in read_manifest(manifest))
