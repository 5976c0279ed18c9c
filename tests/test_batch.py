"""Batches of files: named apart, resumed after any end, with what failed listed."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_cli import Recognizer, cli

from speechbrain_diffasr.batch import (
    FAILURES,
    JOURNAL,
    Batch,
    BatchError,
    Item,
    output_names,
    read_manifest,
)

FILES = 200
KILLS = 20
# Forks a process that knows all modules, for each line that it reads.
RUNNER = """
import os, sys, time
sys.path[:0] = {paths}
from test_cli import Recognizer, cli
from speechbrain_diffasr import audio, batch, longform, transcript_json

class Unhurried(Recognizer):
    def stream_files(self, *args, **options):
        os.write(told, b"go\\n")
        for result in super().stream_files(*args, **options):
            time.sleep(0.002)
            yield result

cli.load_model = lambda *args: Unhurried()
told = os.dup(1)
for line in sys.stdin:
    manifest, output = line.split()
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        args = ["transcribe", "--manifest", manifest, "--output", output, "--format", "json"]
        os._exit(cli.main(args))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def write_wavs(folder, count):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        soundfile.write(folder / f"{number}.wav", np.full(160 + number, 0.3), 16000)


def outputs(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def model(monkeypatch):
    recognizer = Recognizer()
    monkeypatch.setattr(cli, "load_model", lambda source, device, verbose: recognizer)
    return recognizer


def run(manifest, output, *options):
    return cli.main(["transcribe", "--manifest", str(manifest), "--output", str(output), *options])


@pytest.fixture
def runner():
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(paths=paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    yield process
    process.stdin.close()
    process.wait()


def start(runner, manifest, output, wait=True):
    """Process of a new run, which decodes if it was waited for."""
    print(manifest, output, file=runner.stdin, flush=True)
    pid = int(runner.stdout.readline())
    if wait:
        assert runner.stdout.readline() == "go\n"
    return pid


def ended(runner):
    """Exit status of the run, negative if it was killed."""
    return int(next(line for line in runner.stdout if line != "go\n"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX has them")
def test_killed_at_random_moments_and_resumed(runner, tmp_path):
    write_wavs(tmp_path / "in", FILES)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    start(runner, tmp_path / "in", tmp_path / "whole")
    begin = time.perf_counter()
    assert ended(runner) == 1
    duration = time.perf_counter() - begin

    chance, killed, done = random.Random(0), 0, [0]
    for number in range(KILLS):
        pid = start(runner, tmp_path / "in", tmp_path / "killed", wait=number % 4)
        time.sleep(chance.uniform(0, duration / KILLS))
        os.kill(pid, signal.SIGKILL)
        killed += ended(runner) == -signal.SIGKILL
        done.append(len(list((tmp_path / "killed").glob("*.wav.json"))))
    assert killed == KILLS
    assert done == sorted(done)
    assert 0 < done[-1] < FILES and len(set(done)) > KILLS / 4  # else too early or too late
    start(runner, tmp_path / "in", tmp_path / "killed")
    assert ended(runner) == 1
    whole = outputs(tmp_path / "whole")
    assert len(whole) == FILES + 2
    assert outputs(tmp_path / "killed") == whole


def test_nothing_is_done_twice(model, tmp_path, capfd):
    write_wavs(tmp_path / "in", 5)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert capfd.readouterr().out.startswith("5 files transcribed, 0.000 h of audio, RTFx ")
    before = outputs(tmp_path / "out")
    assert set(before) == {JOURNAL, FAILURES, *(f"{n}.wav.txt" for n in range(5))}
    assert run(tmp_path / "in", tmp_path / "out") == 0
    out, err = capfd.readouterr()
    assert out.startswith("0 files transcribed (5 more were done before), ") and err == ""
    assert [count for count, *_ in model.asked] == [5, 0]
    assert outputs(tmp_path / "out") == before
    # One is changed, one is new, one output is gone.
    soundfile.write(tmp_path / "in" / "2.wav", np.full(999, 0.5), 16000)
    soundfile.write(tmp_path / "in" / "new.wav", np.full(999, 0.1), 16000)
    (tmp_path / "out" / "4.wav.txt").unlink()
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert model.asked[-1][0] == 3
    assert (tmp_path / "out" / "2.wav.txt").read_text(encoding="utf-8") == "स्तर 5\n"


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
    assert "1 files transcribed (2 more were done before)" in capfd.readouterr().out
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
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert [count for count, *_ in model.asked] == [4, 3]


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
    with pytest.raises(BatchError, match=reason) as caught:
        read_manifest(tmp_path / "list.csv")
    assert "\n" not in str(caught.value)
    with pytest.raises(BatchError, match="no audio files in this folder"):
        read_manifest(tmp_path)


def test_other_settings_and_a_second_run_are_refused(model, tmp_path, capfd):
    write_wavs(tmp_path / "in", 2)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert run(tmp_path / "in", tmp_path / "out", "--steps", "3") == 2
    assert "steps None, now 3" in capfd.readouterr().err
    with Batch([Item("a", "a.wav")], tmp_path / "other", "txt", {}):
        assert run(tmp_path / "in", tmp_path / "other") == 2
    assert "another run writes to this folder" in capfd.readouterr().err
    (tmp_path / "file").touch()
    assert run(tmp_path / "in", tmp_path / "file") == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    (tmp_path / "list.csv").write_text("wav,lang\nin/0.wav,xx\n")
    assert run(tmp_path / "list.csv", tmp_path / "new") == 2
    assert "unknown language 'xx'; the model knows en, hi" in capfd.readouterr().err
