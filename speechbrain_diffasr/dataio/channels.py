"""Several channels: whether they cancel when mixed, and whether they hold different things."""

import math

import torch

CANCEL = "the channels cancel out when mixed to mono; keep one of them: channels first or separate"
APART = "two channels with different speech"
# Of the mean energy of the channels, so much at least is left in a mix that is worth hearing.
LEAST_MIX = 0.01
# Frames of which energies are compared.
_FRAME = 0.064  # s
# Frames in which a sound is sought in both channels.
_LONG_FRAME = 0.512  # s
# Most correlation of two channels at the best shift: two people on two lines stay below 0.12, two
# microphones in a room above it, even where it echoes much; a copy that comes later is above 0.5.
_SHIFTS = ((0.03, 0.12), (0.25, 0.35))  # (s, correlation)
# What somebody says is so much louder, for so long, than the quietest quarter of its channel, and
# no softer than so much below the other channel.
_ABOVE_QUIET = 6.0  # dB
_BELOW_OTHER = 30.0  # dB
_SPOKEN = 0.3  # s


class Cancelling:
    """Whether channels cancel when they are mixed, by their energies without the mean.

    Example
    -------
    >>> wav, check = torch.rand(1000), Cancelling()
    >>> check.add(torch.stack([wav, -0.98 * wav], dim=1))
    >>> check.found
    True
    """

    def __init__(self):
        self._count = 0
        self._sums = self._squares = 0.0

    def add(self, block):
        """Takes the next samples.

        Arguments
        ---------
        block : torch.Tensor
            [T, C].
        """
        if block.shape[1] < 2:
            return
        block = torch.cat([block, block.mean(dim=1, keepdim=True)], dim=1).double()
        self._count += len(block)
        self._sums = self._sums + block.sum(dim=0)
        self._squares = self._squares + block.square().sum(dim=0)

    @property
    def found(self):
        """Whether next to nothing is left of what the channels hold."""
        if not self._count:
            return False
        energies = self._squares - self._sums.square() / self._count  # [C + 1]
        least = LEAST_MIX * energies[:-1].mean()
        # A constant has no energy but for rounding.
        return bool(energies[-1] < least) and bool(least > 1e-12 * self._squares.max())


class Comparison:
    """Whether two channels hold different speech, such as the two ends of a call.

    They do if neither is a shifted or coloured copy of the other (their cross-correlation is low
    at every shift), and both hold something that comes and goes as speech does.

    Arguments
    ---------
    rate : int
        Samples per second.

    Example
    -------
    >>> wav = torch.rand(2, 64000) - 0.5
    >>> wav[0, 20000:] *= 0.01
    >>> wav[1, :40000] *= 0.01
    >>> different, same = Comparison(16000), Comparison(16000)
    >>> different.add(wav.T)
    >>> same.add(wav[[0, 0]].T)
    >>> different.found, same.found
    (True, False)
    """

    def __init__(self, rate):
        self._rate = rate
        self._frame = max(1, round(_FRAME * rate))
        self._long = self._frame * round(_LONG_FRAME / _FRAME)
        self._held = torch.zeros(0, 2)
        self._cross = self._energy = 0.0
        self._levels = []

    def add(self, block):
        """Takes the next samples.

        Arguments
        ---------
        block : torch.Tensor
            [T, 2].
        """
        held = torch.cat([self._held, block])
        whole = len(held) // self._long * self._long
        self._held = held[whole:]
        self._take(held[:whole])

    def _take(self, wav):
        if not len(wav):
            return
        frames = wav.T.reshape(2, -1, self._long).double()  # [2, frames, samples]
        frames = frames - frames.mean(dim=-1, keepdim=True)
        spectra = torch.fft.rfft(frames, 2 * self._long)
        self._cross = self._cross + (spectra[0] * spectra[1].conj()).sum(dim=0)
        self._energy = self._energy + frames.square().sum(dim=(1, 2))
        short = frames.reshape(2, -1, self._frame)
        self._levels.append(short.square().mean(dim=-1).float())

    @property
    def found(self):
        """Whether the channels hold different speech."""
        rest = len(self._held)
        if rest:
            # Without the mean first, so that its end makes no step.
            wav = self._held - self._held.mean(dim=0)
            self._take(torch.nn.functional.pad(wav, (0, 0, 0, self._long - rest)))
            self._held = self._held[:0]
        if not self._levels or not bool((self._energy > 0).all()):
            return False
        correlation = torch.fft.irfft(self._cross).abs() / self._energy.prod().sqrt()
        for seconds, most in _SHIFTS:
            shift = round(seconds * self._rate)
            if torch.cat([correlation[: shift + 1], correlation[-shift:]]).max() > most:
                return False
        levels = torch.cat(self._levels, dim=1).sort(dim=1).values  # [2, frames]
        spoken = math.ceil(_SPOKEN / _FRAME)
        if levels.shape[1] < spoken:
            return False
        loud, quiet = levels[:, -spoken], levels[:, levels.shape[1] // 4]
        comes_and_goes = bool((loud > 10 ** (_ABOVE_QUIET / 10) * quiet).all())
        return comes_and_goes and bool(loud.min() > 10 ** (-_BELOW_OTHER / 10) * loud.max())
