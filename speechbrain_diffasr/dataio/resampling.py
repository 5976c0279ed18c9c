"""From any sample rate to the model's, whole or piece by piece."""

import functools
import math

import torch
from speechbrain.dataio.preprocess import AudioNormalizer

# A resampling filter bank has (rate / gcd) * (sample_rate / gcd) taps or more: 11127 Hz would
# take 24 s and 6 GB.
MAX_TAPS = 10_000_000
# A resampling filter reaches over fewer samples of the lower rate to either side.
_CONTEXT = 64


@functools.cache
def normalizer(sample_rate):
    """What resamples audio and mixes it to mono.

    Arguments
    ---------
    sample_rate : int
        In Hz, to resample to.

    Returns
    -------
    normalizer : AudioNormalizer
        One for all files, since it keeps the filters of every rate that it has met.

    Example
    -------
    >>> normalizer(16000)(torch.rand(8000, 2), 8000).shape
    torch.Size([16000])
    """
    return AudioNormalizer(sample_rate)


def affordable_rate(rate, sample_rate):
    """The rate itself, or one that needs small filters: 0.1 % beside it, 1 % below 5 kHz.

    Arguments
    ---------
    rate : int
        In Hz, of a file.
    sample_rate : int
        In Hz, to resample to.

    Returns
    -------
    rate : int
        In Hz, to resample from.

    Example
    -------
    >>> affordable_rate(44100, 16000), affordable_rate(11127, 16000)
    (44100, 11130)
    """
    divisor = math.gcd(rate, sample_rate)
    if (rate // divisor) * (sample_rate // divisor) <= MAX_TAPS:
        return rate
    grid = 10 ** max(1, len(str(rate)) - 4)
    return round(rate / grid) * grid


def resample_blocks(blocks, rate, sample_rate):
    """Resamples consecutive blocks as if they were one, and mixes them to mono.

    Arguments
    ---------
    blocks : iterable of torch.Tensor
        [T, C] each.
    rate : int
        Their samples per second; see `affordable_rate`.
    sample_rate : int
        In Hz, to resample to.

    Yields
    ------
    wav : torch.Tensor
        Consecutive pieces, [T].

    Example
    -------
    >>> blocks = torch.rand(88200, 2).split(30000)
    >>> sum(len(wav) for wav in resample_blocks(blocks, 44100, 16000))
    32000
    """
    normalize = normalizer(sample_rate)
    if rate == sample_rate:
        yield from (normalize(block, rate) for block in blocks)
        return
    divisor = math.gcd(rate, sample_rate)
    old, new = rate // divisor, sample_rate // divisor
    context = math.ceil(_CONTEXT * max(1.0, old / new) / old + 1) * old
    held, lead = None, 0  # samples, and how many of them are only context
    for block in blocks:
        held = block if held is None else torch.cat([held, block])
        ready = (len(held) - context) // old * old
        if ready <= lead:
            continue
        yield normalize(held, rate)[lead // old * new : ready // old * new]
        dropped = max(0, ready - context)
        held, lead = held[dropped:], ready - dropped
    if held is not None:
        yield normalize(held, rate)[lead // old * new :]
