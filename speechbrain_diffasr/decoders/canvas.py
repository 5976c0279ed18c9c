"""How a canvas starts, and how training corrupts one: uniform noise over the vocabulary."""

import hashlib
import math
from dataclasses import dataclass

import torch

# Prompts and canvases are padded to a multiple of so many tokens: few shapes are captured or
# compiled, and rows are aligned for matrix products.
BUCKET = 16


@dataclass(frozen=True)
class CanvasNoise:
    """All that is random when canvases are denoised.

    Arguments
    ---------
    start : torch.Tensor
        Tokens that the canvases start from, [B, C].
    uniforms : torch.Tensor
        What a token is sampled by at each step, float32 in [0, 1), [B, S, C].
    fresh : torch.Tensor
        Tokens for the positions that a step does not accept, [B, S, C].
    """

    start: torch.Tensor
    uniforms: torch.Tensor
    fresh: torch.Tensor


def draw_noise(seeds, steps, length, vocab_size, device=None):
    """Draws the noise of a whole decoding, for each utterance from its own generator.

    It is drawn on the CPU and in advance: a transcript does not depend on the device, on the
    batch, or on how the loop runs. More steps draw more behind the same beginning.

    Arguments
    ---------
    seeds : list of int
        One for each utterance.
    steps : int
        Denoising steps at most.
    length : int
        Tokens of a canvas.
    vocab_size : int
        Tokens to draw from.
    device : torch.device, optional
        Where the noise is needed. Default: the CPU.

    Returns
    -------
    noise : CanvasNoise

    Example
    -------
    >>> noise = draw_noise([3, 3, 4], steps=2, length=5, vocab_size=100)
    >>> noise.start.shape, noise.uniforms.shape
    (torch.Size([3, 5]), torch.Size([3, 2, 5]))
    >>> [bool((noise.fresh[0] == noise.fresh[row]).all()) for row in (1, 2)]
    [True, False]
    """
    rows = [
        torch.rand(1 + 2 * steps, length, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    dice = torch.stack(rows)  # [B, 1 + 2 S, C]
    tokens = (dice * vocab_size).long()
    parts = tokens[:, 0], dice[:, 1::2].contiguous(), tokens[:, 2::2].contiguous()
    return CanvasNoise(*(part.to(device, non_blocking=True) for part in parts))


def round_up(length):
    """The length that a prompt or a canvas is padded to.

    Arguments
    ---------
    length : int or float
        Tokens.

    Returns
    -------
    length : int

    Example
    -------
    >>> round_up(16), round_up(16.1)
    (16, 32)
    """
    return math.ceil(length / BUCKET) * BUCKET


def fill_canvas(tokens, length, eos, device=None):
    """Writes transcripts onto canvases, with end-of-text tokens behind them.

    Arguments
    ---------
    tokens : list of list of int
        Transcripts.
    length : int
        Tokens of a canvas.
    eos : int
        End-of-text token.
    device : torch.device, optional
        Where the canvas lives.

    Returns
    -------
    canvas : torch.Tensor
        [B, length].

    Raises
    ------
    ValueError
        If a transcript is longer than a canvas.

    Example
    -------
    >>> fill_canvas([[5, 6, 7], [8]], length=4, eos=1)
    tensor([[5, 6, 7, 1],
            [8, 1, 1, 1]])
    """
    longest = max(map(len, tokens), default=0)
    if longest > length:
        raise ValueError(
            f"a transcript of {longest} tokens does not fit a canvas of {length}; "
            "raise canvas_length, or leave long utterances out"
        )
    canvas = torch.full((len(tokens), length), eos)
    for row, values in zip(canvas, tokens, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=torch.long)
    return canvas.to(device, non_blocking=True)


@dataclass(frozen=True)
class Guess:
    """What may be said in an utterance: a draft by CTC, by another recognizer, or by hand.

    Arguments
    ---------
    tokens : list of int
    confidences : list of float
        How sure each is, from 0 to 1. Default: all are, wholly.
    """

    tokens: list
    confidences: list = None


def start_canvases(guesses, noise, least, eos):
    """Writes drafts onto canvases: what is sure enough, and noise elsewhere.

    Arguments
    ---------
    guesses : list of Guess or None
        None leaves a canvas of noise.
    noise : torch.Tensor
        The canvases as they would be without drafts, [B, C].
    least : list of float
        Confidence from which a token is kept, for each.
    eos : int
        End-of-text token, which fills what is behind a draft.

    Returns
    -------
    canvas : torch.Tensor
        [B, C]; of a draft that is longer, its beginning.

    Example
    -------
    >>> noise = torch.tensor([[20, 21, 22, 23], [24, 25, 26, 27]])
    >>> start_canvases([Guess([5, 6, 7], [0.9, 0.2, 0.6]), None], noise, [0.5, 0.5], eos=1)
    tensor([[ 5, 21,  7,  1],
            [24, 25, 26, 27]])
    """
    width = noise.shape[1]
    texts = [[] if guess is None else guess.tokens[:width] for guess in guesses]
    canvas = fill_canvas(texts, width, eos)
    kept = torch.zeros(canvas.shape, dtype=torch.bool)
    for row, guess, limit in zip(kept, guesses, least, strict=True):
        if guess is not None:
            row[:] = True
            sure = guess.confidences or [1.0] * len(guess.tokens)
            row[: len(sure)] = torch.tensor([one >= limit for one in sure[:width]])
    canvas, kept = (part.to(noise.device, non_blocking=True) for part in (canvas, kept))
    return torch.where(kept, canvas, noise)


def mix_seeds(*parts):
    """One seed from several numbers: others for any change of one of them.

    Arguments
    ---------
    *parts : int

    Returns
    -------
    seed : int
        From 0 to 2^63 - 1.

    Example
    -------
    >>> mix_seeds(0, 1) == mix_seeds(0, 1) != mix_seeds(1, 0)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def corrupt_canvas(tokens, vocab_size, generators=None, min_rate=0.001, max_rate=1.0):
    """Noise of uniform discrete diffusion (D3PM; Austin et al., 2021).

    Each example draws a rate t ~ U(min_rate, max_rate); each of its positions is
    replaced, with probability t, by a token drawn uniformly from the vocabulary.
    There is no mask token. The defaults are those of the released DiffusionGemma.

    Arguments
    ---------
    tokens : torch.Tensor
        Clean canvas [B, C].
    vocab_size : int
        Replacements are drawn from ``range(vocab_size)``.
    generators : list of torch.Generator, optional
        One for each utterance, on the CPU, so that its noise does not depend on who else is in
        the batch. Default: torch's own, on the device of tokens.
    min_rate, max_rate : float
        Range of t.

    Returns
    -------
    noisy : torch.Tensor
        Corrupted canvas [B, C].
    mask : torch.Tensor
        True where a token was drawn anew [B, C], be it by chance the same one.
    rates : torch.Tensor
        t of each example [B].

    Raises
    ------
    ValueError
        Unless 0 <= min_rate <= max_rate <= 1.

    Example
    -------
    >>> clean = torch.arange(12).view(2, 6)
    >>> noisy, mask, rates = corrupt_canvas(clean, vocab_size=100)
    >>> bool((noisy == clean)[~mask].all()), rates.shape
    (True, torch.Size([2]))
    """
    if not 0 <= min_rate <= max_rate <= 1:
        raise ValueError(
            f"min_rate, max_rate: {min_rate}, {max_rate} are no range of probabilities; "
            "expected 0 <= min_rate <= max_rate <= 1"
        )
    length = tokens.shape[1]
    if generators is None:
        dice = torch.rand(len(tokens), 1 + 2 * length, device=tokens.device)
    else:
        rows = [torch.rand(1 + 2 * length, generator=generator) for generator in generators]
        dice = torch.stack(rows).to(tokens.device)
    rates = min_rate + (max_rate - min_rate) * dice[:, 0]
    mask = dice[:, 1 : 1 + length] < rates[:, None]
    random_tokens = (dice[:, 1 + length :] * vocab_size).to(tokens.dtype)
    return torch.where(mask, random_tokens, tokens), mask, rates
