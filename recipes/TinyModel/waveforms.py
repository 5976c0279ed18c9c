"""All waveforms of a corpus in one tensor on the GPU: small models outrun any data loader."""

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from speechbrain.dataio.batch import PaddedData
from tqdm import tqdm

from speechbrain_diffasr.dataio import read_rows


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
    """

    id: list
    sig: PaddedData
    tokens: list
    lang: list
    wrd: list
    duration: list

    def to(self, device):
        """Moves nothing: the waveforms are where they are used."""
        return self


class WaveformStore(torch.utils.data.IterableDataset):
    """Batches of augmented utterances, some of them joined, drawn without end.

    Arguments
    ---------
    csvs : list of str
        CSV files with the columns ID, duration, wav, lang, wrd. The languages of each file are
        groups that are drawn equally often.
    data_roots : list of str
        What `$data_root` stands for in each of them.
    tokenizer : Tokenizer
    device : str
        Where the waveforms live.
    batch_size : int
    window : float
        Seconds of a batch.
    max_tokens : int
        Longest transcript of an example.
    join : float
        Share of examples that are several utterances of one group with pauses between them.
    max_pause, max_lead : float
        Seconds of the longest pause, between utterances and before the first. Short ones are drawn
        more often.
    empty : float
        Share of examples in which nobody speaks.
    noise : float
        Share of examples with white noise at 10 to 40 dB.
    max_stretch : float
        Largest change of speed (and with it of pitch and formants), as a share.
    band_limit : float
        Share of examples without anything above 3.4 to 4 kHz, as from a telephone.
    seed : int
    weights : dict, optional
        How often each group is drawn, by its name; 1 if not named. Names are the language, or
        the language and the number of the CSV for files after the first ("en1").
    """

    def __init__(
        self,
        csvs,
        data_roots,
        tokenizer,
        device,
        batch_size,
        window,
        max_tokens,
        join=0.5,
        max_pause=0.5,
        max_lead=0.3,
        empty=0.0,
        noise=0.5,
        max_stretch=0.1,
        band_limit=0.0,
        seed=0,
        weights=None,
        sample_rate=16000,
    ):
        rows = []
        for number, (path, root) in enumerate(zip(csvs, data_roots, strict=True)):
            for row in read_rows(path, root):
                if float(row["duration"]) * (1 + max_stretch) > window:
                    continue
                row["group"] = row["lang"] + (str(number) if number else "")
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
        self.groups = list(groups.values())
        self.chances = [float((weights or {}).get(name, 1.0)) for name in groups]
        paths = [row["wav"] for row in self.rows]
        shares = [paths[start : start + 1000] for start in range(0, len(paths), 1000)]
        with ProcessPoolExecutor() as pool:
            read = list(tqdm(pool.map(_read, shares), total=len(shares), desc="Reading"))
        self.lens = np.concatenate([lens for _, lens in read])
        self.starts = np.concatenate([[0], np.cumsum(self.lens)[:-1]])
        self.audio = torch.from_numpy(np.concatenate([wavs for wavs, _ in read])).to(device)
        self.device = device
        self.batch_size = batch_size
        self.max_samples = int(window * sample_rate)
        self.sample_rate = sample_rate
        self.max_tokens, self.empty = max_tokens, empty
        self.max_pause, self.max_lead = max_pause, max_lead
        self.join, self.noise, self.max_stretch = join, noise, max_stretch
        self.band_limit = band_limit
        self.rng = random.Random(seed)
        self.generator = torch.Generator(device).manual_seed(seed)

    def __iter__(self):
        while True:
            yield self.batch()

    def _parts(self):
        """Chooses utterances for one example: (index, first sample) of each."""
        (group,) = self.rng.choices(self.groups, self.chances)
        first = self.rng.choice(group)
        # Slowed down, everything must still fit into the window.
        limit = self.max_samples / (1 + self.max_stretch)
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
        examples = [self._parts() for _ in range(self.batch_size)]
        flat = [(row, *part) for row, parts in enumerate(examples) for part in parts]
        rows, indices, starts = (np.array(column) for column in zip(*flat, strict=True))
        lens = torch.from_numpy(self.lens[indices]).to(self.device)
        # Sample k of part p goes from source[p] + k to target[p] + k.
        source = torch.from_numpy(self.starts[indices]).to(self.device)
        target = torch.from_numpy(rows * self.max_samples + starts).to(self.device)
        total = int(self.lens[indices].sum())
        part = torch.repeat_interleave(lens, output_size=total)
        offset = torch.arange(total, device=self.device) - (lens.cumsum(0) - lens)[part]
        wavs = torch.zeros(self.batch_size * self.max_samples, device=self.device)
        wavs[target[part] + offset] = self.audio[source[part] + offset].float() / 32768
        ends = torch.tensor(
            [parts[-1][1] + self.lens[parts[-1][0]] for parts in examples], device=self.device
        )
        wavs = self._augment(wavs.view(self.batch_size, self.max_samples), ends[:, None])
        first = [parts[0][0] for parts in examples]
        silent = [self.rng.random() < self.empty for _ in examples]
        if any(silent):
            wavs = torch.where(torch.tensor(silent, device=self.device)[:, None], hush(wavs), wavs)
            examples = [
                [] if is_silent else parts
                for is_silent, parts in zip(silent, examples, strict=True)
            ]
        return Batch(
            id=[self.rows[i]["ID"] for i in first],
            sig=PaddedData(wavs, torch.ones(self.batch_size, device=self.device)),
            tokens=[[t for i, _ in parts for t in self.tokens[i]] for parts in examples],
            lang=[self.rows[i]["lang"] for i in first],
            wrd=[" ".join(self.rows[i]["wrd"] for i, _ in parts) for parts in examples],
            duration=[sum(self.lens[i] for i, _ in parts) / self.sample_rate for parts in examples],
        )

    def _rand(self, low, high):
        """A number for each example, [B, 1]."""
        rand = torch.rand(self.batch_size, 1, device=self.device, generator=self.generator)
        return low + (high - low) * rand

    def _augment(self, wavs, ends):  # [B, T], [B, 1]
        """Changes speed, tilts the spectrum, adds noise, takes the highs away."""
        speed = self._rand(1 - self.max_stretch, 1 + self.max_stretch)
        place = torch.arange(wavs.shape[1], device=self.device) * speed
        left = place.long().clamp(max=wavs.shape[1] - 2)
        share = (place - left).clamp(max=1.0)
        inside = place < wavs.shape[1] - 1
        wavs = (wavs.gather(1, left) * (1 - share) + wavs.gather(1, left + 1) * share) * inside
        # A first-order filter, between darker and brighter: rooms, microphones, telephones.
        wavs = wavs + self._rand(-0.6, 0.6) * torch.nn.functional.pad(wavs[:, :-1], (1, 0))
        level = wavs.square().mean(dim=1, keepdim=True).sqrt()
        loud = level * 10 ** (-self._rand(10.0, 40.0) / 20)
        loud = loud * (self._rand(0.0, 1.0) < self.noise)
        # Half of the noise stops with the recording: behind it lies only the padding.
        stops = self._rand(0.0, 1.0) < 0.5
        recorded = (
            torch.arange(wavs.shape[1], device=self.device) < ends / speed + 0.1 * self.sample_rate
        )
        noise = torch.randn(
            wavs.shape, device=self.device, generator=self.generator, dtype=wavs.dtype
        )
        wavs = wavs + loud * noise * (recorded | ~stops)
        if not self.band_limit:
            return wavs
        spectrum = torch.fft.rfft(wavs)
        highest = torch.where(
            self._rand(0.0, 1.0) < self.band_limit, self._rand(3400.0, 4000.0), self.sample_rate
        )
        hertz = torch.linspace(0, self.sample_rate / 2, spectrum.shape[1], device=self.device)
        return torch.fft.irfft(spectrum * (hertz < highest), n=wavs.shape[1])


def _read(paths):
    """Reads WAV files into one array, and their lengths into another."""
    wavs = [soundfile.read(path, dtype="int16")[0] for path in paths]
    return np.concatenate(wavs), np.array([len(wav) for wav in wavs])


def hush(wavs):
    """Noise with the spectrum of waveforms, but without what they say, [B, T].

    Arguments
    ---------
    wavs : torch.Tensor
        [B, T].

    Returns
    -------
    noise : torch.Tensor
        [B, T]. A digital silence stays one.
    """
    spectrum = torch.fft.rfft(wavs)
    # Smoothed over 60 Hz or so: neither pitch nor time is left.
    power = spectrum.abs().square()[:, None]
    width = 2 * (wavs.shape[1] // 512) + 1
    smooth = torch.nn.functional.avg_pool1d(power, width, 1, width // 2, count_include_pad=False)
    phase = torch.rand_like(smooth[:, 0]) * (2 * torch.pi)
    return torch.fft.irfft(torch.polar(smooth[:, 0].sqrt(), phase), n=wavs.shape[1])


def spec_augment(mels, generator, time_masks=2, max_time=40, freq_masks=2, max_freq=12):
    """Blanks random stretches of time and frequency (https://arxiv.org/abs/1904.08779).

    Arguments
    ---------
    mels : torch.Tensor
        [B, mel bins, frames].
    generator : torch.Generator
        On the device of `mels`.
    time_masks, freq_masks : int
        How many of each.
    max_time, max_freq : int
        Their largest size in mel frames and bins.

    Returns
    -------
    mels : torch.Tensor
        [B, mel bins, frames].
    """
    for axis, number, largest in ((2, time_masks, max_time), (1, freq_masks, max_freq)):
        size = mels.shape[axis]
        shape = (number, len(mels), 1)
        width = torch.rand(shape, generator=generator, device=mels.device) * largest
        start = torch.rand(shape, generator=generator, device=mels.device) * (size - width)
        place = torch.arange(size, device=mels.device)
        masked = ((place >= start) & (place < start + width)).any(dim=0)  # [B, size]
        masked = masked[:, None, :] if axis == 2 else masked[:, :, None]
        mels = mels.masked_fill(masked, 0.0)
    return mels
