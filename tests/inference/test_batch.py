"""Batches of files: named apart, done once, with what failed listed."""

import csv
import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from batches import outputs, run, write_wavs
from fake_recognizer import cli

from speechbrain_diffasr.inference.batch import FAILURES, JOURNAL, BatchJob, BatchSummary
from speechbrain_diffasr.inference.manifest import Item, output_names, read_manifest
from speechbrain_diffasr.utils.errors import ManifestError


def test_nothing_is_done_twice(model, tmp_path, capfd):
    write_wavs(tmp_path / "in", 5)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert capfd.readouterr().out.startswith("5 files transcribed, 0.1 s of audio, RTFx ")
    before = outputs(tmp_path / "out")
    assert set(before) == {JOURNAL, FAILURES, *(f"{n}.wav.txt" for n in range(5))}
    assert run(tmp_path / "in", tmp_path / "out") == 0
    out, err = capfd.readouterr()
    assert out.startswith("0 files transcribed (5 more were done before), ") and err == ""
    assert [count for count, *_ in model.asked] == [5]
    assert outputs(tmp_path / "out") == before
    # One is changed, one is new, one output is gone.
    soundfile.write(tmp_path / "in" / "2.wav", np.full(999, 0.5), 16000)
    soundfile.write(tmp_path / "in" / "new.wav", np.full(999, 0.1), 16000)
    (tmp_path / "out" / "4.wav.txt").unlink()
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert model.asked[-1][0] == 3
    assert (tmp_path / "out" / "2.wav.txt").read_text(encoding="utf-8") == "स्तर 5\n"


@pytest.mark.parametrize(
    "files, seconds, beginning",
    [
        (1, 12.34, "1 file transcribed, 12.3 s of audio, RTFx 1.2, "),
        (2, 90, "2 files transcribed, 1.5 min of audio, RTFx 9.0, "),
        (0, 0, "0 files transcribed, 0.0 s of audio, RTFx 0.0, "),
        (9, 5400, "9 files transcribed, 1.50 h of audio, RTFx 540.0, "),
    ],
)
def test_the_summary_has_units_that_fit(files, seconds, beginning):
    summary = BatchSummary(
        files=files, done_before=0, failures=0, hours=seconds / 3600, seconds=10.0
    )
    assert str(summary).startswith(beginning)


def test_failures_are_listed_and_tried_again(model, tmp_path, capfd):
    write_wavs(tmp_path / "in", 2)
    (tmp_path / "in" / "bad.wav").write_bytes(b"")
    (tmp_path / "in" / "evil\nname.wav").write_bytes(b"PK\x03\x04")
    assert run(tmp_path / "in", tmp_path / "out") == 1
    out, err = capfd.readouterr()
    assert out.startswith("2 files transcribed, ") and "2 failed, listed in " in out
    assert len(err.splitlines()) == 2
    with open(tmp_path / "out" / FAILURES, encoding="utf-8", newline="") as file:
        rows = {row["ID"]: row["reason"] for row in csv.DictReader(file)}
    assert set(rows) == {"bad.wav", "evil\nname.wav"}
    assert "the file is empty" in rows["bad.wav"]
    soundfile.write(tmp_path / "in" / "bad.wav", np.full(999, 0.1), 16000)
    assert run(tmp_path / "in", tmp_path / "out") == 1
    assert "1 file transcribed (2 more were done before)" in capfd.readouterr().out
    assert len((tmp_path / "out" / FAILURES).read_text().splitlines()) < 5


def test_ctrl_c_keeps_what_is_done(model, tmp_path, monkeypatch):
    write_wavs(tmp_path / "in", 4)
    hear = model.stream_files

    def interrupted(*args, **options):
        results = hear(*args, **options)
        yield next(results)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "stream_files", interrupted)
        assert run(tmp_path / "in", tmp_path / "out") == 130
    before = outputs(tmp_path / "out")
    (done,) = (tmp_path / "out").glob("*.txt")
    written = done.stat().st_mtime_ns
    assert run(tmp_path / "in", tmp_path / "out") == 0
    # All that was decoded together is decoded again, but what is there is not written again.
    assert [count for count, *_ in model.asked] == [4, 4]
    assert done.stat().st_mtime_ns == written and done.read_bytes() == before[done.name]
    assert len(list((tmp_path / "out").glob("*.txt"))) == 4


def test_a_csv_file_names_paths_ids_and_languages(model, tmp_path):
    write_wavs(tmp_path / "in", 2)
    rows = "ID,wav,lang\ntalk/1,in/0.wav,hi\ntalk/2,$data_root/in/1.wav,\n"
    (tmp_path / "list.csv").write_text(rows)
    assert run(tmp_path / "list.csv", tmp_path / "out", "--format", "ctm") == 0
    assert {"talk%2F1.ctm", "talk%2F2.ctm"} < set(outputs(tmp_path / "out"))
    assert model.asked[0][1] == ["hi", None]


def test_names_cannot_collide(tmp_path):
    names = ["a/b", "a%2Fb", "a_b", "A_B", "e\u0301", "\u00e9", "x" * 300, "x" * 301, "..", "a\nb"]
    names += [os.fsdecode(b"\xff"), "字" * 99]
    found = output_names(names, "txt")
    assert len({name.casefold() for name in found}) == len(names)
    for name in found:
        assert "/" not in name
        (tmp_path / name).touch(exist_ok=False)
    assert output_names(names[::-1], "txt") == found[::-1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ID,wav\na,1.wav\na,2.wav\n", "'a' is listed twice"),
        ("ID,wav\na,\n", "line 2: no path"),
        ("ID,wav\n", "lists no files"),
        ("ID,file\na,b\n", "no column 'wav'"),
    ],
)
def test_a_wrong_manifest_gets_one_line(tmp_path, text, reason):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ManifestError, match=reason) as caught:
        read_manifest(tmp_path / "list.csv")
    assert "\n" not in str(caught.value)
    with pytest.raises(ManifestError, match="no audio files in this folder"):
        read_manifest(tmp_path)


def test_other_settings_and_a_second_run_are_refused(model, tmp_path, capfd):
    write_wavs(tmp_path / "in", 2)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert run(tmp_path / "in", tmp_path / "out", "--steps", "3") == 2
    assert "steps None, now 3" in capfd.readouterr().err
    with BatchJob([Item("a", "a.wav")], tmp_path / "other", "txt", {}):
        assert run(tmp_path / "in", tmp_path / "other") == 2
    assert "another run writes to this folder" in capfd.readouterr().err
    (tmp_path / "file").touch()
    assert run(tmp_path / "in", tmp_path / "file") == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    (tmp_path / "list.csv").write_text("wav,lang\nin/0.wav,xx\n")
    assert run(tmp_path / "list.csv", tmp_path / "new") == 2
    assert "unknown language 'xx'; the model knows en, hi" in capfd.readouterr().err


def write_named(folder, *names, level=0.3):
    folder.mkdir()
    for name in names:
        soundfile.write(folder / name, np.full(999, level), 16000)


def test_no_transcript_of_another_recording_is_replaced(model, tmp_path, capfd):
    """Two folders into one: what differs in name goes together, what does not is refused."""
    write_named(tmp_path / "monday", "1.wav", "2.wav")
    write_named(tmp_path / "tuesday", "2.wav", "3.wav", level=0.5)
    write_named(tmp_path / "wednesday", "4.wav")
    out = tmp_path / "out"
    assert run(tmp_path / "monday", out) == 0
    before = outputs(out)
    assert run(tmp_path / "tuesday", out) == 2
    error = capfd.readouterr().err
    assert f"2.wav.txt is the transcript of {tmp_path / 'monday' / '2.wav'}, not of " in error
    assert len(error.splitlines()) == 1 and outputs(out) == before
    assert run(tmp_path / "wednesday", out) == 0
    # Which the journal still knows after another folder was done.
    assert run(tmp_path / "tuesday", out) == 2
    # The same recording by another path, or at another place, is the same.
    (tmp_path / "link").symlink_to(tmp_path / "monday")
    asked = len(model.asked)
    assert run(tmp_path / "link", out) == 0
    (tmp_path / "monday").rename(tmp_path / "archive")
    assert run(tmp_path / "archive", out) == 0
    assert len(model.asked) == asked


def test_files_that_no_journal_knows_are_left_alone(model, tmp_path, capfd):
    write_named(tmp_path / "in", "1.wav")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.wav.txt").write_text("written by hand")
    for _ in range(2):
        assert run(tmp_path / "in", tmp_path / "out") == 2
        assert "1.wav.txt is there already" in capfd.readouterr().err
        assert (tmp_path / "out" / "1.wav.txt").read_text() == "written by hand"


def test_settings_bind_only_what_is_done(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.wav").write_bytes(b"")
    assert run(tmp_path / "in", tmp_path / "out", "--steps", "3") == 1
    soundfile.write(tmp_path / "in" / "1.wav", np.full(999, 0.1), 16000)
    assert run(tmp_path / "in", tmp_path / "out", "--steps", "4") == 0
    assert run(tmp_path / "in", tmp_path / "out", "--steps", "3") == 2


def test_audio_that_is_gone_is_still_done(model, tmp_path):
    write_named(tmp_path / "in", "1.wav", "2.wav")
    (tmp_path / "list.csv").write_text("wav\nin/1.wav\nin/2.wav\n")
    assert run(tmp_path / "list.csv", tmp_path / "out") == 0
    (tmp_path / "in" / "1.wav").unlink()
    assert run(tmp_path / "list.csv", tmp_path / "out") == 0
    (tmp_path / "out" / "in%2F1.wav.txt").unlink()
    assert run(tmp_path / "list.csv", tmp_path / "out") == 1


@pytest.mark.parametrize("junk", [b"123\n[]\n", b"\0\0\xff\n", b'{"output": "1.wav.t'])
def test_a_damaged_journal_stops_nothing(model, tmp_path, junk):
    write_named(tmp_path / "in", "1.wav", "2.wav")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    before = outputs(tmp_path / "out")
    with open(tmp_path / "out" / JOURNAL, "ab") as file:
        file.write(junk)
    (tmp_path / "out" / "2.wav.txt").unlink()
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert outputs(tmp_path / "out") == before


FULL = """
import resource, sys
import torch.distributed.nn  # older ones write a temporary file when they are imported
sys.path[:0] = {paths}
from fake_recognizer import Recognizer, cli
cli.common.load_model = lambda *args: Recognizer()
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(cli.main(["transcribe", "--manifest", "in", "--output", "out", "--format", "json"]))
"""


@pytest.mark.parametrize("limit", [0, 300, 2000])
def test_a_full_disk_gets_one_line_and_loses_nothing(model, tmp_path, monkeypatch, limit):
    """A limit on the size of files ends writes where a full disk would."""
    write_named(tmp_path / "in", *(f"{number}.wav" for number in range(30)))
    monkeypatch.chdir(tmp_path)
    assert run("in", "whole", "--format", "json") == 0
    paths = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", FULL.format(paths=paths, limit=limit)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("diffasr: --output: out") and "(File too large)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert 0 < len(list((tmp_path / "out").glob("*.json"))) < 30 or limit < 2000
    assert run("in", "out", "--format", "json") == 0
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_a_folder_that_cannot_be_used_is_told_before_the_model_loads(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cli.common, "load_model", lambda *args: pytest.fail("loaded"))
    write_named(tmp_path / "in", "1.wav")
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "in it", "/proc/none"):
        assert run(tmp_path / "in", folder) == 2
        error = capfd.readouterr().err
        assert error.startswith("diffasr: --output: ") and len(error.splitlines()) == 1


def test_what_a_killed_run_left_goes_even_if_it_had_the_same_number(model, tmp_path):
    """As in a container, where every run may be process 1."""
    write_named(tmp_path / "in", "1.wav")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".diffasr-{os.getpid()}-9999.tmp").touch()
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert set(outputs(tmp_path / "out")) == {JOURNAL, FAILURES, "1.wav.txt"}


def test_a_file_system_without_locks_will_do(model, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_named(tmp_path / "in", "1.wav")
    assert run(tmp_path / "in", tmp_path / "out") == 0


def test_a_lock_on_a_journal_that_was_replaced_is_none(tmp_path):
    """The run that has replaced it was the last to hold the lock."""
    (tmp_path / "new").touch()
    path = tmp_path / JOURNAL
    path.touch()
    lock = fcntl.flock

    def replace_first(handle, how):
        if (tmp_path / "new").exists():
            (tmp_path / "new").replace(path)
        lock(handle, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", replace_first)
        with BatchJob([], tmp_path, "txt", {}):
            patch.undo()
            with (
                pytest.raises(ManifestError, match="another run"),
                BatchJob([], tmp_path, "txt", {}),
            ):
                pass


def test_turns_of_another_recording_are_not_taken_the_second_time(model, tmp_path, capfd):
    """What is alone in a later run was not alone in the batch."""
    write_named(tmp_path / "in", "1.wav", "2.wav")
    (tmp_path / "1.rttm").write_text("SPEAKER 1 0 0 0.1 <NA> <NA> anna <NA> <NA>\n")
    for _ in range(2):
        assert run(tmp_path / "in", tmp_path / "out", "--rttm", str(tmp_path / "1.rttm")) == 1
        assert "2.wav: " in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "out").glob("*.txt")] == ["1.wav.txt"]


def test_names_cannot_steer_a_terminal(model, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "\x1b[2J.wav").write_bytes(b"")
    assert run(tmp_path / "in", tmp_path / "out") == 1
    assert cli.main(["transcribe", str(tmp_path / "in" / "\x1b[2J.wav")]) == 1
    err = capfd.readouterr().err
    assert "\x1b" not in err and err.count("[2J.wav: the file is empty") == 2
