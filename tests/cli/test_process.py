"""The command line as a process: help, pipes, and what the interface says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_recognizer import cli, transcribe

MODEL = Path(__file__).parents[2] / "pretrained" / "diffasr-tiny"
PATHS = [str(MODEL.parents[1]), str(Path(__file__).parents[1] / "helpers")]
FAKE = """
import sys; sys.path[:0] = {paths}
from fake_recognizer import Recognizer, cli
cli.common.load_model = lambda *args: Recognizer()
sys.exit(cli.main(["transcribe", *{options}]))
"""


def write_waves(folder):
    for name in ("1.wav", "2.wav"):
        soundfile.write(folder / name, np.full(1600, 0.1), 16000)
    return folder


def run_python(code, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **kwargs
    )


def test_help_teaches_without_loading_torch():
    code = (
        "import sys; from speechbrain_diffasr.cli import main\n"
        "try: main(['transcribe', '--help'])\n"
        "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
    )
    process = run_python(code, stdout=subprocess.PIPE, cwd=MODEL.parents[1])
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    for word in ["examples:", "--batch-size", "[default: 8]", "seconds", "exit status"]:
        assert word in out


def test_help_fits_a_terminal_of_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        transcribe("--help")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is full")
@pytest.mark.parametrize("options", [["1.wav"], ["1.wav", "2.wav", "--format", "json"]])
def test_a_full_stdout_gets_one_line(tmp_path, options):
    with open("/dev/full", "w") as full:
        process = run_python(
            FAKE.format(paths=PATHS, options=options), stdout=full, cwd=write_waves(tmp_path)
        )
        assert process.communicate()[1] == (
            "diffasr: stdout cannot be written (No space left on device)\n"
        )
    assert process.returncode == 2


def test_a_closed_pipe_is_silent(tmp_path):
    options = ["1.wav", "2.wav", "--batch-size", "1"]
    reading, writing = os.pipe()
    os.close(reading)
    process = run_python(
        FAKE.format(paths=PATHS, options=options), stdout=writing, cwd=write_waves(tmp_path)
    )
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 141


@pytest.mark.skipif(
    not (MODEL / "hyperparams.yaml").exists() or not (MODEL / "samples" / "en_1.wav").exists(),
    reason="pretrained/diffasr-tiny is not in this checkout",
)
def test_the_command_says_what_the_interface_says(tmp_path):
    from speechbrain_diffasr import DiffusionASR

    asr = DiffusionASR.from_hparams(source=str(MODEL))
    samples = [str(MODEL / "samples" / name) for name in ("en_1.wav", "digits_1.wav")]
    process = subprocess.run(
        [sys.executable, "-m", "speechbrain_diffasr", "transcribe", *samples, "--format", "json"],
        cwd=MODEL.parents[1],
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr) == (0, "")
    told = json.loads(process.stdout)
    assert [entry["path"] for entry in told] == samples
    assert [entry["text"] for entry in told] == [asr.transcribe_file(path) for path in samples]
    assert [entry["duration"] for entry in told] == [
        pytest.approx(soundfile.info(path).duration, abs=2e-3) for path in samples
    ]
    assert all(entry["steps"] >= 1 for entry in told)
    # A sixth would be no opinion.
    assert told[0]["language"] == "en" and 0.5 < told[0]["language_probability"] <= 1


def test_watching_changes_no_transcript(random_model, tmp_path, monkeypatch, capfd):
    from speechbrain_diffasr import DiffusionASR

    asr = DiffusionASR.from_hparams(random_model)
    monkeypatch.setattr(cli.common, "load_model", lambda *args: asr)
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    told = []
    for options in ([], ["--watch"]):
        assert transcribe(tmp_path / "a.wav", "--format", "json", *options) == 0
        out, err = capfd.readouterr()
        told.append(json.loads(out)[0]["text"])
        assert ("step 1/" in err) == bool(options)
    assert told[0] == told[1] != ""
