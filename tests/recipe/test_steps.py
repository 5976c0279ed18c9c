"""The four steps of a recipe: called by a researcher's own train.py, and where they fail."""

import os
from pathlib import Path

import pytest
import torch
from miniature import REPOSITORY, load_recipe, make_csv, noise
from recipe_runs import QUICK, run_recipe
from safetensors.torch import load_file

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.evaluation import evaluate_csvs
from speechbrain_diffasr.recipe import fit, load, prepare, read_hparams, score

# Words of the model of conftest.py, which hears 2 s.
UTTERANCES = [(noise(1.0, 1), "w1 w2", "en"), (noise(1.4, 2), "w3 w4 w5", "en")]


@pytest.fixture
def corpus(tmp_path):
    make_csv(tmp_path / "own", UTTERANCES)
    return tmp_path / "own"


@pytest.fixture
def options(corpus, random_model):
    """Options of recipes/CSV as a mapping, all but the output folder."""
    names = {"train_csv": "train.csv", "valid_csv": "valid.csv", "test_csv": "test.csv"}
    return {"pretrained": str(random_model), "data_folder": str(corpus), **names}


def csv_hparams(options, output, monkeypatch):
    """Those of recipes/CSV for a quick run."""
    monkeypatch.chdir(REPOSITORY / "recipes" / "CSV")
    quick = {
        "warmup_steps": 0,
        "number_of_epochs": 1,
        "num_workers": 0,
        "denoising_steps": 2,
        "steps": [1],
    }
    return read_hparams("train.yaml", {**options, **quick, "output_folder": str(output)})


def test_the_steps_one_by_one_do_what_the_recipe_does(options, tmp_path, monkeypatch):
    arguments = [f"--{name}={value}" for name, value in {**options, "warmup_steps": 0}.items()]
    run_recipe("CSV", "train.yaml", "--output_folder", tmp_path / "whole", *arguments, *QUICK)
    start = load_file(Path(options["pretrained"]) / "projector.safetensors")

    hparams = csv_hparams(options, tmp_path / "steps", monkeypatch)
    prepare(hparams, load_recipe("CSV").prepare_csv)
    asr = load(hparams)
    fit(asr, hparams)
    report = score(asr, hparams)
    assert [result["steps"] for result in report["results"]] == [1]
    assert (tmp_path / "steps" / "evaluation" / "table.md").is_file()
    for file in ("projector.safetensors", "adapter_model.safetensors"):
        whole, steps = (
            load_file(tmp_path / run / "pretrained" / file) for run in ("whole", "steps")
        )
        assert whole.keys() == steps.keys()
        assert all(torch.equal(whole[name], steps[name]) for name in whole)
    moved = load_file(tmp_path / "steps" / "pretrained" / "projector.safetensors")
    assert any(not torch.equal(moved[name], start[name]) for name in start)


def test_what_is_changed_between_the_steps_is_trained(options, tmp_path, monkeypatch):
    hparams = csv_hparams(options, tmp_path / "changed", monkeypatch)
    prepare(hparams, load_recipe("CSV").prepare_csv)
    asr = load(hparams)
    projector = asr.mods.encoder.projector
    with torch.no_grad():
        projector.linear.weight.mul_(2)
    projector.linear.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in projector.state_dict().items()}
    fit(asr, hparams)
    after = load_file(tmp_path / "changed" / "pretrained" / "projector.safetensors")
    assert torch.equal(after.pop("linear.weight"), before["linear.weight"])
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_scores_that_cannot_be_written_are_an_os_error(tmp_path, random_model):
    """Of the library, not of the command line: whoever calls it can catch it."""
    make_csv(tmp_path / "own", UTTERANCES)
    asr = DiffusionASR.from_hparams(random_model)
    csvs = [tmp_path / "own" / "test.csv"]
    output = tmp_path / "no" / "such" / "folder" / "r.json"
    with pytest.raises(OSError, match="No such file"):
        evaluate_csvs(asr, csvs, steps=1, output=output, echo=None)


def test_a_recipe_whose_scores_cannot_be_written_ends_in_one_line(options, tmp_path, monkeypatch):
    """After all its work: what it trained is there, and the line says what to mend."""
    output = tmp_path / "run"
    os.makedirs(output / "evaluation" / "results.json")
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with pytest.raises(SystemExit) as ended:
        run_recipe("CSV", "train.yaml", "--output_folder", output, *arguments, *QUICK)
    message = str(ended.value)
    assert "\n" not in message and message.startswith("train.py: ")
    assert "results.json" in message
    assert (output / "pretrained" / "projector.safetensors").is_file()


def test_a_model_that_is_not_there_is_told_before_the_corpus_is_read(options, tmp_path):
    hparams = {"pretrained": str(tmp_path / "nowhere"), "prepare": {}}
    with pytest.raises(FileNotFoundError, match="--pretrained"):
        prepare(hparams, lambda **_: pytest.fail("read"))
    prepare(
        {"pretrained": shipped_model("diffasr-tiny"), "prepare": None},
        lambda **_: pytest.fail("read"),
    )
