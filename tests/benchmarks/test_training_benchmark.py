"""The benchmark of training, at toy size: what it measures, and what it does without memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def training():
    sys.path.insert(0, str(BENCHMARKS))
    import training

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for each other
    yield training
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def steps(training):
    """What it times."""
    import training_steps

    return training_steps


@pytest.fixture
def small_memory(steps, monkeypatch):
    """Memory that is full with more than three utterances, half way through the step."""
    whole = steps.TimedBrain.compute_objectives

    def compute_objectives(self, predictions, batch, stage):
        loss = whole(self, predictions, batch, stage)
        if len(batch.id) > 3:
            loss.backward()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(steps.TimedBrain, "compute_objectives", compute_objectives)


def options(model, *more):
    return ["--model", str(model), "--warmup", "0", "--repeats", "1", *more]


def test_parts_of_a_step_and_speeds_belong_together(
    training, steps, random_model, tmp_path, capsys
):
    output = tmp_path / "new" / "figures.json"
    training.main(options(random_model, "--batch_sizes", "2", "--output", str(output)))
    result = json.loads(output.read_text())
    assert (result["seconds"], result["tokens"]) == (2.0, 7)  # the window; 10/3 tokens a second
    assert 0 < result["trained"] < result["parameters"]
    wavs, frames = result["rows"]
    assert (wavs["audio"], frames["audio"]) == ("waveforms", "frames")
    assert wavs["encoder_ms"] > 0 and frames["encoder_ms"] == 0
    for row in result["rows"]:
        parts = [row[f"{part}_ms"] for part in steps.PARTS]
        assert sum(parts) == pytest.approx(row["step_ms"])
        assert row["utterances_per_s"] == pytest.approx(2000 / row["step_ms"])
        assert row["hours_per_hour"] == pytest.approx(2.0 * row["utterances_per_s"])
    assert "| waveforms | 2 |" in capsys.readouterr().out


def test_batches_that_do_not_fit_end_the_list(training, random_model, small_memory, capsys):
    sizes = ["--audio", "waveforms", "--batch_sizes", "16", "1", "4"]
    result = training.main(options(random_model, *sizes))
    assert [row["batch"] for row in result["rows"]] == [1]
    assert "waveforms, batch of 4: out of memory" in capsys.readouterr().out


def test_the_largest_batch_is_found_and_measured(training, steps, random_model, small_memory):
    _, args = training.parse(options(random_model, "--batch_sizes", "1", "--audio", "waveforms"))
    args.largest = True  # on the CPU only here
    run_opts = training.sb.core.RunOptions.from_dictionary({"device": "cpu"})
    changes = {"fresh": list(training.TRAINED)}
    asr = training.load_recognizer(random_model, changes, run_opts, trained=True)
    brain = steps.make_brain(asr, run_opts)
    rows, largest = training.run(
        brain, lambda audio, size: steps.make_batch(brain, asr, audio, size, 2.0, 7), args
    )
    assert largest == {"fits": 3, "does_not_fit": 4}
    assert [row["batch"] for row in rows] == [1, 3]
    assert all(parameter.grad is None for parameter in brain.modules.parameters())


@pytest.mark.parametrize("most", [1, 2, 3, 7, 20, 63, 64, 65, 200, 256, 1000])
def test_search_for_the_largest(steps, most):
    tried = []

    def fits(number):
        tried.append(number)
        return number <= most

    good, bad = steps.largest_that_fits(fits, good=1, limit=256, precision=0.0)
    assert good == min(most, 256)
    assert bad == (None if most >= 256 else most + 1)
    assert len(tried) == len(set(tried)) <= 16
    good, bad = steps.largest_that_fits(lambda number: number <= most, 1, limit=256)
    assert good <= most and (bad is None or most < bad <= max(good + 1, 1.1 * good))


@pytest.mark.slow
def test_two_processes_count_together(random_model, tmp_path):
    output = tmp_path / "figures.json"
    script = [BENCHMARKS / "training.py", *options(random_model, "--batch_sizes", "2")]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = subprocess.run(
        [sys.executable, *launcher, *script, "--audio", "waveforms", "--output", output],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads(output.read_text())
    (row,) = result["rows"]
    assert result["processes"] == 2 and row["batch"] == 2
    assert row["utterances_per_s"] == pytest.approx(4000 / row["step_ms"])
    assert finished.stdout.count("| waveforms |") == 1  # one process reports


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["--seconds_of_audio", "99"], "--seconds_of_audio 99: this model hears 2 s"),
        (["--tokens_per_second", "30"], "60 tokens; the canvas has 10"),
        (["--training", "{chunk_sise: 5}"], "did you mean --chunk_size?"),
        (["--training", "chunk_size"], "'chunk_size' is no mapping; write '{NAME: VALUE}'"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_gets_one_line(training, random_model, wrong, reason, capsys):
    with pytest.raises(SystemExit):
        training.main(options(random_model, *wrong))
    assert reason in capsys.readouterr().err.splitlines()[-1]
