"""Runs that are stopped and go on: they end as if nothing had happened."""

import json
import os
import resource
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from training_runs import CONTEXT, same, state, train, write_data

from speechbrain_diffasr.training import AtomicCheckpointer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("resume"))


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        ({"ckpt_interval_steps": 2}, [(2, 1), (2, 4)]),
        pytest.param(
            {"ckpt_interval_steps": 1, "grad_accumulation_factor": 2, "feature_cache": True},
            [(2, 4)],
            marks=pytest.mark.slow,
        ),
        ({"ckpt_interval_steps": 1, "language_temperature": 3, "num_workers": 2}, [(2, 3)]),
    ],
    ids=["within and between epochs", "accumulated and cached", "weighted, with workers"],
)
def test_stopped_and_resumed_equals_uninterrupted(recipe, random_model, tmp_path, options, stops):
    """Weights, moments, learning rate, place in the data and logged losses, bit for bit."""
    if "feature_cache" in options:
        options = {**options, "feature_cache": tmp_path / "features"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, text = train(recipe, random_model, whole, **options)
    assert code == 0, text
    if "feature_cache" not in options:
        # Killed while the moments of its third checkpoint are half written.
        code, text = train(recipe, random_model, parts, prepare=kill_at_third_moments, **options)
        assert code == -signal.SIGKILL, text
    for stop in stops:
        code, text = train(recipe, random_model, parts, kill_before=stop, **options)
        assert code == -signal.SIGKILL, text
    code, text = train(recipe, random_model, parts, **options)
    assert code == 0, text
    assert text.count("Loading a checkpoint") > len(stops)
    same(state(whole), state(parts))
    assert state(whole)["log"].count("epoch: ") == 2
    if options["ckpt_interval_steps"] == 2:  # a run that is done stays as it is
        assert train(recipe, random_model, parts, **options)[0] == 0
        same(state(whole), state(parts))


def kill_at_third_moments():
    """Half of the optimizer's third file is written, then SIGKILL."""
    save, number = torch.save, []

    def save_half(value, path, *args, **kwargs):
        save(value, path, *args, **kwargs)
        number.extend([path] * (Path(path).name == "optimizer.ckpt"))
        if len(number) == 3:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half


@register_checkpoint_hooks
class Number:
    """Something that is saved; it says which save it was part of."""

    def __init__(self):
        self.value = 0

    @mark_as_saver
    def save(self, path):
        Path(path).write_text(str(self.value))

    @mark_as_loader
    def load(self, path, end_of_epoch):
        self.value = int(Path(path).read_text())


def number_of(folder):
    """A checkpointer of things that all hold the same number after each save."""
    parts = {"brain": Number(), "optimizer": Number(), "projector": torch.nn.Linear(1, 1)}
    return AtomicCheckpointer(folder, parts), parts


def set_number(parts, number):
    parts["brain"].value = parts["optimizer"].value = number
    torch.nn.init.constant_(parts["projector"].weight, number)


# Error rates of successive saves: the best is the newest, an older one, a deleted one.
RATES = [50.0, 20.0, 30.0, 10.0]


def save_until_killed(folder, kill_at):
    """Saves again and again; SIGKILL comes in place of one of the operations on files."""
    os.chdir(folder)
    done = kill_at_operation(folder, kill_at)
    checkpointer, parts = number_of(folder)
    checkpointer.recover_if_possible()
    for number in range(parts["brain"].value + 1, len(RATES) + 1):
        set_number(parts, number)
        meta = {"error_rate": RATES[number - 1], "number": number}
        checkpointer.save_and_keep_only(meta=meta, min_keys=["error_rate"])
        with open(folder / "saved.json", "a") as file:  # what a run could rely on
            file.write(f"{number}\n")
    (folder / "operations.json").write_text(json.dumps(done[0]))


def kill_at_operation(folder, number):
    """From now on this process gets SIGKILL in place of the n-th operation on files of a folder."""
    done = [-(number or 0)]

    def count(event, args):
        touches = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
        writes = event == "open" and isinstance(args[1], str) and args[1][0] in "wax"
        # What rmtree deletes is named relative to open folders: there all that happens counts.
        if (touches or writes) and str(folder) in str(args[0]) + os.getcwd():
            done[0] += 1
            if done[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    save = torch.save

    def save_half_of(value, path, *args, **kwargs):
        # As if the kill came while the file is written, which Python does not see.
        save(value, path, *args, **kwargs)
        done[0] += 1
        if done[0] == 0:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half_of
    sys.addaudithook(count)
    return done


def sweep(folder):
    """Every place of SIGKILL, one process after another; returns how many there are."""
    base = folder / "whole"
    base.mkdir()
    process = CONTEXT.Process(target=save_until_killed, args=(base, None))
    process.start()
    process.join(60)
    operations = json.loads((base / "operations.json").read_text())
    for kill_at in range(1, operations + 1):
        place = folder / f"k{kill_at}"
        place.mkdir()
        process = CONTEXT.Process(target=save_until_killed, args=(place, kill_at))
        process.start()
        process.join(60)
        yield place, process.exitcode


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_loses_at_most_that_save(tmp_path):
    killed = 0
    for folder, code in sweep(tmp_path):
        killed += code == -signal.SIGKILL
        saved = folder / "saved.json"
        certain = len(saved.read_text().split()) if saved.exists() else 0
        checkpointer, parts = number_of(folder)
        found = checkpointer.recover_if_possible()
        newest = found.meta["number"] if found else 0
        assert newest in (certain, certain + 1), folder
        # All of one save, and none of another.
        assert {parts["brain"].value, parts["optimizer"].value} == {newest}
        if newest:
            assert parts["projector"].weight.item() == newest
        # The best so far is there, whether or not it is the newest.
        if newest:
            best = checkpointer.recover_if_possible(min_key="error_rate")
            assert best.meta["error_rate"] == min(RATES[:newest])
            assert parts["projector"].weight.item() == best.meta["number"]
        # It goes on, and cleans up.
        set_number(parts, 99)
        checkpointer.save_and_keep_only(meta={"error_rate": 90.0}, min_keys=["error_rate"])
        folders = list(folder.glob("CKPT*"))
        assert len(folders) == (2 if newest else 1)
        assert sum((path / "optimizer.ckpt").exists() for path in folders) == 1
        shutil.rmtree(folder)
    assert killed > 40


def full_disk(limit):
    """Files can have so many bytes: a disk that is full, as far as writing goes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_a_full_disk_gets_one_line_and_the_run_goes_on(recipe, random_model, tmp_path):
    output = tmp_path / "run"
    options = {"number_of_epochs": 1}
    code, text = train(recipe, random_model, output, prepare=partial(full_disk, 10**6), **options)
    assert code == 1 and "Traceback" not in text, text
    last = text.strip().splitlines()[-1]
    assert "could not save a checkpoint" in last and "GB are free" in last
    assert str(output / "save") in last
    assert "it was the first" in last and "whole" not in last
    assert not list((output / "save").glob("**/CKPT*"))  # nor a part of it
    code, text = train(recipe, random_model, output, **options)
    assert code == 0, text
