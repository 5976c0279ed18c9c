"""CSV files as training batches."""

import logging

import speechbrain as sb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.sampler import DynamicBatchSampler

from speechbrain_diffasr.dataio.dataset import csv_dataset
from speechbrain_diffasr.dataio.feature_cache import FeatureCache, encode_datasets
from speechbrain_diffasr.dataio.samplers import WeightedDynamicBatchSampler, language_weights

logger = logging.getLogger(__name__)


def make_datasets(asr, data, settings, progress=True):
    """Reads the CSV files of training and validation, and encodes their audio if it is cached.

    Arguments
    ---------
    asr : DiffusionASR
    data : dict
        With the paths train and valid, and root.
    settings : dict
        Those of hparams/training.yaml.
    progress : bool
        Whether to show a progress bar where audio is encoded. Default: True.

    Returns
    -------
    datasets : dict of DynamicItemDataset
    """
    cache = None
    if settings["feature_cache"]:
        cache = FeatureCache(settings["feature_cache"], asr.mods.encoder.whisper)
    datasets = {}
    for name in ("train", "valid"):
        dataset = csv_dataset(data[name], data.get("root"), asr.tokenizer, asr.sample_rate, cache)
        _leave_out(dataset, asr, data[name])
        datasets[name] = dataset
    if cache is not None:
        encode_datasets(
            cache,
            list(datasets.values()),
            asr.load_audio,
            settings["feature_batch_size"],
            progress=progress,
        )
    return datasets


def make_train_loader(brain, dataset, settings):
    """Batches utterances of similar length, of so many seconds at most.

    Arguments
    ---------
    brain : DiffusionBrain
    dataset : DynamicItemDataset
    settings : dict
        Those of hparams/training.yaml.

    Returns
    -------
    loader : SaveableDataLoader
    sampler : torch.utils.data.Sampler
        Of its batches; to be told each epoch, as the Brain does with its `train_sampler`.
    """
    rows = [dataset.data[name] for name in dataset.data_ids]
    durations = [row["duration"] for row in rows]
    options = {
        "max_batch_length": settings["batch_seconds"],
        # With one bucket, SpeechBrain makes batches of one.
        "num_buckets": max(2, min(settings["num_buckets"], len(rows))),
        "max_batch_ex": settings["max_batch_utterances"],
        "seed": settings["seed"],
    }
    if settings["language_temperature"] != 1:
        languages = [row["lang"] for row in rows]
        weights = language_weights(languages, durations, settings["language_temperature"])
        sampler = WeightedDynamicBatchSampler(weights, durations, **options)
    else:
        order = "random" if settings["shuffle"] else "ascending"
        sampler = DynamicBatchSampler(
            dataset,
            lengths_list=durations,
            shuffle=settings["shuffle"],
            batch_ordering=order,
            **options,
        )
    loader = brain.make_dataloader(
        dataset,
        sb.Stage.TRAIN,
        batch_sampler=sampler,
        num_workers=settings["num_workers"],
        collate_fn=PaddedBatch,
    )
    return loader, loader.batch_sampler


def _leave_out(dataset, asr, path):
    """Takes out what the model's window or canvas cannot hold, and says so."""
    canvas = asr.mods.decoder.sampler.canvas_length
    kept, left_out = [], []
    for name in dataset.data_ids:
        row = dataset.data[name]
        long = (
            row["duration"] > asr.max_seconds or len(asr.tokenizer.encode_text(row["wrd"])) > canvas
        )
        (left_out if long else kept).append(name)
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        logger.warning(
            "%s: %d of %d left out, longer than the window of %g s or the canvas of %d tokens: %s",
            path, len(left_out), len(dataset), asr.max_seconds, canvas, shown,
        )  # fmt: skip
    if not kept:
        raise ValueError(f"{path}: every utterance is too long for this model; cut them")
    dataset.data_ids = kept
