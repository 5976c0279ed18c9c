"""Tells calls from two microphones in one room: how often `--channels auto` is right.

Recordings are paired at random: two people on two channels, at once or in turns, are to be heard
apart; one person in a simulated room with two microphones, or in one channel with noise in the
other, is not. Rooms are noise that decays, behind a direct sound: nobody walks in them.
"""

import argparse
import itertools
import random
from pathlib import Path

import numpy as np
import torch

from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.dataio.channels import Comparison
from speechbrain_diffasr.utils.errors import AudioError

RATE = 16000
ECHOES = (0.3, 0.8, 1.5)  # s until an echo has decayed by 60 dB
SHARES = (0.3, 1.0, 2.0, 4.0, 8.0)  # amplitude of the echo to that of the direct sound


def in_room(wav, echo, share, rng):
    """A recording by a microphone somewhere in a room.

    Arguments
    ---------
    wav : numpy.ndarray
        [T].
    echo : float
        Seconds until it has decayed by 60 dB.
    share : float
        Of the echo, to the direct sound.
    rng : numpy.random.Generator

    Returns
    -------
    wav : numpy.ndarray
        [T].
    """
    count = round(1.5 * RATE)
    response = rng.normal(size=count) * np.exp(-6.9 * np.arange(count) / RATE / echo)
    response *= share / np.sqrt((response**2).sum())
    response[rng.integers(10, 120)] += 1
    size = len(wav) + count
    return np.fft.irfft(np.fft.rfft(wav, size) * np.fft.rfft(response, size), size)[: len(wav)]


def scenes(wavs, rng):
    """Names, pairs of channels, and whether they are to be heard apart."""
    for one, other in itertools.pairwise(wavs):
        count = min(len(one), len(other))
        yield "two people at once", one[:count], other[:count], True
        yield "two people at once, 2 s", one[: 2 * RATE], other[: 2 * RATE], True
        left = np.concatenate([one, 0 * other]) + rng.normal(0, 1e-3, len(one) + len(other))
        right = np.concatenate([0 * one, other]) + rng.normal(0, 1e-3, len(one) + len(other))
        yield "two people in turns", left, right, True
    for wav in wavs:
        for echo, share in itertools.product(ECHOES, SHARES):
            pair = (in_room(wav, echo, share, rng) for _ in range(2))
            yield f"one person in a room, echo {echo:g} s", *pair, False
        yield "one person, noise on the other", wav, rng.normal(0, 0.03, len(wav)), False
        late = np.concatenate([np.zeros(RATE // 5), wav])
        yield "one person, 0.2 s later on the other", late[: len(wav)], wav, False


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with recordings, in folders below it too")
    parser.add_argument("--files", type=int, default=60, help="[default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each [default: 8]")
    parser.add_argument("--seed", type=int, default=0, help="[default: %(default)s]")
    args = parser.parse_args()
    paths = sorted(path for path in args.folder.rglob("*.*") if path.is_file())
    random.Random(args.seed).shuffle(paths)
    wavs = []
    for path in paths:
        try:
            wav = load_audio(path)[: round(args.seconds * RATE)].numpy()
        except AudioError:
            continue
        wavs.append(wav / np.abs(wav).max())
        if len(wavs) == args.files:
            break
    if len(wavs) < 2:
        parser.error(f"{args.folder}: fewer than two recordings")
    right = {}
    for name, one, other, expected in scenes(wavs, np.random.default_rng(args.seed)):
        count = min(len(one), len(other))
        comparison = Comparison(RATE)
        pair = np.stack([one[:count], other[:count]], axis=1)
        comparison.add(torch.from_numpy(pair).float())
        right.setdefault((name, expected), []).append(comparison.found == expected)
    print("| scene | to be heard | right |\n|---|---|---|")
    for (name, expected), found in right.items():
        print(f"| {name} | {'apart' if expected else 'mixed'} | {sum(found)} of {len(found)} |")


if __name__ == "__main__":
    main()
