"""Folders that 0.1 wrote: their YAML names classes where those are no more."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
from speechbrain.inference.ASR import EncoderDecoderASR

from speechbrain_diffasr import DiffusionASR, shipped_model

OLD = Path(__file__).parent / "written_by_0.1"
NEW = Path(shipped_model("diffasr-tiny")).parent
SAMPLES = sorted(Path(shipped_model("diffasr-tiny")).glob("samples/*_1.wav"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The shipped folders, each with the YAML file that it had in 0.1."""
    root = tmp_path_factory.mktemp("old")
    for name in ("diffasr-tiny", "diffasr-tiny-digits"):
        shutil.copytree(NEW / name, root / name, ignore=shutil.ignore_patterns("samples"))
        shutil.copy(OLD / f"{name}.yaml", root / name / "hyperparams.yaml")
    return root


@pytest.mark.parametrize("name", ["diffasr-tiny", "diffasr-tiny-digits"])
def test_an_old_folder_says_the_same_in_both_interfaces(folders, name):
    text = (folders / name / "hyperparams.yaml").read_text(encoding="utf-8")
    assert "speechbrain_diffasr.tokenizer.Tokenizer" in text  # else nothing is old
    new = DiffusionASR.from_hparams(NEW / name)
    old = DiffusionASR.from_hparams(folders / name)
    stock = EncoderDecoderASR.from_hparams(source=str(folders / name))
    expected = [new.transcribe_file(path) for path in SAMPLES]
    assert len(set(expected)) > 1
    assert [old.transcribe_file(path) for path in SAMPLES] == expected
    assert [stock.transcribe_file(str(path)) for path in SAMPLES] == expected
    assert old.languages == new.languages


def test_an_old_folder_can_be_written_anew(folders, tmp_path):
    old = DiffusionASR.from_hparams(folders / "diffasr-tiny")
    old.save_pretrained(tmp_path)
    again = DiffusionASR.from_hparams(tmp_path)
    assert again.transcribe_file(SAMPLES[0]) == old.transcribe_file(SAMPLES[0])


@pytest.mark.parametrize("path", sorted(OLD.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_class_that_an_old_file_names_is_there(path):
    names = set(re.findall(r"!(?:new|name):([\w.]+)", path.read_text(encoding="utf-8")))
    assert any(name.startswith("speechbrain_diffasr.hub.") for name in names)
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute))
