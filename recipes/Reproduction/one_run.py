"""One run of losses.py: projector and LoRA trained with some of the losses, from one seed."""

import json
import shutil
import time
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.sampler import ReproducibleRandomSampler
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import TrainLogger

from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.evaluation import evaluate_rows
from speechbrain_diffasr.evaluation.metrics import main_kind
from speechbrain_diffasr.inference.pretrained import TRAINED
from speechbrain_diffasr.training import AtomicCheckpointer, DiffusionBrain
from speechbrain_diffasr.training.data import make_datasets
from speechbrain_diffasr.training.fit import load_recognizer
from speechbrain_diffasr.training.objective import utterance_seed
from speechbrain_diffasr.utils.atomic import replacing
from speechbrain_diffasr.utils.environment import hardware, versions

PARTS = ("diffusion", "autoregressive", "ctc")


class CurveLogger(TrainLogger):
    """Keeps the points of the curves in a JSON file, which is complete after every point.

    Arguments
    ---------
    path : Path
        Points that are there are kept.
    log_every : int
        Steps between two points.
    """

    def __init__(self, path, log_every):
        self.path, self.log_every = path, log_every
        self.points = read_json(path, [])
        self.before = self.points[-1]["seconds"] if self.points else 0.0
        self.begin = time.perf_counter()

    def log_stats(
        self, stats_meta, train_stats=None, valid_stats=None, test_stats=None, verbose=False
    ):
        """Adds a point after validation; puts what a test gave into the last one, as other_audio.

        Arguments
        ---------
        stats_meta, train_stats, valid_stats, test_stats, verbose
            As `DiffusionBrain` gives them.
        """
        if test_stats is not None:
            self.points[-1]["other_audio"] = test_stats
            write_json(self.path, self.points)
            return
        epoch = stats_meta["epoch"]
        point = {
            "step": epoch * self.log_every,
            "seconds": self.before + time.perf_counter() - self.begin,
            "lr": stats_meta["lr"],
            "train": {name: train_stats[name] for name in PARTS},
            "valid": valid_stats,
        }
        # A run that was killed between this point and its checkpoint makes the point again.
        self.points = [p for p in self.points if p["step"] < point["step"]] + [point]
        write_json(self.path, self.points)


def train_one(hparams, run_opts, folder, data, weights, seed):
    """Trains, or goes on with, one run, and scores it.

    Arguments
    ---------
    hparams : dict
        Of losses.yaml.
    run_opts : RunOptions
        Of SpeechBrain's command line.
    folder : Path
        Of this run; gets curve.json, transcripts.json, result.json.
    data : dict
        Paths of the CSV files train, valid, other (validation, each text with the audio of
        another utterance) and test.
    weights : dict
        Of the losses; 0 leaves one out.
    seed : int
        Of the first weights, of the order of the utterances and of all noise.

    Returns
    -------
    result : dict
        What result.json holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**hparams["training"], "seed": seed, "loss_weights": weights}
    torch.manual_seed(seed)
    changes = dict(hparams["model"] or {})
    changes["fresh"] = sorted({*TRAINED, *changes.get("fresh", ())})
    asr = load_recognizer(hparams["pretrained"], changes, run_opts, trained=True)
    # What can fail, fails before the training and not after it.
    machine = {"hardware": hardware(asr.device), "versions": versions()}
    log_every = hparams["log_every"]
    curve = CurveLogger(folder / "curve.json", log_every)
    counter = EpochCounter(limit=hparams["steps"] // log_every)
    checkpointer = AtomicCheckpointer(folder / "save")
    checkpointer.add_recoverables(
        {
            "projector": asr.mods.encoder.projector,
            "diffusion_gemma": asr.mods.decoder.model,
            "counter": counter,
        }
    )
    brain = DiffusionBrain(
        modules=asr.mods,
        opt_class=settings["opt_class"],
        hparams={**settings, "tokenizer": asr.tokenizer, "train_logger": curve},
        run_opts=run_opts,
        checkpointer=checkpointer,
    )
    progress = not brain.noprogressbar
    datasets = make_datasets(asr, data, settings, progress)
    others = dict.fromkeys(("train", "valid"), data["other"])
    others = make_datasets(asr, others, settings, progress)
    batch_size = settings["max_batch_utterances"]
    brain.train_sampler = ReproducibleRandomSampler(
        datasets["train"], seed=utterance_seed(seed), num_samples=log_every * batch_size
    )
    train = brain.make_dataloader(
        datasets["train"],
        sb.Stage.TRAIN,
        sampler=brain.train_sampler,
        batch_size=batch_size,
        num_workers=settings["num_workers"],
        collate_fn=PaddedBatch,
    )
    valid, other = (
        brain.make_dataloader(
            dataset,
            sb.Stage.VALID,
            ckpt_prefix=None,
            batch_size=settings["valid_batch_size"],
            collate_fn=PaddedBatch,
        )
        for dataset in (datasets["valid"], others["valid"])
    )
    brain.fit(_until(counter, hparams["seconds"]), train, valid, progressbar=False)
    brain.evaluate(other, progressbar=False)
    asr.mods.eval()
    rows, transcripts, rates = read_rows(data["test"]), {}, {}
    for name, mismatched in (("own_audio", False), ("other_audio", True)):
        scored = evaluate_rows(
            asr,
            rows,
            steps=hparams["test_steps"],
            batch_size=hparams["test_batch_size"],
            normalizer=hparams["normalizer"],
            mismatched_audio=mismatched,
        )
        transcripts[name] = scored["utterances"]
        rates[name] = {
            language: rate[main_kind(language)] for language, rate in scored["rates"].items()
        }
        write_json(folder / "transcripts.json", transcripts)
    last = curve.points[-1]
    result = {
        "losses": {
            "own_audio": {name: last["valid"][name] for name in PARTS},
            "other_audio": {name: last["other_audio"][name] for name in PARTS},
        },
        "error_rates": rates,
        "steps": last["step"],
        "seconds": last["seconds"],
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None,
        **machine,
    }
    write_json(folder / "result.json", result)
    # Nothing goes on from a run that is finished.
    shutil.rmtree(folder / "save")
    return result


def _until(counter, seconds):
    """The epochs of a counter, none of which begins after so many seconds."""
    begin = time.perf_counter()
    for epoch in counter:
        yield epoch
        if seconds is not None and time.perf_counter() - begin > seconds:
            break


def read_json(path, default=None):
    """What a JSON file holds, or `default` if there is none."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def write_json(path, value):
    """Writes a JSON file, complete or not at all."""
    with replacing(path) as part:
        text = json.dumps(value, indent=1, ensure_ascii=False)
        part.write_text(f"{text}\n", encoding="utf-8")
