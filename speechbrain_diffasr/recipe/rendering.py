"""Renders planned utterances to WAV and CSV files on all cores, resumably.

Recipes that make their audio themselves plan every utterance first, then hand the plan to
`render_dataset` together with a renderer that turns one planned utterance into a waveform.
"""

import logging
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import torch
import torchaudio
from tqdm import tqdm

from speechbrain_diffasr.recipe.folders import claim_folder, write_csv
from speechbrain_diffasr.utils.atomic import replacing

logger = logging.getLogger(__name__)

UTTERANCES_PER_FOLDER = 1000


@dataclass(frozen=True)
class PlannedUtterance:
    """One utterance that is to be rendered: a row of a CSV file and how to make its audio.

    Arguments
    ---------
    utterance_id : str
        Unique in the whole dataset; also the name of the WAV file.
    split : str
        Name of the CSV file that lists it, e.g. ``train``.
    lang : str
        Language code.
    voice : str
        Name of the voice or the speaker.
    wrd : str
        The text that is spoken.
    how : dict
        What else the renderer needs to know.
    """

    utterance_id: str
    split: str
    lang: str
    voice: str
    wrd: str
    how: dict = field(default_factory=dict)


def render_dataset(
    plan,
    output_folder,
    renderer: Callable,
    settings,
    sample_rate=16000,
    min_seconds=0.15,
    max_seconds=9.5,
    workers=None,
    chunk_size=50,
    progress=True,
):
    """Renders a plan to ``wavs/LANG/SPLIT/…/ID.wav`` and one CSV file per split.

    A rerun continues: a split whose CSV file is there is done, a WAV file that is there is kept.
    Utterances that come out silent, too short or too long are left out of the CSV and logged.

    Arguments
    ---------
    plan : dict of list of PlannedUtterance
        The utterances of every split, in the order of its CSV file.
    output_folder : str or Path
        Where wavs, CSV files and settings go.
    renderer : callable
        Takes a `PlannedUtterance` and returns its waveform, float32 [T] in -1 to 1, and its
        sample rate in Hz. It runs in other processes, so it must be picklable, and it must give
        the same waveform for the same utterance every time.
    settings : dict
        Everything that decides what the data is. A folder made with other settings is refused.
    sample_rate : int
        Of the WAV files (Hz).
    min_seconds, max_seconds : float
        Utterances outside of this range are skipped.
    workers : int or None
        Number of processes; None takes all cores.
    chunk_size : int
        Utterances per task of a worker; an interrupted run ends its tasks before it stops.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        If the folder holds data made with other settings, or an ID is planned twice.
    RuntimeError
        If a worker process dies.
    """
    folder = Path(output_folder)
    limits = {"sample_rate": sample_rate, "min_seconds": min_seconds, "max_seconds": max_seconds}
    ids = Counter(item.utterance_id for items in plan.values() for item in items)
    if len(ids) < ids.total():
        raise ValueError(f"{folder}: the ID {ids.most_common(1)[0][0]} is planned more than once")
    claim_folder(folder, {**settings, **limits})

    todo = {split: items for split, items in plan.items() if not (folder / f"{split}.csv").exists()}
    pairs = {split: list(zip(todo[split], _wav_paths(todo[split]), strict=True)) for split in todo}
    results = {split: {} for split in todo}
    chunks = [
        (split, start)
        for split, items in todo.items()
        for start in range(0, max(len(items), 1), chunk_size)
    ]
    if not chunks:
        logger.info("%s: %s are there already", folder, ", ".join(plan))
        return

    # Forked workers share the parent's imports and the plan, so that tasks are small: Python 3.11
    # can hang when it is interrupted while a large task is on its way to a worker. Forking is
    # safe here because they compute on one thread.
    methods = multiprocessing.get_all_start_methods()
    pool = ProcessPoolExecutor(
        max_workers=min(workers or _number_of_cores(), len(chunks)),
        mp_context=multiprocessing.get_context("fork" if "fork" in methods else None),
        initializer=_start_worker,
        initargs=(pairs, chunk_size, renderer, folder, sample_rate, min_seconds, max_seconds),
    )
    total = sum(map(len, todo.values()))
    with tqdm(total=total, unit="utt", disable=not progress) as bar:
        try:
            futures = {pool.submit(_render_chunk, *chunk): chunk for chunk in chunks}
            for future in as_completed(futures):
                split, start = futures[future]
                outcomes = future.result()
                bar.update(len(outcomes))
                results[split].update(enumerate(outcomes, start))
                if len(results[split]) == len(todo[split]):
                    _finish_split(folder, split, todo[split], results[split])
        except BrokenProcessPool:
            raise RuntimeError(
                f"{folder}: a worker process died (out of memory?); run again to continue, "
                "with fewer workers if it happens again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _number_of_cores():
    # A container may be allowed fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _finish_split(folder, split, items, outcomes):
    rows, skipped = [], Counter()
    for number, (item, path) in enumerate(zip(items, _wav_paths(items), strict=True)):
        outcome = outcomes[number]
        if isinstance(outcome, str):
            skipped[item.lang, item.wrd, outcome] += 1
        else:
            wav = f"$data_root/{path}"
            rows.append((item.utterance_id, outcome, wav, item.lang, item.voice, item.wrd))
    write_csv(folder / f"{split}.csv", rows)
    if skipped:
        names = "; ".join(
            f"{lang}: {wrd!r} {count} times, {why}" for (lang, wrd, why), count in skipped.items()
        )
        logger.warning("%s: %d of %d skipped: %s", split, skipped.total(), len(items), names)
    hours = sum(row[1] for row in rows) / 3600
    logger.info("%s.csv: %d utterances, %.2f h", split, len(rows), hours)


def _wav_paths(items):
    """Relative paths, sharded: a folder of 100,000 files is slow to list on most file systems."""
    paths, seen = [], Counter()
    for item in items:
        shard = seen[item.lang] // UTTERANCES_PER_FOLDER
        seen[item.lang] += 1
        paths.append(f"wavs/{item.lang}/{item.split}/{shard:03d}/{item.utterance_id}.wav")
    return paths


# A worker process keeps the plan, the renderer, the limits and its resamplers here.
_worker = {}


def _start_worker(pairs, chunk_size, renderer, folder, sample_rate, min_seconds, max_seconds):
    # Ctrl-C reaches every process of a terminal; only the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _worker.update(
        pairs=pairs,
        chunk_size=chunk_size,
        render=renderer,
        folder=folder,
        sample_rate=sample_rate,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        resamplers={},
    )


def _render_chunk(split, start):
    pairs = _worker["pairs"][split][start : start + _worker["chunk_size"]]
    return [_render_one(utterance, _worker["folder"] / path) for utterance, path in pairs]


def _render_one(utterance, path):
    """Returns the duration in seconds, or in words why the utterance is skipped."""
    if path.exists():
        info = soundfile.info(path)
        return info.frames / info.samplerate
    wav, rate = _worker["render"](utterance)  # [T]
    if len(wav) < _worker["min_seconds"] * rate or not wav.any():
        return f"silent or shorter than {_worker['min_seconds']:g} s"
    if len(wav) > _worker["max_seconds"] * rate:
        return f"longer than {_worker['max_seconds']:g} s"
    sample_rate = _worker["sample_rate"]
    if rate != sample_rate:
        resamplers = _worker["resamplers"]
        if rate not in resamplers:
            resamplers[rate] = torchaudio.transforms.Resample(rate, sample_rate)
        wav = resamplers[rate](wav)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        # Resampling overshoots full scale, which 16-bit files do not hold.
        soundfile.write(part, wav.clamp(-1, 1).numpy(), sample_rate, "PCM_16", format="WAV")
    return len(wav) / sample_rate
