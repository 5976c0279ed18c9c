"""Real training runs of a recipe, each in a process of its own that can be killed."""

import csv
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import soundfile
import torch
from safetensors.torch import load_file

from speechbrain_diffasr.recipe import run
from speechbrain_diffasr.training import AtomicCheckpointer, DiffusionBrain

REPOSITORY = Path(__file__).parents[2]
RATE = 16000
UTTERANCES = [
    ("en", "w1 w2"), ("de", "w3"), ("en", "w4 w4 w5 w7 w9"), ("zh", "w6 w2"), ("en", "w8"),
    ("de", "w1 w9 w3"), ("en", "w5 w5"), ("hi", "w7 w2 w1 w1"), ("en", "w10"), ("fr", "w11 w12"),
]  # fmt: skip
RECIPE = """\
output_folder: results
pretrained: !PLACEHOLDER
model: {}
start: pretrained
test_csv: none.csv
data:
    train: FOLDER/train.csv
    valid: FOLDER/valid.csv
    test: [!ref <test_csv>]
    root: FOLDER
training: !include:REPOSITORY/hparams/training.yaml
    output_folder: !ref <output_folder>
evaluation: !include:REPOSITORY/hparams/evaluation.yaml
"""
OPTIONS = {
    "device": "cpu",
    "number_of_epochs": 2,
    "warmup_steps": 2,
    "lr": 3e-3,
    "max_batch_utterances": 2,
    "num_buckets": 2,
    "denoising_steps": 2,
    "num_workers": 0,
}

# Importing takes seconds: a server does it once and forks every run.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["speechbrain_diffasr.recipe.runner"])


def write_data(folder, utterances=UTTERANCES, seconds=(0.9, 0.87, 0.84)):
    """A recipe's YAML file and its data: tones, of which the last two are for validation."""
    rows = []
    for number, (lang, text) in enumerate(utterances):
        time = torch.arange(int(seconds[number % len(seconds)] * RATE)) / RATE
        wav = 0.3 * torch.sin(2 * torch.pi * 150 * (number + 1) * time)
        soundfile.write(folder / f"u{number}.wav", wav.numpy(), RATE)
        rows.append([f"u{number}", len(wav) / RATE, f"$data_root/u{number}.wav", lang, text])
    for name, part in (("train", rows[:-2]), ("valid", rows[-2:])):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["ID", "duration", "wav", "lang", "wrd"], *part])
    text = RECIPE.replace("FOLDER", str(folder)).replace("REPOSITORY", str(REPOSITORY))
    (folder / "train.yaml").write_text(text, encoding="utf-8")
    return folder / "train.yaml"


def arguments(recipe, model, output, /, **options):
    """The command line of a run."""
    settings = {"output_folder": output, "pretrained": model, **OPTIONS, **options}
    line = [str(recipe)]
    for name, value in settings.items():
        line += [f"--{name}", str(value)]
    return line


def start(argv, log, kill_before=None, prepare=None, environment=None):
    """Starts a run.

    Arguments
    ---------
    argv : list of str
    log : Path
        Takes what it prints.
    kill_before : tuple of int, optional
        Epoch and step before which it gets SIGKILL.
    prepare : callable, optional
        Of a module, called in the process before anything else.
    environment : dict, optional
    """
    process = CONTEXT.Process(target=_run, args=(argv, log, kill_before, prepare, environment))
    process.start()
    return process


def finish(process, log, timeout=120):
    """Waits for a run; its exit status and what it printed."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"hangs: {log.read_text()}")
    return process.exitcode, log.read_text(encoding="utf-8")


def train(recipe, model, output, /, kill_before=None, prepare=None, **options):
    """One run from beginning to end; its exit status and what it printed."""
    log = output.with_suffix(".log")
    argv = arguments(recipe, model, output, **options)
    return finish(start(argv, log, kill_before, prepare), log)


def state(output):
    """Everything in the newest checkpoint, and the losses that were logged."""
    checkpoint = AtomicCheckpointer(output / "save").find_checkpoint()
    files = {}
    for path in sorted(checkpoint.path.glob("*.ckpt")):
        if path.name == "diffusion_gemma.ckpt":
            files[path.stem] = load_file(path)
        elif path.stem in ("optimizer", "scheduler", "projector"):
            files[path.stem] = torch.load(path, weights_only=True)
        else:
            files[path.stem] = path.read_text()
    # A kill between log and checkpoint has an epoch done, and logged, again.
    lines = dict.fromkeys((output / "train_log.txt").read_text().splitlines())
    return {**files, "log": "\n".join(lines)}


def same(one, other, **tolerance):
    """Asserts that two states are equal, bit for bit unless a tolerance is given."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key], **tolerance)
    elif isinstance(one, torch.Tensor) and tolerance:
        torch.testing.assert_close(one, other, **tolerance)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b, **tolerance)
    else:
        assert one == other


def _run(argv, log, kill_before, prepare, environment):
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment or {})
    multiprocessing.set_start_method("fork", force=True)  # of the data loader's workers
    torch.set_num_threads(1)
    sys.argv = [str(REPOSITORY / "recipes" / "CSV" / "train.py"), *argv]
    if prepare is not None:
        prepare()
    before = DiffusionBrain.on_fit_batch_start

    def maybe_kill(brain, *args):
        if (brain.epoch, brain.step) == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        before(brain, *args)

    DiffusionBrain.on_fit_batch_start = maybe_kill
    run(argv)
