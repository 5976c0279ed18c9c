"""From CSV files to the batches that `DiffusionBrain` takes."""

import functools
import logging

import speechbrain as sb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from speechbrain_diffasr.audio import load_audio
from speechbrain_diffasr.features import FeatureCache, encode_datasets
from speechbrain_diffasr.sampling import WeightedDynamicBatchSampler, language_weights

logger = logging.getLogger(__name__)


def csv_dataset(path, data_root, tokenizer, sample_rate=16000, cache=None):
    """Reads a CSV file as the recipes write them.

    Arguments
    ---------
    path : str or Path
        With the columns ID, duration (s), wav, lang, wrd.
    data_root : str or Path
        What `$data_root` stands for in the column wav.
    tokenizer : Tokenizer
        Of the language model.
    sample_rate : int
        That audio is brought to. Default: 16000.
    cache : FeatureCache, optional
        Gives frames instead of waveforms; it must have been filled.

    Returns
    -------
    dataset : DynamicItemDataset
        Gives id, sig [T] or frames [frames, width], tokens (list of int), lang, wrd, duration (s).

    Example
    -------
    >>> from speechbrain.dataio import audio_io
    >>> import torch
    >>> from speechbrain_diffasr.inference import default_model
    >>> from speechbrain_diffasr.tokenizer import Tokenizer
    >>> folder = getfixture("tmp_path")
    >>> audio_io.save(folder / "a.wav", torch.rand(1, 16000), 16000)
    >>> _ = (folder / "all.csv").write_text(
    ...     "ID,duration,wav,lang,wrd\\na,1.0,$data_root/a.wav,en,hello\\n")
    >>> tokenizer = Tokenizer()
    >>> tokenizer.load(f"{default_model()}/tokenizer.json")
    >>> example = csv_dataset(folder / "all.csv", folder, tokenizer)[0]
    >>> example["sig"].shape, example["wrd"]
    (torch.Size([16000]), 'hello')
    """
    dataset = DynamicItemDataset.from_csv(str(path), replacements={"data_root": str(data_root)})
    # No functions made here: processes that are not forked could not be given the dataset.
    if cache is None:
        audio, read = "sig", functools.partial(load_audio, sample_rate=sample_rate)
    else:
        audio, read = "frames", cache.__getitem__
    dataset.add_dynamic_item(read, takes="wav", provides=audio)
    dataset.add_dynamic_item(tokenizer.encode, takes="wrd", provides="tokens")
    dataset.set_output_keys(["id", audio, "tokens", "lang", "wrd", "duration"])
    return dataset


def make_datasets(asr, data, settings, brain):
    """Reads the CSV files of training and validation, and encodes their audio if it is cached.

    Arguments
    ---------
    asr : DiffusionASR
    data : dict
        With the paths train and valid, and root.
    settings : dict
        Those of hparams/training.yaml.
    brain : DiffusionBrain
        Says which process this is.

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
            progress=not brain.noprogressbar,
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
    # Read by SpeechBrain where training is distributed.
    brain.hparams.sorting = "random" if settings["shuffle"] else "ascending"
    brain.train_sampler = sampler
    return brain.make_dataloader(
        dataset,
        sb.Stage.TRAIN,
        batch_sampler=sampler,
        num_workers=settings["num_workers"],
        collate_fn=PaddedBatch,
    )


def _leave_out(dataset, asr, path):
    """Takes out what the model's window or canvas cannot hold, and says so."""
    canvas = asr.mods.decoder.sampler.canvas_length
    kept, left_out = [], []
    for name in dataset.data_ids:
        row = dataset.data[name]
        long = row["duration"] > asr.max_seconds or len(asr.tokenizer.encode(row["wrd"])) > canvas
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
