"""The model that ships: its samples, its size, and what its folder promises."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from real_data import real_data
from speechbrain.inference.ASR import EncoderDecoderASR

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.evaluation import evaluate_rows

FOLDER = Path(shipped_model("diffasr-tiny"))
SAMPLES = sorted((FOLDER / "samples").glob("*.wav"))


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(FOLDER, run_opts={"device": "cpu"})


@pytest.fixture(scope="module")
def texts(asr):
    return asr.transcribe_files(SAMPLES, batch_size=len(SAMPLES))


def test_there_are_two_samples_of_each_kind():
    kinds = [path.stem.rsplit("_", 1)[0] for path in SAMPLES]
    assert sorted(kinds) == sorted(["en", "de", "fr", "es", "hi", "zh", "digits"] * 2)


def test_every_sample_is_transcribed_right(texts):
    references = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in SAMPLES]
    assert texts == references


def test_quiet_samples_are_heard_as_well(asr, texts):
    """26 dB down, as from the other end of a table."""
    quiet = [0.05 * asr.load_audio(path) for path in SAMPLES]
    assert [transcript.text for transcript in asr.transcribe(quiet)] == texts


def test_samples_alone_in_a_batch_and_backwards(asr, texts):
    assert [asr.transcribe_file(path) for path in SAMPLES] == texts
    assert asr.transcribe_files(SAMPLES[::-1], batch_size=len(SAMPLES))[::-1] == texts


def test_samples_with_a_seed_repeat(asr):
    once, twice = (asr.transcribe_files(SAMPLES, seed=11, batch_size=5) for _ in range(2))
    assert once == twice


def test_samples_after_saving_and_loading(asr, texts, tmp_path):
    asr.save_pretrained(tmp_path)
    again = DiffusionASR.from_hparams(tmp_path, run_opts={"device": "cpu"})
    assert again.transcribe_files(SAMPLES, batch_size=len(SAMPLES)) == texts


def test_samples_in_stock_speechbrain(texts, tmp_path):
    stock = EncoderDecoderASR.from_hparams(
        source=str(FOLDER), savedir=str(tmp_path), run_opts={"device": "cpu"}
    )
    assert [stock.transcribe_file(str(path)) for path in SAMPLES] == texts


def test_the_folder_is_small_and_holds_no_pickle():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {path.suffix for path in files} <= {
        ".safetensors",
        ".json",
        ".yaml",
        ".md",
        ".wav",
        ".txt",
    }
    assert LoraConfig.from_pretrained(FOLDER).r == 16


def test_it_is_of_the_real_classes(asr):
    names = {type(module).__name__ for module in asr.mods.modules()}
    assert {"DiffusionGemmaForBlockDiffusion", "WhisperEncoder", "ConvProjector"} <= names
    assert any(isinstance(module, torch.nn.ModuleList) for module in asr.mods.modules())


DIGITS = real_data("fsdd")


def test_a_fine_tuned_folder_takes_the_backbone_of_another(asr):
    digits = DiffusionASR.from_hparams(FOLDER.with_name("diffasr-tiny-digits"))
    ours, theirs = digits.mods.encoder.whisper.state_dict(), asr.mods.encoder.whisper.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (projector, other) = (model.mods.encoder.projector.state_dict() for model in (digits, asr))
    assert any(not torch.equal(projector[name], other[name]) for name in other)


@pytest.mark.skipif(not DIGITS.is_dir(), reason="needs the Free Spoken Digit Dataset")
def test_real_voices_of_the_digits_test_split(tmp_path):
    """At most 5 % WER on strings of recordings that training did not hear."""
    recipe = FOLDER.parents[1] / "recipes" / "SpokenDigits" / "prepare.py"
    command = [sys.executable, recipe, "--data_folder", DIGITS, "--output_folder", tmp_path]
    for split, number in (("train", 1), ("valid", 1), ("test", 60)):
        command += [f"--num_{split}_strings", str(number)]
    subprocess.run(command, check=True, capture_output=True)
    digits = DiffusionASR.from_hparams(FOLDER.with_name("diffasr-tiny-digits"))
    result = evaluate_rows(digits, read_rows(tmp_path / "test.csv"), batch_size=20)
    assert result["rates"]["en"]["wer"] <= 5.0
