"""The stages that make diffasr-tiny, at toy size: what one writes the next reads."""

import csv
import json
import logging
import random
import runpy
import sys

import pytest
import soundfile
import torch
from miniature import REPOSITORY, noise
from safetensors.torch import load_file

from speechbrain_diffasr.inference import DiffusionASR

RECIPE = REPOSITORY / "recipes" / "TinyModel"
LANGUAGES = ("en", "de", "fr", "es", "hi", "zh")
SIZES = {"encoder_width": 24, "hidden_size": 32, "vocab_size": 500}
SIZES |= {"window": 2.0, "num_slots": 25, "canvas_length": 24}


def run_script(name, *argv):
    """`python NAME.py ...` in the folder of the recipe, without another start of Python."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, argv)])
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.chdir(RECIPE)
        patch.syspath_prepend(RECIPE)
        own = ("prepare", "optimization", "waveforms", "pretrain_encoder")
        for module in own:
            sys.modules.pop(module, None)
        try:
            runpy.run_path(str(RECIPE / f"{name}.py"), run_name="__main__")
        finally:
            root.handlers, root.level = handlers, level
            for module in own:
                sys.modules.pop(module, None)


def write_speech(folder, texts):
    """A corpus as SyntheticSpeech/prepare.py leaves it, of noise."""
    (folder / "wavs").mkdir(parents=True)
    for split in ("train", "valid"):
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["ID", "duration", "wav", "lang", "voice", "wrd"])
            for number, (lang, text) in enumerate(texts):
                name = f"{split}{number}"
                soundfile.write(folder / "wavs" / f"{name}.wav", noise(0.8, number).numpy(), 16000)
                path = f"$data_root/wavs/{name}.wav"
                writer.writerow([name, 0.8, path, lang, "noise", text])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything that the commands of the README make."""
    root = tmp_path_factory.mktemp("tiny")
    texts, data, results = root / "texts", root / "data", root / "results"
    texts.mkdir()
    rng = random.Random(0)
    for language in LANGUAGES:
        lines = {" ".join(rng.choices(["ab", "cd", "efg", "hi", "jk"], k=3)) for _ in range(30)}
        (texts / f"{language}.txt").write_text("\n".join(sorted(lines)), encoding="utf-8")
    run_script(
        "collect_text", "--text_folder", texts, "--output", data / "text.csv",
        "--digit_folder", data / "digit_texts", "--digit_strings", 20,
    )  # fmt: skip
    run_script(
        "train_tokenizer", "--csv", data / "text.csv", "--output", data / "tokenizer.json",
        "--vocab_size", SIZES["vocab_size"],
    )  # fmt: skip
    write_speech(data / "speech", [("en", "ab cd"), ("zh", "hi jk")])
    write_speech(data / "digit_speech", [("en", "one two")])
    settings = ["--data_folder", data, "--device", "cpu", "--precision", "fp32"]
    settings += ["--model", json.dumps(SIZES)]
    sizes = {"steps": 4, "batch_size": 4, "save_every": 2, "warmup_steps": 2}
    pretrain = ["pretrain.yaml", *settings, "--output_folder", results / "pretrain"]
    encoder = json.dumps({**sizes, "head_steps": 2})
    run_script("pretrain_encoder", *pretrain, "--encoder", encoder)
    run_script("pretrain_denoiser", *pretrain, "--denoiser", json.dumps(sizes))
    run_script(
        "train", "train.yaml", *settings, "--pretrain_folder", results / "pretrain",
        "--output_folder", results / "train", "--number_of_epochs", 1, "--epoch_length", 2,
        "--number_of_steps", 2, "--batch_size", 4, "--noprogressbar",
    )  # fmt: skip
    return root


def test_the_denoiser_reads_the_embeddings_that_the_encoder_wrote(made):
    folder = made / "results" / "pretrain"
    shared = load_file(folder / "embeddings.safetensors")["weight"]
    base = load_file(folder / "base.safetensors")
    (name,) = [key for key in base if key.endswith("embed_tokens.weight")]
    assert shared.shape == (SIZES["vocab_size"], SIZES["hidden_size"])
    torch.testing.assert_close(base[name].float(), shared, atol=1e-3, rtol=1e-3)


def test_the_last_stage_leaves_the_frozen_parts_as_they_were(made):
    before, after = made / "results" / "pretrain", made / "results" / "train" / "pretrained"
    for name in ("base", "whisper"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (before, after))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (load_file(folder / "projector.safetensors") for folder in (before, after))
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_comes_out_is_a_recognizer(made):
    asr = DiffusionASR.from_hparams(made / "results" / "train" / "pretrained", overrides=SIZES)
    (transcript,) = asr.transcribe([noise(1.0)], language="en")
    assert transcript.duration == 1.0


def test_digits_are_spoken_and_written_alike(made):
    """The strings of the text folder, less those held out, are the lines of the text file."""
    with open(made / "data" / "text.csv", encoding="utf-8", newline="") as file:
        lines = {row["wrd"] for row in csv.DictReader(file) if row["lang"] == "digits"}
    spoken = set((made / "data" / "digit_texts" / "en.txt").read_text().splitlines())
    assert lines and lines < spoken
