"""A training run as its user sees it: progress, logs, checkpoints, and what is left out."""

import re
import sys
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file
from training_runs import REPOSITORY, UTTERANCES, state, train, write_data

from speechbrain_diffasr.training import AtomicCheckpointer, RecognizerLosses

PARTS = ("diffusion", "autoregressive", "ctc")


@pytest.fixture(scope="module")
def done(random_model, tmp_path_factory):
    """A run of three epochs over data of which two utterances do not fit."""
    folder = tmp_path_factory.mktemp("training")
    long = ("en", " ".join(["w1"] * 11))  # the canvas has ten places
    utterances = [("de", "w2 w3"), long, *UTTERANCES]
    recipe = write_data(folder, utterances)
    rows = (folder / "train.csv").read_text().replace("u0,0.9,", "u0,2.5,")  # of two seconds
    (folder / "train.csv").write_text(rows)
    options = {"tensorboard": True, "number_of_epochs": 3, "max_batch_utterances": 4}
    code, text = train(recipe, random_model, folder / "run", **options)
    assert code == 0, text
    return folder / "run", text


def test_the_bar_shows_losses_speed_and_time_left(done):
    text = done[1]
    bars = [bar for bar in re.split(r"[\r\n]", text) if bar.startswith("epoch 2 train")]
    last = bars[-1]
    assert re.search(r"\d+/\d+ \[\d\d:\d\d<\d\d:\d\d", last)  # time left
    for part in PARTS:
        assert re.search(rf"{part}=\d+\.\d+", last), part
    assert re.search(r"h/h=\d+", last)
    assert any(bar.startswith("epoch 3 valid") for bar in re.split(r"[\r\n]", text))


def test_the_log_has_all_parts_of_the_loss(done):
    lines = (done[0] / "train_log.txt").read_text().splitlines()
    assert len(lines) == 3
    for line in lines:
        for stage in ("train", "valid"):
            values = {
                part: float(re.search(rf"{stage} {part}: ([\d.e+-]+)", line)[1])
                for part in (*PARTS, "loss")
            }
            weighted = values["diffusion"] + 0.5 * values["autoregressive"] + 0.3 * values["ctc"]
            assert values["loss"] == pytest.approx(weighted, rel=0.02)
        assert "error_rate_en" in line


def test_tensorboard_has_all_parts_of_the_loss(done):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(done[0] / "tensorboard"))
    events.Reload()
    for part in (*PARTS, "loss"):
        for stage in ("train", "valid"):
            assert [event.step for event in events.Scalars(f"{part}/{stage}")] == [1, 2, 3]


def test_what_does_not_fit_is_left_out_and_named(done):
    line = next(line for line in done[1].splitlines() if "left out" in line)
    assert "2 of 10" in line and line.endswith("u0, u1")
    assert "window of 2 s" in line and "canvas of 10 tokens" in line


def test_moments_are_kept_in_the_newest_checkpoint_only_and_the_best_is_found(done, tmp_path):
    checkpoints = AtomicCheckpointer(done[0] / "save").list_checkpoints()
    newest = max(checkpoints, key=lambda one: one.meta["unixtime"])
    assert 1 <= len(checkpoints) <= 2
    for checkpoint in checkpoints:
        assert ("optimizer" in checkpoint.paramfiles) == (checkpoint.path == newest.path)
    best = min(checkpoints, key=lambda one: (one.meta["error_rate"], -one.meta["unixtime"]))
    weights = torch.load(best.paramfiles["projector"], weights_only=True)
    written = load_file(done[0] / "pretrained" / "projector.safetensors")
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)


def test_the_pretrained_folder_of_an_older_best_epoch(random_model, tmp_path):
    """The best epoch is not the last: its weights are what is written."""
    recipe = write_data(tmp_path)
    code, text = train(recipe, random_model, tmp_path / "run", prepare=first_epoch_is_best)
    assert code == 0, text
    checkpointer = AtomicCheckpointer(tmp_path / "run" / "save")
    best, newest = (
        checkpointer.find_checkpoint(min_key="error_rate"),
        checkpointer.find_checkpoint(),
    )
    assert (best.meta["error_rate"], newest.meta["error_rate"]) == (1.0, 2.0)
    assert "optimizer" in newest.paramfiles and "optimizer" not in best.paramfiles
    weights = torch.load(best.paramfiles["projector"], weights_only=True)
    written = load_file(tmp_path / "run" / "pretrained" / "projector.safetensors")
    assert all(torch.equal(written[name], weights[name]) for name in weights)
    assert not torch.equal(
        weights["linear.weight"], state(tmp_path / "run")["projector"]["linear.weight"]
    )


def first_epoch_is_best():
    save = AtomicCheckpointer.save_and_keep_only
    number = []

    def worse_each_time(self, meta={}, **options):
        number.append(meta)
        save(self, meta={"error_rate": float(len(number))}, **options)

    AtomicCheckpointer.save_and_keep_only = worse_each_time


def no_memory():
    def forward(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")

    RecognizerLosses.forward = forward


def test_out_of_memory_names_what_to_turn_down(random_model, tmp_path):
    recipe = write_data(tmp_path)
    options = {"max_batch_utterances": 7, "batch_seconds": 33.0, "chunk_size": 512}
    code, text = train(recipe, random_model, tmp_path / "run", prepare=no_memory, **options)
    assert code == 1 and "Traceback" not in text, text
    message = text[text.index("train.py: ") :]
    assert message.startswith("train.py: CUDA out of memory. Tried to allocate 2.00 GiB.")
    for setting in ("max_batch_utterances (7)", "batch_seconds (33 s)", "chunk_size (512)"):
        assert setting in message
    assert "--grad_accumulation_factor (1)" in message and "valid_batch_size (8)" in message


def test_more_accumulation_than_batches_is_refused(random_model, tmp_path):
    recipe = write_data(tmp_path)
    code, text = train(recipe, random_model, tmp_path / "run", grad_accumulation_factor=64)
    assert code == 1 and "Traceback" not in text
    assert "--grad_accumulation_factor 64: an epoch has only 4 batches" in text


def test_a_recording_that_is_broken_gets_one_line(random_model, tmp_path):
    """Read in a process of the data loader, whose errors come with its traceback."""
    recipe = write_data(tmp_path)
    (tmp_path / "u3.wav").write_bytes(b"not audio")
    code, text = train(recipe, random_model, tmp_path / "run", num_workers=1)
    assert code == 1
    message = text[text.index("train.py: ") :]
    assert "u3.wav" in message and "Traceback" not in message and len(message.splitlines()) == 1


def test_a_temperature_draws_languages_of_few_hours_more_often(random_model, tmp_path):
    recipe = write_data(tmp_path, [("en", "w1")] * 30 + [("hi", "w2")] * 2 + [("en", "w3")] * 2)
    options = {"language_temperature": 100, "max_batch_utterances": 8, "number_of_epochs": 1}
    code, text = train(recipe, random_model, tmp_path / "run", prepare=print_languages, **options)
    assert code == 0, text
    drawn = re.findall(r"drawn: (\w\w)", text)
    assert len(drawn) == 32 and drawn.count("hi") > 8  # about half; there are two


def print_languages():
    forward = RecognizerLosses.forward

    def printing(self, languages, *args, **kwargs):
        print(*(f"drawn: {language}" for language in languages), sep="\n", flush=True)
        return forward(self, languages, *args, **kwargs)

    RecognizerLosses.forward = printing


def test_weights_of_a_checkpoint_take_less_than_180_mb_at_full_size():
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    from common import FULL_SIZE

    path = Path(REPOSITORY, "pretrained", "diffusion-gemma-asr", "hyperparams.yaml")
    with torch.device("meta"):
        parts = load_hyperpyyaml(path.read_text(), FULL_SIZE, overrides_must_match=False)
    trained = [p for module in parts["modules"].values() for p in module.parameters()]
    saved = [p for p in trained if p.requires_grad]
    # That the files hold this and nothing else is asserted below.
    assert sum(p.numel() * p.element_size() for p in saved) < 180e6


def test_a_checkpoint_holds_what_is_trained_and_nothing_else(done, random_model):
    checkpoint = AtomicCheckpointer(done[0] / "save").find_checkpoint()
    saved = torch.load(checkpoint.paramfiles["projector"], weights_only=True)
    lora = load_file(checkpoint.paramfiles["diffusion_gemma"])
    assert lora.keys() and all("lora_" in name for name in lora)
    assert saved.keys() == load_file(random_model / "projector.safetensors").keys()
    moments = torch.load(checkpoint.paramfiles["optimizer"], weights_only=True)["state"]
    assert len(moments) == len(saved) + len(lora)
