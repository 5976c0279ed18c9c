"""The stages that make a recognizer of people: data, folds, windows, 8 bits, at toy size."""

import csv
import json

import jiwer
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from miniature import REPOSITORY, load_recipe, noise
from pretraining_runs import run_script, write_speech
from safetensors.torch import load_file

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.inference.eight_bits import from_eight_bits
from speechbrain_diffasr.pretraining.optimization import load_embeddings, load_parts

RECIPE = REPOSITORY / "recipes" / "BaseModel"
RELEASED = REPOSITORY / "pretrained" / "diffasr-base"
collect = load_recipe("BaseModel", "collect_data.py")
SIZES = {"encoder_width": 32, "hidden_size": 32, "vocab_size": 500}
SIZES |= {"window": 2.0, "num_frames": 25, "num_slots": 16, "canvas_length": 24}
VOICES = [f"voice{number}" for number in range(6)]
TEXTS = ["ab cd", "hi jk", "cd ab", "jk", "efg hi", "ab"]
WINDOWS = [[1.2, 0.5], [2.0, 0.5]]


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What collect_data.py makes of people in two languages and of lines of text."""
    root = tmp_path_factory.mktemp("base")
    texts = root / "texts"
    texts.mkdir()
    lines = [
        f"{a} {b} {c}!" for a in ("ab", "cd", "Efg") for b in ("hi", "jk") for c in ("ab", "l’efg")
    ]
    for language in ("en", "it"):
        (texts / f"{language}.txt").write_text(
            "\n".join([*lines, "Room 12", "ß"]), encoding="utf-8"
        )
    speech = [("en", TEXTS[number % 6]) for number in range(60)]
    write_speech(root / "speech", [*speech, ("it", "ab")], [f"voice{n}" for n in range(60)])
    header = "ID,wav,lang,wrd\n"
    (root / "test.csv").write_text(f'{header}a,a.wav,en,"AB, HI AB."\n', encoding="utf-8")
    train = root / "speech" / "train.csv"
    train.write_text(train.read_text().replace(",voice,", ",spk_id,"), encoding="utf-8")
    run_script(
        RECIPE, "collect_data", "--speech", train, "--text_folder", texts, "--exclude",
        root / "test.csv", "--output_folder", root / "data", "--languages", "en", "it",
        "--spoken", "en", "--valid_share", 0.3,
    )  # fmt: skip
    return root / "data"


def test_texts_are_written_as_they_are_trained_on(data):
    lines = {(row["lang"], row["wrd"]) for row in read(data / "text.csv")}
    assert ("it", "ab hi l'efg") in lines and ("it", "ab hi ab") in lines
    assert ("en", "ab hi ab") not in lines  # a test sentence
    assert not any("12" in text or "ß" in text for _, text in lines)
    rows = [line.split("\t") for line in (data / "lines.tsv").read_text("utf-8").splitlines()]
    assert ["Efg jk l’efg!", "efg jk l'efg"] in [row[2:] for row in rows]


def test_voices_are_trained_on_or_kept_out(data):
    train, valid = (read(data / "human" / f"{split}.csv") for split in ("train", "valid"))
    voices = [{row["spk_id"] for row in rows} for rows in (train, valid)]
    assert not voices[0] & voices[1] and len(voices[0] | voices[1]) == 60
    assert 5 <= len(voices[1]) <= 35
    assert {row["lang"] for row in train + valid} == {"en"}  # no Italian speech was asked for


@pytest.fixture(scope="module")
def made(data):
    """Every stage, with two folds and windows of two lengths."""
    results = data.parent / "results"
    run_script(
        RECIPE, "train_tokenizer", "--csv", data / "text.csv", "--output", data / "tokenizer.json",
        "--vocab_size", SIZES["vocab_size"],
    )  # fmt: skip
    for corpus in ("kokoro", "espeak"):
        write_speech(data / corpus, [("en", text) for text in TEXTS], VOICES)
    settings = ["--data_folder", data, "--device", "cpu", "--precision", "fp32"]
    settings += ["--model", json.dumps(SIZES)]
    sizes = {"steps": 3, "batch_size": 3, "heard_batch_size": 3, "save_every": 2, "warmup_steps": 2}
    encoder, denoiser = json.dumps(sizes), json.dumps({**sizes, "windows": WINDOWS})
    pretrain = results / "pretrain"
    common = ["pretrain.yaml", *settings, "--train_window", 2.0, "--whisper_source", "null"]
    fixed = ["--fixed_embeddings", True, "--embeddings", pretrain / "embeddings.safetensors"]
    run_script(
        RECIPE, "pretrain_encoder", *common, "--output_folder", pretrain, "--encoder", encoder
    )
    for fold in (0, 1):
        output = ["--output_folder", pretrain / f"fold{fold}", "--fold", fold]
        run_script(RECIPE, "pretrain_encoder", *common, *fixed, *output, "--encoder", encoder)
    common = [*common, *fixed, "--output_folder", pretrain, "--denoiser", denoiser]
    run_script(RECIPE, "pretrain_denoiser", *common)
    run_script(RECIPE, "pretrain_denoiser", *common, "--heard", True)
    run_script(
        RECIPE, "train", "train.yaml", *settings, "--pretrain_folder", pretrain,
        "--output_folder", results / "train", "--number_of_epochs", 1, "--epoch_length", 2,
        "--number_of_steps", 2, "--batch_size", 3, "--noprogressbar",
    )  # fmt: skip
    return results


def test_folds_learn_apart_and_speak_the_same_language(made):
    """Other weights, the same output layer, which the denoiser reads with, too."""
    pretrain = made / "pretrain"
    folders = [pretrain, pretrain / "fold0", pretrain / "fold1"]
    shared = [load_file(folder / "embeddings.safetensors")["weight"] for folder in folders]
    assert torch.equal(shared[0], shared[1]) and torch.equal(shared[0], shared[2])
    base = load_file(pretrain / "base.safetensors")
    (name,) = [key for key in base if key.endswith("embed_tokens.weight")]
    torch.testing.assert_close(base[name].float(), shared[0], atol=1e-3, rtol=1e-3)
    weights = [load_file(folder / "projector.safetensors") for folder in folders]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(weights[one]["linear.weight"], weights[other]["linear.weight"])


def test_what_comes_out_is_stored_in_8_bits_and_hears(made):
    folder = made / "train" / "pretrained"
    assert load_file(folder / "base.safetensors")["model.decoder.embed_tokens.weight"].dtype == (
        torch.int8
    )
    asr = DiffusionASR.from_hparams(folder, overrides=SIZES)
    (transcript,) = asr.transcribe([noise(1.0)], language="en")
    assert transcript.duration == 1.0


def test_the_released_model_is_what_the_recipe_describes():
    """Its sizes are model.yaml's, and training can go on from it: output layer and all."""
    with open(RECIPE / "model.yaml", encoding="utf-8") as file:
        model = load_hyperpyyaml(file)
    parts = {name: model[name] for name in ("whisper", "projector")}
    load_parts(RELEASED, **parts)
    model["tokenizer"].load(RELEASED / "tokenizer.json")
    weight = load_embeddings(RELEASED, model["diffusion_gemma"])
    assert weight.shape == (model["vocab_size"], model["hidden_size"])
    assert len(model["tokenizer"]) <= model["vocab_size"]
    frames = model["whisper"](noise(1.0)[None])
    assert model["projector"](frames).shape == (1, model["prompt"].num_frames, model["hidden_size"])
    prompt = model["prompt"]
    assert all(len(prompt.tokens(language)) < 210 for language in model["languages"])


def test_a_denoiser_that_never_heard_anything_learns_its_own_embeddings(made, data):
    """From text alone, beside Whisper as it is: what the losses on real speech begin with."""
    output = made / "deaf"
    steps = {"batch_size": 2, "warmup_steps": 1, "windows": WINDOWS}
    settings = ["--data_folder", data, "--device", "cpu", "--precision", "fp32"]
    settings += ["--model", json.dumps(SIZES), "--output_folder", output, "--train_window", 2.0]
    run_script(
        RECIPE, "pretrain_encoder", "pretrain.yaml", *settings, "--whisper_source", "null",
        "--encoder", json.dumps({**steps, "steps": 0}),
    )  # fmt: skip
    weights = []
    for count in (1, 2):
        denoiser = json.dumps({**steps, "steps": count, "pace": [1, 1], "max_blur": 0.0})
        run_script(
            RECIPE, "pretrain_denoiser", "pretrain.yaml", *settings, "--embeddings", "null",
            "--denoiser", denoiser,
        )  # fmt: skip
        base = load_file(output / "base.safetensors")
        (name,) = [key for key in base if key.endswith("embed_tokens.weight")]
        weights.append(base[name])
    assert not torch.equal(*weights)
    assert (output / "whisper.safetensors").exists()


def test_training_goes_on_from_a_folder_whose_base_has_the_embeddings(made, data):
    """Encoder and denoiser from a pretrained folder: the output layer stays what it was."""
    folder, output = made / "train" / "pretrained", made / "again"
    steps = json.dumps({"steps": 1, "batch_size": 2, "warmup_steps": 1, "windows": WINDOWS})
    settings = ["--data_folder", data, "--device", "cpu", "--precision", "fp32"]
    settings += ["--model", json.dumps(SIZES), "--output_folder", output, "--train_window", 2.0]
    settings += ["--embeddings", folder, "--fixed_embeddings", True, "--continue_from", folder]
    run_script(
        RECIPE, "pretrain_encoder", "pretrain.yaml", *settings, "--encoder", steps,
        "--whisper_source", "null",
    )  # fmt: skip
    run_script(RECIPE, "pretrain_denoiser", "pretrain.yaml", *settings, "--denoiser", steps)
    before = from_eight_bits(load_file(folder / "base.safetensors"))
    after = load_file(output / "base.safetensors")
    name = "model.decoder.embed_tokens.weight"
    torch.testing.assert_close(after[name].float(), before[name].float(), atol=1e-3, rtol=1e-3)
    assert (output / "whisper.safetensors").is_file()


@pytest.fixture(scope="module")
def released():
    return DiffusionASR.from_hparams(RELEASED)


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "hi", "zh", "it"])
def test_of_two_people_each_is_understood(language, released):
    """On the clips that are shipped: what is heard is nearer to what was said than to the other."""
    clips = sorted((RELEASED / "samples").glob(f"{language}_*.ogg"))
    said = [clip.with_suffix(".txt").read_text(encoding="utf-8").lower() for clip in clips]
    assert len(clips) == 2
    for own, (clip, other) in enumerate(zip(clips, reversed(said), strict=True)):
        heard = released.transcribe_file(clip, language=language)
        assert jiwer.cer(said[own], heard) + 0.1 < jiwer.cer(other, heard)
