"""A batch that is killed again and again ends as one that was left alone, to the byte."""

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
from batches import outputs, write_wavs

from speechbrain_diffasr import AudioError, Segment, Transcript, shipped_model
from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.inference.batch import BatchJob
from speechbrain_diffasr.inference.manifest import read_manifest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX has them")

FILES = 120
KILLS = 12
RATE = 16000
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# Of a group that was not finished, all files are decoded again: small groups take less time.
OPTIONS = ["--format", "json", "--batch-size", "2"]
# Forks a process that knows all modules, for each line that it reads.
RUNNER = """
import os, sys, time
sys.path[:0] = {paths}
from fake_recognizer import Recognizer, cli
from speechbrain_diffasr.dataio import audio
from speechbrain_diffasr.inference import batch
from speechbrain_diffasr.transcripts import assembly as longform
from speechbrain_diffasr.transcripts import schema as transcript_json

class Unhurried(Recognizer):
    def stream_files(self, *args, **options):
        for result in super().stream_files(*args, **options):
            time.sleep(0.002)
            yield result

cli.common.load_model = lambda *args: Unhurried()
for line in sys.stdin:
    manifest, output = line.split()
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        args = ["transcribe", "--manifest", manifest, "--output", output, *{options}]
        os._exit(cli.main(args))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Run:
    """A run of which outputs can be waited for."""

    def __init__(self, output):
        self.output, self.done = output, count_outputs(output)

    def wait_until_it_decodes(self, files=1):
        """Until so many further files are done."""
        while count_outputs(self.output) < self.done + files:
            assert self.is_running()
            time.sleep(0.001)


class Forked(Run):
    """With the fake recognizer, in a fork of a process that has all loaded."""

    def __init__(self, runner, manifest, output):
        super().__init__(output)
        self.runner = runner
        print(manifest, output, file=runner.stdin, flush=True)
        self.pid = int(runner.stdout.readline())

    def is_running(self):
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        """Exit status, negative if it was killed."""
        return int(self.runner.stdout.readline())


class Command(Run):
    """With the shipped model."""

    def __init__(self, manifest, output):
        super().__init__(output)
        command = [sys.executable, "-m", "speechbrain_diffasr", "transcribe", *OPTIONS]
        paths = ["--manifest", str(manifest), "--output", str(output)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*command, *paths], cwd=ROOT, env=ENVIRONMENT, **quiet)
        self.kill, self.wait = self.process.kill, self.process.wait

    def is_running(self):
        return self.process.poll() is None


@pytest.fixture
def runner():
    paths = [str(Path(__file__).parents[1] / "helpers"), str(ROOT)]
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(paths=paths, options=OPTIONS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    yield process
    process.stdin.close()
    process.wait()


def count_outputs(folder):
    return len(list(folder.glob("*.wav.json")))


def kill_and_resume(start, folder, wait_for_moment):
    """Kills a run at each moment and lets the last one end; compares with one left alone."""
    run = start(folder / "whole")
    run.wait_until_it_decodes()
    begin = time.perf_counter()
    assert run.wait() == 1  # for the broken file
    duration = time.perf_counter() - begin
    output, done = folder / "killed", [0]
    for number in range(KILLS):
        run = start(output)
        wait_for_moment(run, number, duration)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        done.append(count_outputs(output))
    assert done == sorted(done)
    assert 0 < done[-1] < FILES and len(set(done)) > KILLS / 4  # else too early or too late
    assert start(output).wait() == 1
    whole = outputs(folder / "whole")
    assert len(whole) == FILES + 2
    assert outputs(output) == whole
    return done


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(runner, tmp_path):
    write_wavs(tmp_path / "in", FILES, length=8000)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    chance = random.Random(0)

    def wait_for_moment(run, number, duration):
        if number % 4:
            run.wait_until_it_decodes(files=chance.randint(0, 9))
        time.sleep(chance.uniform(0, duration / FILES))

    kill_and_resume(
        lambda output: Forked(runner, tmp_path / "in", output), tmp_path, wait_for_moment
    )


class Killed(BaseException):
    pass


def in_company(items):
    """Each file says what it was decoded with; those that cannot be decoded keep nobody company."""
    good = [item.name for item in items if "bad" not in item.name]
    for place, item in enumerate(items):
        if "bad" in item.name:
            yield place, AudioError(f"{item.name}: not audio")
        else:
            yield place, Transcript((Segment(0, 1, " ".join(good)),), 1.0, name="a.wav")


@pytest.mark.parametrize("seed", range(10))
def test_files_are_decoded_in_the_company_that_they_would_have_had(tmp_path, seed):
    """Wherever a run is cut, and whatever failed before."""
    chance = random.Random(seed)
    (tmp_path / "in").mkdir()
    for number in range(60):
        name = f"{number:02}{chance.choice(['', '', '', 'bad'])}.wav"
        length = chance.choice([1, 2, 3, 60]) * RATE // 100
        soundfile.write(tmp_path / "in" / name, np.full(length, 0.1), RATE)
    items = read_manifest(tmp_path / "in")

    def transcribe_all(folder, fewest, most):
        left = chance.randint(fewest, most)

        def cut(group):
            nonlocal left
            for result in in_company(group):
                left -= 1
                if left < 0:
                    raise Killed
                yield result

        with BatchJob(items, tmp_path / folder, "txt", {}) as batch:
            return batch.run(cut, group_seconds=0.2)

    transcribe_all("whole", 999, 999)
    kills = 0
    while True:
        try:
            transcribe_all("killed", 0, 25)
            break
        except Killed:
            kills += 1
    assert kills > 2
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "whole")
    companies = {path.read_text() for path in (tmp_path / "whole").glob("*.txt")}
    assert 5 < len(companies) < 30  # groups, neither one for all nor one for each


def write_speech(folder, count):
    """Pieces and joins of real utterances at many levels, some longer than the model hears."""
    folder.mkdir()
    chance = random.Random(0)
    samples = [
        load_audio(p).numpy()
        for p in sorted(Path(shipped_model("diffasr-tiny")).glob("samples/*.wav"))
    ]
    for number in range(count):
        parts = chance.choices(samples, k=6 if number % 20 == 0 else chance.choice([1, 1, 1, 2]))
        wave = np.concatenate(parts) * chance.uniform(0.05, 1.0)
        if number % 3 == 0:
            wave = wave[: int(len(wave) * chance.uniform(0.5, 1.0))]
        soundfile.write(folder / f"{number}.wav", wave, RATE)
    soundfile.write(folder / "7.wav", np.zeros(RATE), RATE)
    (folder / "broken.wav").write_bytes(b"RIFF")


@pytest.mark.slow
def test_killed_while_the_real_model_decodes(tmp_path, capsys):
    """The real command with the shipped model, killed once further files are done."""
    write_speech(tmp_path / "in", FILES)
    chance = random.Random(0)

    def wait_for_moment(run, number, duration):
        run.wait_until_it_decodes(files=chance.randint(1, 7))
        time.sleep(chance.uniform(0, duration / FILES))

    done = kill_and_resume(
        lambda output: Command(tmp_path / "in", output), tmp_path, wait_for_moment
    )
    with capsys.disabled():
        print(f"\nfiles done at each kill: {done[1:]}")
