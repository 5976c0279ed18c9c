"""Every recipe by its own train.py and YAML files: from a raw corpus to a model and its WER."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch
from miniature import (
    REPOSITORY,
    load_recipe,
    make_csv,
    make_fleurs,
    make_librispeech,
    noise,
    rows_of,
)
from miniature_more import make_commonvoice, make_voxpopuli
from recipe_runs import QUICK, run_recipe
from safetensors.torch import load_file

from speechbrain_diffasr import DiffusionASR, cli
from speechbrain_diffasr.decoders.language_id import LANGUAGE_FILE

# Words of the model of conftest.py, which hears 2 s.
ENGLISH = [(noise(1.0, 1), "w1 w2", "en"), (noise(1.4, 2), "w3 w4 w5", "en")]
SEVERAL = [*ENGLISH, (noise(0.8, 3), "w6", "de"), (noise(1.2, 4), "w7 w1", "hi")]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For models as small as these, more threads are slower, many times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def librispeech(root):
    make_librispeech(root / "LibriSpeech", ENGLISH)
    splits = ("--test_splits", "[test-clean]")
    training = (*splits, "--train_splits", "[train-clean-100]")
    data = ("--data_folder", root / "LibriSpeech")
    return (*data, *training), (*data, *splits)


def fleurs(root):
    make_fleurs(root / "fleurs", SEVERAL)
    data = ("--data_folder", root / "fleurs", "--languages", "[en_us, de_de, hi_in]")
    return data, data


def voxpopuli(root):
    make_voxpopuli(root / "voxpopuli", SEVERAL)
    data = ("--data_folder", root / "voxpopuli", "--languages", "[en, de, hi]")
    return data, data


def voxpopuli_cut(root):
    make_voxpopuli(root / "voxpopuli", SEVERAL, cut=True)
    data = ("--data_folder", root / "voxpopuli", "--languages", "[en, de, hi]")
    return data, data


def commonvoice(root):
    make_commonvoice(root / "release", SEVERAL)
    data = ("--data_folder", root / "release", "--languages", "[en, de, hi]")
    return data, data


def own_csv(root):
    make_csv(root / "own", SEVERAL)
    start = ("--data_folder", root / "own", "--test_csv", "test.csv")
    return (*start, "--train_csv", "train.csv", "--valid_csv", "valid.csv"), start


def multilingual(root):
    """Two corpora that their recipes prepared; Italian is no language of the model."""
    make_librispeech(root / "LibriSpeech", ENGLISH)
    load_recipe("LibriSpeech").prepare_librispeech(
        root / "LibriSpeech", root / "libri", ["train-clean-100"], ["dev-clean"], ["test-clean"]
    )
    italian = (noise(1.1, 5), "w8 w9", "it")
    make_voxpopuli(root / "voxpopuli", [*SEVERAL[2:3], italian])
    load_recipe("VoxPopuli").prepare_voxpopuli(
        root / "voxpopuli", root / "vox", languages=["de", "it"]
    )
    corpora = [
        {"name": "libri", "folder": str(root / "libri"), "data_root": str(root / "LibriSpeech")},
        {"name": "vox", "folder": str(root / "vox")},
    ]
    return ("--corpora", json.dumps(corpora)), ()


RECIPES = {
    "LibriSpeech": (librispeech, {"en"}),
    "FLEURS": (fleurs, {"en", "de", "hi"}),
    "VoxPopuli": (voxpopuli, {"en", "de", "hi"}),
    "VoxPopuli, cut": (voxpopuli_cut, {"en", "de", "hi"}),
    "CommonVoice": (commonvoice, {"en", "de", "hi"}),
    "CSV": (own_csv, {"en", "de", "hi"}),
    "Multilingual": (multilingual, {"en", "de", "it"}),
}


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, random_model, tmp_path_factory):
    """A recipe that has run: its name, languages, folders, and options to score the same data."""
    name = request.param
    make, languages = RECIPES[name]
    root = tmp_path_factory.mktemp(name.replace(", ", "-"))
    training, scoring = make(root)
    recipe = name.partition(",")[0]
    run_recipe(
        recipe, "train.yaml", "--pretrained", random_model, "--output_folder", root / "results",
        "--csv_folder", root / "csv", *training, *QUICK,
    )  # fmt: skip
    return recipe, languages, root, scoring


def rates_of(folder):
    """{(CSV file, steps): {normalizer: {language: rates}}} of results.json."""
    report = json.loads((folder / "evaluation" / "results.json").read_text(encoding="utf-8"))
    return {(Path(r["csv"]).name, r["steps"]): r["rates"] for r in report["results"]}


def test_a_raw_corpus_becomes_a_model_and_its_rates(trained):
    _, languages, root, _ = trained
    for split in ("train", "valid"):
        assert {row["lang"] for row in rows_of(root / "csv", split)} == languages
    log = (root / "results" / "train_log.txt").read_text(encoding="utf-8")
    for part in ("diffusion", "autoregressive", "ctc", "loss"):
        assert f"train {part}: " in log
        assert f"valid {part}: " in log
    for language in languages:
        assert f"valid error_rate_{language}: " in log

    rates = rates_of(root / "results")
    assert {steps for _, steps in rates} == {1, 2}
    assert {lang for found in rates.values() for lang in found["whisper"]} == languages
    for found in rates.values():
        assert all(rate["wer"] >= 0 for rate in found["whisper"].values())
    # What was run stands beside it.
    text = (root / "results" / "hyperparams.yaml").read_text(encoding="utf-8")
    assert "denoising_steps: 2 " in text
    assert "prepare_" in (root / "results" / "train.py").read_text(encoding="utf-8")
    assert "def prepare_" in (root / "results" / "prepare.py").read_text(encoding="utf-8")


def test_the_pretrained_folder_loads_and_holds_no_backbone(trained):
    _, languages, root, _ = trained
    folder = root / "results" / "pretrained"
    table = {LANGUAGE_FILE} if len(languages) > 1 else set()
    assert {path.name for path in folder.iterdir()} == {
        "hyperparams.yaml", "projector.safetensors", "adapter_model.safetensors",
        "adapter_config.json", *table,
    }  # fmt: skip
    asr = DiffusionASR.from_hparams(folder)
    assert languages <= set(asr.languages)
    assert {"en", "de", "fr", "es", "hi", "zh"} <= set(asr.languages)
    for wav, _, _ in ENGLISH:
        for language in languages:
            (transcript,) = asr.transcribe([wav], language, steps=2)
            assert transcript.text == asr.tokenizer.decode_ids(transcript.tokens)
            assert transcript.language == language


def test_the_languages_of_training_can_be_told_apart(trained, tmp_path, capsys):
    _, languages, root, _ = trained
    folder, path = root / "results" / "pretrained", tmp_path / "a.wav"
    soundfile.write(path, ENGLISH[0][0].numpy(), 16000)
    assert cli.main(["transcribe", str(path), "--model", str(folder), "--format", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    asr = DiffusionASR.from_hparams(folder)
    if len(languages) == 1:
        assert asr.language_table is None
        assert told["language"] is told["language_probability"] is None
        return
    assert told["language"] in languages
    assert 1 / len(languages) <= told["language_probability"] <= 1

    expected = {language: Counter() for language in languages}
    for row in rows_of(root / "csv", "train"):
        expected[row["lang"]].update(row["wrd"].split())
    words = asr.tokenizer.backend.convert_ids_to_tokens(range(len(asr.tokenizer)))
    for language, row in zip(asr.language_table.languages, asr.language_table.counts, strict=True):
        assert dict(zip(words, row.tolist(), strict=True)) == {
            word: expected[language][word] for word in words
        }


def test_the_saved_model_has_the_same_rates(trained):
    name, _, root, scoring = trained
    csv_folder = root / "csv" if name == "Multilingual" else root / "test_csv"
    run_recipe(
        name, "evaluate.yaml", "--pretrained", root / "results" / "pretrained",
        "--output_folder", root / "scored", "--csv_folder", csv_folder, *scoring,
        "--steps", "[1, 2]", "--device", "cpu", "--noprogressbar",
    )  # fmt: skip
    assert rates_of(root / "scored") == rates_of(root / "results")


def test_the_saved_model_can_be_changed_and_trained_anew(random_model, tmp_path):
    make_csv(tmp_path / "own", ENGLISH)
    options = (
        "--data_folder", tmp_path / "own", "--train_csv", "train.csv", "--valid_csv", "valid.csv",
        *QUICK, "--lr", "0",
    )  # fmt: skip

    def train(source, name, *more):
        output = tmp_path / name
        run_recipe(
            "CSV", "train.yaml", "--pretrained", source, "--output_folder", output, *options, *more
        )
        return output / "pretrained"

    def weights(folder):
        return load_file(folder / "projector.safetensors")["linear.weight"]

    first = train(random_model, "first", "--model", "{denoising_steps: 3}")
    assert torch.equal(weights(first), weights(random_model))
    assert DiffusionASR.from_hparams(first).mods.decoder.sampler.steps == 3
    changed = DiffusionASR.from_hparams(first, overrides={"denoising_steps": 5})
    assert changed.mods.decoder.sampler.steps == 5
    assert torch.equal(weights(train(first, "second")), weights(first))
    fresh = train(first, "fresh", "--start", "fresh")
    assert not torch.equal(weights(fresh), weights(first))
    assert torch.equal(
        DiffusionASR.from_hparams(fresh).mods.encoder.projector.linear.weight, weights(fresh)
    )


def refusal(name, *argv):
    """The one line that a run ends with."""
    with pytest.raises(SystemExit) as caught:
        run_recipe(name, *argv, "--device", "cpu", "--noprogressbar")
    # A text: Python writes it to stderr and exits with status 1.
    message = caught.value.code
    assert isinstance(message, str)
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def usual(tmp_path):
    """Options of a run on LibriSpeech that would succeed, but for data_folder and pretrained."""
    return "train.yaml", "--output_folder", tmp_path / "results", "--csv_folder", tmp_path / "csv"


def test_a_wrong_data_folder_is_named(usual, tmp_path):
    model = ("--pretrained", REPOSITORY / "pretrained" / "diffasr-tiny")
    message = refusal("LibriSpeech", *usual, *model, "--data_folder", tmp_path)
    assert message == (
        f"train.py: data_folder: '{tmp_path}' has no folder 'train-clean-100'; "
        "expected the unpacked LibriSpeech"
    )


@pytest.mark.parametrize("yaml", ["train.yaml", "evaluate.yaml"])
def test_what_must_be_given_is_named(yaml):
    for name in ("LibriSpeech", "FLEURS", "VoxPopuli", "CommonVoice"):
        message = refusal(name, yaml, *(["--pretrained", "x"] if yaml == "evaluate.yaml" else []))
        assert message == f"train.py: {yaml}: give --data_folder"


def test_an_unknown_option_is_named_with_the_one_it_resembles(usual, tmp_path):
    message = refusal("LibriSpeech", *usual, "--data_folder", tmp_path, "--lrr", "1")
    assert message == "train.py: --lrr: no such option; did you mean --lr?"


def test_a_missing_yaml_file_is_asked_for(tmp_path):
    assert refusal("LibriSpeech", "--data_folder", tmp_path).startswith(
        "train.py: name a YAML file, such as train.yaml"
    )
    assert refusal("LibriSpeech", "trian.yaml") == "train.py: trian.yaml: No such file or directory"


def test_a_wrong_model_is_named_before_data_is_prepared(usual, tmp_path):
    make_librispeech(tmp_path / "LibriSpeech", ENGLISH)
    data = ("--data_folder", tmp_path / "LibriSpeech")
    (tmp_path / "empty").mkdir()
    for source, reason in (
        (tmp_path / "empty", "has no hyperparams.yaml"),
        (tmp_path / "nothing", "is neither a folder nor OWNER/NAME on the Hub"),
    ):
        message = refusal("LibriSpeech", *usual, *data, "--pretrained", source)
        assert message == f"train.py: --pretrained: '{source}' {reason}"
    assert not (tmp_path / "csv").exists()


def test_a_device_that_is_not_there_is_named(usual, tmp_path, random_model):
    options = (*usual, "--data_folder", tmp_path, "--pretrained", random_model)
    with pytest.raises(SystemExit) as caught:
        run_recipe("LibriSpeech", *options, "--device", "cuda:99")
    assert caught.value.code == (
        "train.py: --device: 'cuda:99' is not a device of this machine; try cpu"
    )


def test_an_unknown_key_of_the_model_is_named(tmp_path, random_model):
    make_csv(tmp_path / "own", ENGLISH)
    message = refusal(
        "CSV", "evaluate.yaml", "--output_folder", tmp_path / "results", "--data_folder",
        tmp_path / "own", "--test_csv", "test.csv", "--pretrained", random_model,
        "--model", "{denoising_stepz: 3}",
    )  # fmt: skip
    assert "denoising_stepz" in message


def test_an_unknown_language_is_named_and_can_be_taught(tmp_path, random_model):
    make_csv(tmp_path / "own", [(wav, text, "x-klingon") for wav, text, _ in ENGLISH])
    options = (
        "train.yaml", "--output_folder", tmp_path / "results", "--pretrained", random_model,
        "--data_folder", tmp_path / "own", "--train_csv", "train.csv", "--valid_csv", "valid.csv",
    )  # fmt: skip
    message = refusal("CSV", *options)
    assert "lang: 'x-klingon' is neither a language of the model" in message
    assert "--model '{languages: {x-klingon: NAME}}'" in message
    run_recipe("CSV", *options, *QUICK, "--model", "{languages: {x-klingon: Klingon}}")
    asr = DiffusionASR.from_hparams(tmp_path / "results" / "pretrained")
    assert asr.languages[-1] == "x-klingon"


def test_nothing_to_score_is_an_error(tmp_path, random_model):
    message = refusal(
        "Multilingual", "evaluate.yaml", "--pretrained", random_model,
        "--output_folder", tmp_path / "results", "--csv_folder", tmp_path,
    )  # fmt: skip
    assert message == f"train.py: data: test: there is no {tmp_path}/test_*.csv"


@pytest.mark.parametrize("name", sorted({name.partition(",")[0] for name in RECIPES}))
def test_help_shows_every_key(name, capsys):
    run_recipe(name, "train.yaml", "--help")
    shown = capsys.readouterr().out
    for key in ("csv_folder:", "pretrained:", "lr: 1.5e-4", "self_conditioning:", "normalizers:"):
        assert key in shown


def test_bad_input_leaves_no_traceback(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "train.py", "evaluate.yaml", "--pretrained", "nowhere"),
            *("--data_folder", str(tmp_path), "--output_folder", str(tmp_path / "results")),
        ],
        cwd=REPOSITORY / "recipes" / "FLEURS",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "train.py: --pretrained: 'nowhere' is neither a folder nor OWNER/NAME on the Hub"
    )
