"""Several processes: they learn what one does, share the cache, and end together."""

import re
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from training_runs import arguments, finish, start, train, write_data

# Transcripts of unequal lengths; of the second, ten equal tokens do not fit thirteen slots.
UTTERANCES = [
    ("en", "w1 w2"), ("de", "w3 w3 w3 w3 w3 w3 w3 w3 w3 w3"), ("en", "w4 w4 w5 w7 w9"),
    ("zh", "w6"), ("en", "w8 w1"), ("de", "w1 w9 w3"), ("en", "w5 w5"), ("hi", "w7 w2 w1 w1"),
    ("en", "w10"), ("fr", "w11 w12"),
]  # fmt: skip
SHORT = {"model": "{window: 1.0, num_slots: 13}", "shuffle": False, "num_buckets": 5}
SHORT |= {"warmup_steps": 0}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("distributed"), UTTERANCES, seconds=[0.9])


def plain_descent():
    """Adam divides by the size of a gradient: of one near zero, rounding would decide the step."""
    torch.optim.AdamW = lambda parameters, lr, **unused: torch.optim.SGD(parameters, lr)


def train_in_two(recipe, model, output, /, prepare=None, **options):
    """The same run in two processes; exit status and output of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = arguments(recipe, model, output, distributed_backend="gloo", **options)
    logs = [output.with_name(f"{output.name}-{rank}.log") for rank in (0, 1)]
    processes = []
    for rank, log in enumerate(logs):
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes.append(start(argv, log, prepare=prepare, environment=environment))
    return [finish(process, log) for process, log in zip(processes, logs, strict=True)]


@pytest.mark.parametrize(
    ("weights", "number", "epochs"),
    [
        # A single step, since random experts make rounding grow a hundredfold from step to step.
        ("{diffusion: 1.0, autoregressive: 0.5, ctc: 0.3}", 4, 1),
        # CTC does not pass through the experts.
        pytest.param(
            "{diffusion: 0.0, autoregressive: 0.0, ctc: 1.0}", 8, 2, marks=pytest.mark.slow
        ),
    ],
    ids=["all losses", "ctc over several steps"],
)
def test_two_processes_equal_one_with_twice_the_batch(
    random_model, tmp_path, weights, number, epochs
):
    recipe = write_data(tmp_path, [*UTTERANCES[:number], *UTTERANCES[-2:]], seconds=[0.9])
    both, one = tmp_path / "both", tmp_path / "one"
    options = {**SHORT, "loss_weights": weights, "number_of_epochs": epochs}
    options |= {"feature_cache": tmp_path / "features", "prepare": plain_descent}
    test = {"test_csv": tmp_path / "valid.csv", "steps": "[1]"}
    for code, text in train_in_two(recipe, random_model, both, **options, **test):
        assert code == 0, text
    # Both filled the cache, and between them they encoded everything once.
    shards = list((tmp_path / "features").glob("*/*"))
    keys = [key for shard in shards for key in load_file(shard)]
    assert len(shards) == 2 and len(keys) == len(set(keys)) == number + 2

    code, text = train(recipe, random_model, one, **options, max_batch_utterances=4)
    assert code == 0, text
    compared = 0
    for file in ("projector.safetensors", "adapter_model.safetensors"):
        begin = load_file(random_model / file)
        ours, theirs = (load_file(run / "pretrained" / file) for run in (both, one))
        for name, before in begin.items():
            moved = (theirs[name] - before).norm()
            compared += int(moved > 0)
            # A weight that hardly moves is rounded to float32 all the same.
            rounding = torch.finfo(torch.float32).eps * before.abs().max()
            assert (ours[name] - theirs[name]).norm() <= 1e-3 * moved + rounding, name
    assert compared >= len(load_file(random_model / "projector.safetensors"))
    losses = [
        [float(re.search("train loss: ([0-9.e+-]+)", line)[1]) for line in lines(run)]
        for run in (both, one)
    ]
    assert len(losses[0]) == epochs and losses[0] == pytest.approx(losses[1], rel=1e-3)
    # The first process writes and shows, the second does neither.
    assert list((both / "evaluation").iterdir())
    first, second = ((tmp_path / f"both-{rank}.log").read_text() for rank in (0, 1))
    assert "epoch 1 train" in first and "epoch 1 train" not in second
    assert "Encoding" in first and "Encoding" not in second


def lines(output):
    return (output / "train_log.txt").read_text().splitlines()


def test_weighted_batches_of_two_processes(recipe, random_model, tmp_path):
    """Their number changes from epoch to epoch; the run goes on within an epoch, too."""
    options = {"language_temperature": 5, "number_of_epochs": 4, "max_batch_utterances": 3}
    options |= {"ckpt_interval_steps": 1, "batch_seconds": 2.0, "num_buckets": 3}
    for code, text in train_in_two(recipe, random_model, tmp_path / "run", **options):
        assert code == 0, text
    assert len(lines(tmp_path / "run")) == 4


BROKEN = """
import os, sys
from speechbrain_diffasr.training import DiffusionBrain
from speechbrain_diffasr.recipe import run

def fail(brain, batch, should_step):
    if brain.rank == 1 and brain.step == 2:
        raise OSError("recording.wav: cannot be read")

DiffusionBrain.on_fit_batch_start = fail
run(sys.argv[1:])
"""


def test_an_error_in_one_process_ends_all(recipe, random_model, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(BROKEN)
    argv = arguments(recipe, random_model, tmp_path / "run", distributed_backend="gloo")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*torchrun, str(script), *argv], capture_output=True, text=True, timeout=200
    )
    assert result.returncode != 0
    assert "train.py: recording.wav: cannot be read" in result.stderr
