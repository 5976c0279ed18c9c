"""All waveforms of a corpus in one tensor on the GPU: small models outrun any data loader."""

import os
import random
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from speechbrain.dataio.batch import PaddedData
from tqdm import tqdm

from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.pretraining.augmentation import hush

FILES_AT_ONCE = 500


@dataclass
class Batch:
    """What `DiffusionBrain` reads of a batch, made without a data loader.

    Arguments
    ---------
    id : list of str
    sig : PaddedData
        Waveforms [B, T] and their relative lengths [B].
    tokens : list of list of int
    lang : list of str
    wrd : list of str
    duration : list of float
        Seconds.
    filled : list of int or None
        Frames up to the end of what was recorded; None if the prompts are to have slots for all.
    """

    id: list
    sig: PaddedData
    tokens: list
    lang: list
    wrd: list
    duration: list
    filled: list | None

    def to(self, device):
        """Moves nothing: the waveforms are where they are used."""
        return self


@dataclass(frozen=True)
class Fold:
    """Which voices are drawn, so that one model hears what another learned from.

    Arguments
    ---------
    number : int
        Of this fold, from 0.
    count : int
        Folds in all.
    inside : bool
        Whether its voices alone are drawn, or all but its voices.

    Example
    -------
    >>> voices = ["ann", "bob", "cy", "dan"]
    >>> inside, outside = Fold(0, 2, True), Fold(0, 2, False)
    >>> [inside.has(voice) != outside.has(voice) for voice in voices]
    [True, True, True, True]
    """

    number: int
    count: int
    inside: bool

    def has(self, voice):
        """Whether a voice is drawn."""
        return (zlib.crc32(voice.encode()) % self.count == self.number) == self.inside


class WaveformStore(torch.utils.data.IterableDataset):
    """Batches of augmented utterances, some of them joined, drawn without end.

    Arguments
    ---------
    folders : list of Path
        Corpora: folders with a CSV file with the columns ID, duration, wav, lang, wrd, and voice or
        spk_id if `fold` is given. The languages of each are groups that are drawn equally often.
    tokenizer : Tokenizer
    device : str
        Where the waveforms live.
    batch_size : int
        Utterances of a window each.
    window : float
        Seconds of a batch.
    windows : list of list, optional
        Seconds, at most `window`, and shares of batches, as `[[5, 0.5], [15, 0.5]]`: shorter ones
        hold more utterances, but no longer ones. Default: all are `window`.
    trimmed : float
        Share of batches that say how many frames are filled, among those of the whole window; all
        others do. Default: 0.
    num_frames : int
        Of a whole window, as the projector makes them.
    max_tokens : int
        Longest transcript of an example.
    augment : WaveformAugmenter
    join : float
        Share of examples that are several utterances of one group with pauses between them.
    max_pause, max_lead : float
        Seconds of the longest pause, between utterances and before the first. Short ones are drawn
        more often.
    empty : float
        Share of examples in which nobody speaks.
    seed : int
    weights : dict, optional
        How often each group is drawn, by the name of the corpus or as CORPUS/LANGUAGE; 1 if not
        named.
    fold : Fold, optional
        Default: all voices.
    split : str
        Name of the CSV file. Default: "train".
    """

    def __init__(
        self,
        folders,
        tokenizer,
        device,
        batch_size,
        window,
        num_frames,
        max_tokens,
        augment,
        join=0.5,
        max_pause=0.5,
        max_lead=0.3,
        empty=0.0,
        seed=0,
        weights=None,
        fold=None,
        split="train",
        sample_rate=16000,
        windows=None,
        trimmed=0.0,
    ):
        self.augment = augment
        self.window, self.windows = window, dict(windows or [[window, 1.0]])
        if max(self.windows) > window:
            raise ValueError(f"windows: {max(self.windows)} s, but the whole window is {window} s")
        self.trimmed = trimmed
        self.sample_rate = sample_rate
        rows = []
        for folder in folders:
            for row in _with_packs(read_rows(folder / f"{split}.csv", folder), folder, split):
                voice = row.get("voice") or row.get("spk_id") or ""
                too_long = float(row["duration"]) * sample_rate > self._limit(window)
                if too_long or (fold is not None and not fold.has(voice)):
                    continue
                row["group"] = f"{folder.name}/{row['lang']}"
                rows.append(row)
        texts = [row["wrd"] for row in rows]
        tokens = tokenizer.backend(texts, add_special_tokens=False)["input_ids"]
        fitting = [
            (row, list(line))
            for row, line in zip(rows, tokens, strict=True)
            if len(line) <= max_tokens
        ]
        self.rows, self.tokens = (list(column) for column in zip(*fitting, strict=True))
        groups = {}
        for index, row in enumerate(self.rows):
            groups.setdefault(row["group"], []).append(index)
        weights = weights or {}
        self.chances = [
            float(weights.get(name, weights.get(name.split("/")[0], 1.0))) for name in groups
        ]
        wavs = read_waveforms(self.rows, sample_rate)
        self.lens = np.array([len(wav) for wav in wavs])
        self.starts = np.concatenate([[0], np.cumsum(self.lens)[:-1]])
        self.audio = torch.from_numpy(np.concatenate(wavs)).to(device)
        # Of each group, by window: what fits into it.
        self.groups = {
            seconds: [
                [index for index in group if self.lens[index] <= self._limit(seconds)]
                for group in groups.values()
            ]
            for seconds in self.windows
        }
        self.device = device
        self.batch_size = batch_size
        self.num_frames = num_frames
        self.max_tokens, self.empty, self.join = max_tokens, empty, join
        self.max_pause, self.max_lead = max_pause, max_lead
        self.rng = random.Random(seed)
        self.generator = torch.Generator(device).manual_seed(seed)

    def __iter__(self):
        while True:
            yield self.batch()

    def _limit(self, window):
        """Samples that fit into a window even when they are slowed down."""
        return window * self.sample_rate / (1 + self.augment.max_stretch)

    def _parts(self, window):
        """Chooses utterances for one example: (index, first sample) of each."""
        groups = self.groups[window]
        chances = [chance * bool(group) for chance, group in zip(self.chances, groups, strict=True)]
        (group,) = self.rng.choices(groups, chances)
        first = self.rng.choice(group)
        limit = self._limit(window)
        start = self._pause(self.max_lead)
        start = max(0, min(start, int(limit) - self.lens[first]))
        parts, end = [(first, start)], start + self.lens[first]
        tokens = len(self.tokens[first])
        if self.rng.random() < self.join:
            wanted = self.rng.uniform(0.2, 1.0) * limit
            while True:
                other = self.rng.choice(group)
                start = end + self._pause(self.max_pause)
                tokens += len(self.tokens[other])
                if start + self.lens[other] > wanted or tokens > self.max_tokens:
                    break
                parts.append((other, start))
                end = start + self.lens[other]
        return parts

    def _pause(self, longest):
        """Samples of a pause; half of them are shorter than an eighth of the longest."""
        return int((0.05 + longest * self.rng.random() ** 3) * self.sample_rate)

    def batch(self):
        """Draws a batch.

        Returns
        -------
        batch : Batch
        """
        (window,) = self.rng.choices(list(self.windows), list(self.windows.values()))
        batch_size = int(self.batch_size * self.window / window)
        max_samples = int(window * self.sample_rate)
        examples = [self._parts(window) for _ in range(batch_size)]
        flat = [(row, *part) for row, parts in enumerate(examples) for part in parts]
        rows, indices, starts = (np.array(column) for column in zip(*flat, strict=True))
        lens = torch.from_numpy(self.lens[indices]).to(self.device)
        # Sample k of part p goes from source[p] + k to target[p] + k.
        source = torch.from_numpy(self.starts[indices]).to(self.device)
        target = torch.from_numpy(rows * max_samples + starts).to(self.device)
        total = int(self.lens[indices].sum())
        part = torch.repeat_interleave(lens, output_size=total)
        offset = torch.arange(total, device=self.device) - (lens.cumsum(0) - lens)[part]
        wavs = torch.zeros(batch_size * max_samples, device=self.device)
        wavs[target[part] + offset] = self.audio[source[part] + offset].float() / 32768
        ends = torch.tensor(
            [parts[-1][1] + self.lens[parts[-1][0]] for parts in examples], device=self.device
        )
        wavs = wavs.view(batch_size, max_samples)
        wavs, ends = self.augment(wavs, ends[:, None], self.generator)
        first = [parts[0][0] for parts in examples]
        silent = [self.rng.random() < self.empty for _ in examples]
        if any(silent):
            wavs = torch.where(torch.tensor(silent, device=self.device)[:, None], hush(wavs), wavs)
            examples = [
                [] if is_silent else parts
                for is_silent, parts in zip(silent, examples, strict=True)
            ]
        filled = None
        if window < self.window or self.rng.random() < self.trimmed:
            frames = ends[:, 0] / (self.window * self.sample_rate) * self.num_frames
            filled = frames.ceil().long().tolist()
        return Batch(
            id=[self.rows[i]["ID"] for i in first],
            sig=PaddedData(wavs, torch.ones(batch_size, device=self.device)),
            tokens=[[t for i, _ in parts for t in self.tokens[i]] for parts in examples],
            lang=[self.rows[i]["lang"] for i in first],
            wrd=[" ".join(self.rows[i]["wrd"] for i, _ in parts) for parts in examples],
            duration=[sum(self.lens[i] for i, _ in parts) / self.sample_rate for parts in examples],
            filled=filled,
        )


def read_waveforms(rows, sample_rate):
    """Reads sound files of one channel, or the packs that they were put into.

    Arguments
    ---------
    rows : list of dict
        With wav, the path; and pack, a tuple of the path of a pack, a first sample and a number of
        samples, where there is one.
    sample_rate : int
        Hz that they must have.

    Returns
    -------
    wavs : list of numpy.ndarray
        int16, [T] each.
    """
    packs = {row["pack"][0] for row in rows if "pack" in row}
    packs = {path: np.memmap(path, np.int16, "r") for path in packs}
    paths = [row["wav"] for row in rows if "pack" not in row]
    shares = [
        (paths[start : start + FILES_AT_ONCE], sample_rate)
        for start in range(0, len(paths), FILES_AT_ONCE)
    ]
    read = []
    if shares:
        with ProcessPoolExecutor(min(32, os.cpu_count())) as pool:
            for wavs in tqdm(pool.map(_read, shares), total=len(shares), desc="Reading"):
                read += wavs
    read = iter(read)
    return [
        packs[row["pack"][0]][row["pack"][1] : sum(row["pack"][1:])]
        if "pack" in row
        else next(read)
        for row in rows
    ]


def pack(folder, split="train", sample_rate=16000):
    """Puts the waveforms of a corpus into one file, from which they are read in seconds.

    Arguments
    ---------
    folder : Path
        With SPLIT.csv; SPLIT.i16 and SPLIT.npy are written beside it.
    split : str
    sample_rate : int
        Hz that the files must have.
    """
    wavs = read_waveforms(read_rows(folder / f"{split}.csv", folder), sample_rate)
    with open(folder / f"{split}.i16", "wb") as file:
        for wav in wavs:
            file.write(wav.tobytes())
    np.save(folder / f"{split}.npy", np.array([len(wav) for wav in wavs]))


def _with_packs(rows, folder, split):
    """Says of each row where in the pack it lies, if there is one."""
    path = folder / f"{split}.i16"
    if path.is_file():
        lens = np.load(path.with_suffix(".npy"))
        for row, start, length in zip(rows, np.cumsum(lens) - lens, lens, strict=True):
            row["pack"] = str(path), int(start), int(length)
    return rows


def _read(share):
    paths, sample_rate = share
    wavs = []
    for path in paths:
        wav, rate = soundfile.read(path, dtype="int16")
        if rate != sample_rate or wav.ndim > 1:
            raise ValueError(
                f"{path}: {rate} Hz, {wav.ndim} channels; expected {sample_rate} Hz and one channel"
            )
        wavs.append(wav)
    return wavs
