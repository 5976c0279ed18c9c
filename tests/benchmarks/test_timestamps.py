"""The benchmark of time stamps and confidence: its figures, and what espeak-ng tells it."""

import ctypes.util
import json
import random
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from speechbrain_diffasr import shipped_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
needs_espeak = pytest.mark.skipif(
    not ctypes.util.find_library("espeak-ng"), reason="needs the library of espeak-ng"
)


@pytest.fixture(scope="module")
def timestamps():
    sys.path.insert(0, str(BENCHMARKS))
    import timestamps

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for each other
    yield timestamps
    torch.set_num_threads(threads)


def test_area_under_the_curve(timestamps):
    rng = np.random.default_rng(0)
    confidences, right = rng.integers(0, 5, 60) / 5, rng.random(60) < 0.7
    wins = [
        1.0 if good > bad else 0.5 if good == bad else 0.0
        for good in confidences[right]
        for bad in confidences[~right]
    ]
    assert timestamps.area_under_curve(confidences, right) == pytest.approx(np.mean(wins))
    assert timestamps.area_under_curve(confidences, np.ones(60, bool)) is None


def test_calibration_error_and_temperature(timestamps):
    rng = np.random.default_rng(1)
    chances = rng.uniform(0.01, 0.99, 20000)
    right = rng.random(20000) < chances
    error, bins = timestamps.calibration(chances, right)
    assert error < 0.02 and sum(row["words"] for row in bins) == 20000 and len(bins) == 10
    doubtful = chances**2  # the square of what it should be
    assert timestamps.calibration(doubtful, right)[0] > 0.1
    assert timestamps.fit_temperature(doubtful, right) == pytest.approx(2.0, rel=0.05)
    assert timestamps.calibration(np.array([0.0, 1.0]), np.array([True, True]))[0] == 0.5


def test_errors_have_a_sign(timestamps):
    summary = timestamps.summarize_errors(np.array([[0.01, -0.02], [0.03, -0.02], [0.02, -0.05]]))
    assert summary["start_bias_ms"] == pytest.approx(20)
    assert summary["end_bias_ms"] == pytest.approx(-20)
    assert summary["all_median_ms"] == pytest.approx(20)
    assert summary["words"] == 3


@needs_espeak
def test_words_of_espeak_lie_where_it_speaks(timestamps):
    from espeak_words import Speaker

    speaker = Speaker()
    wav, times = speaker.speak("papa, papa, kaka", "en-us", 160, 50)
    assert len(times) == 3
    sound = wav.abs() > 0.01
    for start, end in times:
        inside = sound[round(start * speaker.sample_rate) : round(end * speaker.sample_rate)]
        assert inside.float().mean() > 0.3
        inside = inside.nonzero()[:, 0] / speaker.sample_rate
        assert inside[0] < 0.05 and inside[-1] > end - start - 0.05
    for (_, end), (start, _) in pairwise(times):
        pause = sound[round(end * speaker.sample_rate) : round(start * speaker.sample_rate)]
        assert start - end > 0.1 and pause.float().mean() < 0.2
    with pytest.raises(ValueError, match="no voice 'nowhere'"):
        speaker.speak("papa", "nowhere", 160, 50)


@needs_espeak
def test_figures_of_digits_that_the_model_knows(timestamps, tmp_path, capsys):
    rng = random.Random(0)
    lines = {" ".join(rng.choices(DIGITS, k=rng.randint(2, 4))) for _ in range(150)}
    (tmp_path / "en.txt").write_text("\n".join(sorted(lines)), encoding="utf-8")
    output = tmp_path / "new" / "figures.json"
    options = ["--text_folder", str(tmp_path), "--utterances", "4", "--tuning", "2"]
    timestamps.main([*options, "--output", str(output)])
    result = json.loads(output.read_text())
    assert (result["utterances"], result["left_out"]) == (4, 0)
    rows = {(row["text"], row["edges"]): row for row in result["boundaries"]}
    assert len(rows) == 6
    placed, frames = rows["reference", "pauses"], rows["reference", "frames"]
    assert placed["words"] >= 10
    assert placed["all_median_ms"] < min(60, frames["all_median_ms"])
    assert placed["by_language"]["en"]["words"] == placed["words"]
    assert [row["confidence"] for row in result["confidence"]] == ["denoiser", "ctc", "both"]
    both = result["confidence"][-1]
    assert sum(row["words"] for row in both["bins"]) == both["words"]
    assert "| reference | pauses |" in capsys.readouterr().out


def test_recordings_of_a_file_have_confidence_but_no_times(timestamps, tmp_path, capsys):
    samples = Path(shipped_model("diffasr-tiny")) / "samples"
    lines = ["ID,wav,lang,wrd"]
    for name in ("en_1", "en_2", "de_1", "de_2"):
        text = (samples / f"{name}.txt").read_text(encoding="utf-8").strip()
        # As people write; the model does not.
        lines.append(f'{name},{samples}/{name}.wav,{name[:2]},"{text.capitalize()}."')
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--csv", str(tmp_path / "test.csv"), "--tuning", "1", "--utterances", "5"]
    result = timestamps.main([*options, "--output", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text()) == result
    assert (result["speech"], result["utterances"]) == ("recordings", 2)
    assert result["boundaries"] == []
    both = result["confidence"][-1]
    assert both["right"] == 1.0  # the samples are ones that it gets right
    assert both["words"] == sum(len(lines[place].split(",")[-1].split()) for place in (2, 4))
    assert "| confidence | words |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give either --text_folder, --digits or --csv"),
        (["--text_folder", "a", "--digits", "b"], "give either --text_folder, --digits or --csv"),
        (["--text_folder", "a", "--csv", "b"], "give either --text_folder, --digits or --csv"),
        (["--csv", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--digits", "nowhere"], "'nowhere' holds no recording"),
        (["--text_folder", "nowhere", "--languages", "en"], "'nowhere' has no file 'en.txt'"),
        (["--text_folder", "nowhere"], "no utterance is left for valid"),
    ],
)
def test_bad_input_gets_one_line(timestamps, options, reason, capsys):
    if "--text_folder" in options and not ctypes.util.find_library("espeak-ng"):
        pytest.skip("needs the library of espeak-ng")
    with pytest.raises(SystemExit):
        timestamps.main(options)
    assert reason in capsys.readouterr().err.splitlines()[-1]
