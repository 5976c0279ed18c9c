"""What the benchmarks of speed run and how they time it."""

import gc
import itertools
import math
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from common import random_model

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.decoders import EntropyBoundSampler

# Tokens of a transcript for each second of audio: about those of read English.
SPOKEN_TOKENS_PER_SECOND = 10 / 3


@dataclass(frozen=True)
class Setting:
    """A way to decode.

    Arguments
    ---------
    name : str
    fused, tokens_per_second, trim_slots, top_tokens, fp8_experts, start, ctc_weight, readings
        As in `DiffusionSearcher`.
    """

    name: str
    fused: bool = True
    tokens_per_second: float | None = None
    trim_slots: bool = False
    top_tokens: int | None = None
    fp8_experts: bool = False
    start: str = "noise"
    ctc_weight: float = 0.0
    readings: int = 0

    def apply(self, searcher):
        """Makes a searcher decode so.

        Arguments
        ---------
        searcher : DiffusionSearcher
        """
        for field in fields(self):
            if field.name != "name":
                setattr(searcher, field.name, getattr(self, field.name))

    def prompt_tokens(self, searcher, seconds):
        """Tokens of a prompt without a language.

        Arguments
        ---------
        searcher : DiffusionSearcher
        seconds : float
            Of audio.

        Returns
        -------
        tokens : int
        """
        slots = searcher.prompt.num_slots
        if self.trim_slots:
            slots = min(slots, math.ceil(seconds / searcher.window * slots))
        return len(searcher.prompt.tokens(None, slots))


def make_settings(tokens_per_second, top_tokens):
    """The settings that are compared: each shortening by itself, then together.

    Arguments
    ---------
    tokens_per_second : float
        For canvases by duration.
    top_tokens : int
        For self-conditioning from the most probable tokens.

    Returns
    -------
    settings : dict
        By name.

    Example
    -------
    >>> list(make_settings(6.0, 64))[:3]
    ['plain', 'fused', 'canvas']
    >>> make_settings(6.0, 64)["canvas+slots"]
    Setting(name='canvas+slots', fused=True, tokens_per_second=6.0, trim_slots=True, \
top_tokens=None, fp8_experts=False, start='noise', \
ctc_weight=0.0, readings=0)
    """
    changes = {
        "canvas": {"tokens_per_second": tokens_per_second},
        "slots": {"trim_slots": True},
        "top": {"top_tokens": top_tokens},
        "fp8": {"fp8_experts": True},
    }
    settings = {"plain": Setting("plain", fused=False), "fused": Setting("fused")}
    for name in (*changes, "canvas+slots", "canvas+slots+top", "canvas+slots+top+fp8"):
        together = {}
        for part in name.split("+"):
            together |= changes[part]
        settings[name] = Setting(name, **together)
    return settings


class EndingSampler(EntropyBoundSampler):
    """Takes every step, and ends each transcript after a set number of tokens, `text_tokens`.

    Where that is None, each text fills half of its canvas.

    Random weights are never sure, and never end a text: without this, steps would depend on the
    weights, and texts would fill every canvas that follows from the duration.

    Arguments
    ---------
    sampler : EntropyBoundSampler
        Whose settings are used.
    end : int
        The token that ends a text.
    """

    def __init__(self, sampler, end):
        super().__init__()
        vars(self).update(vars(sampler))
        self.confidence = 0.0
        self.end = end
        self.text_tokens = None

    def __call__(self, *args, **kwargs):
        for ended in super().__call__(*args, **kwargs):
            places = torch.arange(ended.tokens.shape[1], device=ended.tokens.device)
            end = ended.lengths[:, None] // 2 if self.text_tokens is None else self.text_tokens
            early = (places < end) & (ended.tokens == self.end)
            tokens = ended.tokens.masked_fill(early, (self.end + 1) % 2)
            yield replace(ended, tokens=tokens.masked_fill(places == end, self.end))


def load(model, device, random=False, overrides=None, forced=True):
    """A recognizer to be measured.

    Arguments
    ---------
    model : str or Path
        A pretrained folder.
    device : str
    random : bool
        Whether it gets random weights and its full size. Default: False.
    overrides : dict, optional
        Changes to its hyperparams.yaml.
    forced : bool
        Whether it takes every step and ends its texts by `EndingSampler`. Default: True.

    Returns
    -------
    asr : DiffusionASR
    """
    if torch.device(device).index is not None:
        torch.cuda.set_device(device)  # whose memory and kernels are looked at
    if random:
        torch.manual_seed(0)
        asr = random_model(Path(model), device, overrides)
    else:
        run_opts = {"device": device}
        asr = DiffusionASR.from_hparams(model, overrides=overrides or {}, run_opts=run_opts)
    if forced:
        searcher = asr.mods.decoder
        searcher.sampler = EndingSampler(searcher.sampler, searcher.prompt.tokenizer.eos_id)
    return asr


class Load:
    """A batch of clips that is decoded in one way.

    Arguments
    ---------
    asr : DiffusionASR
        From `load`.
    setting : Setting
    batch : int
        Clips.
    seconds : float
        Of each.
    canvas : int, optional
        Tokens that a canvas has at most. Default: the sampler's own.
    text_tokens : int, optional
        Of each transcript. Default: as many as are spoken in those seconds.
    """

    def __init__(self, asr, setting, batch, seconds, canvas=None, text_tokens=None):
        self.asr, self.setting, self.batch, self.seconds = asr, setting, batch, seconds
        self.searcher, self.canvas = asr.mods.decoder, canvas
        self.whisper, self.projector = asr.mods.encoder["whisper"], asr.mods.encoder["projector"]
        if text_tokens is None:
            text_tokens = round(seconds * SPOKEN_TOKENS_PER_SECOND)
        self.text_tokens = text_tokens
        generator = torch.Generator().manual_seed(batch)
        samples = int(seconds * asr.sample_rate)
        self.wavs = 0.1 * torch.randn(batch, samples, generator=generator)
        self.on_device = self.wavs.to(asr.device)

    def __enter__(self):
        sampler = self.searcher.sampler
        self.before = sampler.canvas_length, sampler.text_tokens
        sampler.canvas_length = self.canvas or sampler.canvas_length
        sampler.text_tokens = min(self.text_tokens, sampler.canvas_length - 1)
        self.setting.apply(self.searcher)
        return self

    def __exit__(self, *error):
        sampler = self.searcher.sampler
        sampler.canvas_length, sampler.text_tokens = self.before

    @torch.no_grad()
    def mel(self):
        """Features; kept for `encoder`."""
        self.mels = self.whisper.log_mel(self.on_device)

    @torch.no_grad()
    def encoder(self):
        """Acoustic frames; kept for `project`."""
        self.frames = self.whisper.encode_mel(self.mels)

    @torch.no_grad()
    def project(self):
        """Projected audio; kept for `search`."""
        self.audio = self.projector(self.frames)

    def acoustics(self):
        """All that lies before the language model."""
        self.mel()
        self.encoder()
        self.project()

    def search(self, steps, callback=None):
        """Decodes the projected audio, each clip with noise of its own.

        Arguments
        ---------
        steps : int
        callback : callable, optional
            Is given a `Draft` after every step.

        Returns
        -------
        hypotheses : list of Hypothesis
        """
        return self.searcher.search(
            self.audio,
            seeds=list(range(self.batch)),
            steps=steps,
            callback=callback,
            seconds=[self.seconds] * self.batch,
        )

    def transcribe(self, steps):
        """From waveforms in the memory of the host to text.

        Arguments
        ---------
        steps : int

        Returns
        -------
        transcripts : list of Transcript
        """
        return self.asr.transcribe(list(self.wavs), steps=steps)

    def warm_up(self):
        """Makes kernels and graphs ready; returns seconds."""
        return self.searcher.warm_up([self.batch], seconds=[self.seconds])


class Timer:
    """Times calls: the median of some.

    Arguments
    ---------
    device : str
    repeats : int
        Calls at most. Default: 5.
    patience_s : float
        Seconds after which a call is not repeated any more. Default: 1.
    """

    def __init__(self, device, repeats=5, patience_s=1.0):
        self.cuda = torch.device(device).type == "cuda"
        self.repeats, self.patience_s = repeats, patience_s

    def once(self, function):
        """Milliseconds of one call."""
        if self.cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        if self.cuda:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - begin)

    def __call__(self, function):
        """Milliseconds of a function."""
        return self.each(function)[0]

    def each(self, *functions, warm=False):
        """Times functions in turn, so that all of them see the same machine.

        Arguments
        ---------
        *functions : callable
        warm : bool
            Whether they have run before. Default: no, each is called once without counting.

        Returns
        -------
        milliseconds : list of float
            The median of each.
        """
        if not warm:
            for function in functions:
                self.once(function)
        rounds, spent = [], 0.0
        while len(rounds) < self.repeats and spent < 1000 * self.patience_s * len(functions):
            rounds.append([self.once(function) for function in functions])
            spent += sum(rounds[-1])
        return [statistics.median(times) for times in zip(*rounds, strict=True)]


def doubling(largest, factor=2):
    """Batch sizes from 1 on.

    Example
    -------
    >>> doubling(20), doubling(64, factor=4)
    ([1, 2, 4, 8, 16], [1, 4, 16, 64])
    """
    sizes = itertools.accumulate(itertools.repeat(factor), lambda size, by: size * by, initial=1)
    return list(itertools.takewhile(lambda size: size <= largest, sizes))


def is_out_of_memory(error):
    """Whether an error says that the GPU's memory is full; libraries on it have their own words.

    Example
    -------
    >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    True
    """
    words = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def free_memory(asr):
    """Drops what decoding made, so that a peak of memory is that of what comes next."""
    asr.mods.decoder.release()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb():
    """Largest memory that tensors took on the GPU, in 10^9 bytes; None without one."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


@contextmanager
def without_adapters(gemma):
    """Runs the language model as it was before LoRA."""
    if not gemma.has_adapters:
        yield
        return
    with gemma.model.disable_adapter():
        yield
