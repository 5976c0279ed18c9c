"""The stages that make diffasr-tiny, at toy size: what one writes the next reads."""

import csv
import json
import random
import shutil

import pytest
import torch
from miniature import REPOSITORY, load_recipe, noise
from pretraining_runs import run_script, write_speech
from safetensors.torch import load_file

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.pretraining import hush

RECIPE = REPOSITORY / "recipes" / "TinyModel"
prepare = load_recipe("SyntheticSpeech")
LANGUAGES = ("en", "de", "fr", "es", "hi", "zh")
SIZES = {"encoder_width": 24, "hidden_size": 32, "vocab_size": 500}
SIZES |= {"window": 2.0, "num_slots": 25, "canvas_length": 24}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything that the commands of the README make."""
    root = tmp_path_factory.mktemp("tiny")
    texts, data, results = root / "texts", root / "data", root / "results"
    words = root / "words"
    texts.mkdir()
    words.mkdir()
    rng = random.Random(0)
    for language in LANGUAGES:
        lines = {" ".join(rng.choices(["ab", "cd", "efg", "hi", "jk"], k=3)) for _ in range(30)}
        (texts / f"{language}.txt").write_text("\n".join(sorted(lines)), encoding="utf-8")
        (words / f"{language}.txt").write_text("EFG\nfed\nünal\n", encoding="utf-8")
    run_script(
        RECIPE, "more_text", "--text_folder", texts, "--word_folder", words,
        "--output_folder", data / "more_texts", "--chained", 40, "--strings", 10,
    )  # fmt: skip
    run_script(
        RECIPE, "collect_text", "--text_folder", texts, "--more_folder", data / "more_texts",
        "--output", data / "text.csv", "--digit_folder", data / "digit_texts",
        "--digit_strings", 20,
    )  # fmt: skip
    run_script(
        RECIPE, "train_tokenizer", "--csv", data / "text.csv", "--output", data / "tokenizer.json",
        "--vocab_size", SIZES["vocab_size"],
    )  # fmt: skip
    write_speech(data / "speech", [("en", "ab cd"), ("zh", "hi jk")])
    write_speech(data / "more_speech", [("en", "cd ab"), ("zh", "jk")])
    write_speech(data / "digit_speech", [("en", "one two")])
    settings = ["--data_folder", data, "--device", "cpu", "--precision", "fp32"]
    settings += ["--model", json.dumps(SIZES)]
    sizes = {"steps": 4, "batch_size": 4, "heard_batch_size": 4, "save_every": 2, "warmup_steps": 2}
    pretrain = ["pretrain.yaml", *settings, "--output_folder", results / "pretrain"]
    encoder = json.dumps({**sizes, "head_steps": 2})
    run_script(RECIPE, "pretrain_encoder", *pretrain, "--encoder", encoder)
    run_script(RECIPE, "pretrain_denoiser", *pretrain, "--denoiser", json.dumps(sizes))
    shutil.copy(results / "pretrain" / "base.safetensors", results / "read.safetensors")
    run_script(
        RECIPE, "pretrain_denoiser", *pretrain, "--heard", True, "--denoiser", json.dumps(sizes)
    )
    run_script(
        RECIPE, "train", "train.yaml", *settings, "--pretrain_folder", results / "pretrain",
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


def test_hearing_changes_the_denoiser_but_not_what_tokens_mean(made):
    read = load_file(made / "results" / "read.safetensors")
    heard = load_file(made / "results" / "pretrain" / "base.safetensors")
    changed = {name for name in read if not torch.equal(read[name], heard[name])}
    assert any("self_attn" in name for name in changed)
    assert not any("embed_tokens" in name for name in changed)


def test_going_on_keeps_what_was_learned(made):
    """Two steps from a pretrained folder, its token embeddings as they were."""
    first, more = made / "results" / "train" / "pretrained", made / "results" / "more"
    settings = {"steps": 2, "batch_size": 4, "warmup_steps": 2}
    arguments = ["pretrain.yaml", "--data_folder", made / "data", "--device", "cpu"]
    arguments += ["--precision", "fp32", "--model", json.dumps(SIZES)]
    arguments += ["--output_folder", more, "--continue_from", first]
    run_script(RECIPE, "pretrain_encoder", *arguments, "--encoder", json.dumps(settings))
    run_script(RECIPE, "pretrain_denoiser", *arguments, "--denoiser", json.dumps(settings))
    before, after = (
        load_file(first / "whisper.safetensors"),
        load_file(more / "whisper.safetensors"),
    )
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=5e-3, rtol=0)
    before, after = load_file(first / "base.safetensors"), load_file(more / "base.safetensors")
    (name,) = [key for key in before if key.endswith("embed_tokens.weight")]
    assert torch.equal(before[name], after[name])


def test_more_lines_hold_no_sentence_that_is_tested(made):
    """Words of the list with letters the sentences have, lower case, and chains of their words."""
    sentences, words, _ = prepare.read_texts(made / "texts", "en")
    parts = prepare.split_sentences(sentences, words, "en", 40, 200, 1986)
    lines = (made / "data" / "more_texts" / "en.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["efg", "fed"] and "ünal" not in " ".join(lines)
    assert not set(lines) & {*parts["valid"], *parts["test"]}
    heard = {word for line in parts["train"] for word in line.split()}
    assert {word for line in lines for word in line.split()} <= heard | {"efg", "fed"}
    assert any(line not in parts["train"] and " " in line for line in lines)


def test_examples_of_silence_are_noise_with_the_colour_of_speech():
    """Nothing is left of where in time the sound was; its level and its spectrum stay."""
    wavs = torch.zeros(1, 16000)
    wavs[:, 2000:4000] = torch.sin(torch.arange(2000) * 0.3)
    hushed = hush(wavs)
    torch.testing.assert_close(hushed.square().sum(), wavs.square().sum(), rtol=0.1, atol=0)
    quarters = hushed.square().view(4, 4000).sum(dim=1)
    assert quarters.max() < 4 * quarters.min()
    assert not hush(torch.zeros(1, 16000)).any()


def test_what_comes_out_is_a_recognizer(made):
    asr = DiffusionASR.from_hparams(made / "results" / "train" / "pretrained", overrides=SIZES)
    assert set(asr.language_table.languages) == {"en", "zh"}
    (transcript,) = asr.transcribe([noise(1.0)], language="en")
    assert transcript.duration == 1.0


def test_digits_are_spoken_and_written_alike(made):
    """The strings of the text folder, less those held out, are the lines of the text file."""
    with open(made / "data" / "text.csv", encoding="utf-8", newline="") as file:
        lines = {row["wrd"] for row in csv.DictReader(file) if row["lang"] == "digits"}
    spoken = set((made / "data" / "digit_texts" / "en.txt").read_text().splitlines())
    assert lines and lines < spoken
