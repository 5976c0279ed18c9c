"""How loud audio is, and where nobody speaks."""

import math
from array import array
from collections import deque

import torch

# Silence is as loud as the quietest of an utterance or up to so many dB louder, but fainter than
# its loudest by so many at least; what is fainter by more than so many always counts.
ABOVE_QUIETEST_DB = 6.0
CONTRAST_DB = 10.0
BELOW_LOUDEST_DB = 35.0
# Level of digital silence.
SILENCE_DB = -100.0
LEVEL_WINDOW = 0.025  # s
LEVEL_HOP = 0.01  # s

# What is not heard at all must be fainter: somebody may speak from the back of the room.
UNHEARD_DB = 50.0


def find_pauses(wav, sample_rate, shortest=0.1, below_loudest=BELOW_LOUDEST_DB):
    """Finds where an utterance is silent.

    Silent is, in windows of 25 ms, what is at most 6 dB louder than the quietest 2 % and at least
    10 dB fainter than the loudest 5 %, or so many dB fainter than those.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    sample_rate : int
        In Hz.
    shortest : float
        Seconds of the shortest pause; at the beginning and the end any length counts.
        Default: 0.1, as long as many a stop consonant is closed.
    below_loudest : float
        In dB; what is fainter by more is silent whatever else there is. Default: 35.

    Returns
    -------
    pauses : list of tuple of float
        Start and end of each in seconds, in order.

    Example
    -------
    >>> tone = torch.sin(torch.arange(8000) / 5)
    >>> wav = torch.cat([tone, torch.zeros(8000), tone, torch.zeros(1600)])
    >>> [(round(start, 1), round(end, 1)) for start, end in find_pauses(wav, 16000)]
    [(0.5, 1.0), (1.5, 1.6)]
    """
    duration = len(wav) / sample_rate
    size, hop = round(LEVEL_WINDOW * sample_rate), round(LEVEL_HOP * sample_rate)
    if not len(wav):
        return []
    padded = torch.nn.functional.pad(wav.detach().float().cpu(), (size // 2, size - size // 2))
    power = padded.unfold(0, size, hop).square().mean(dim=1)  # [number of windows]
    levels = 10 * power.clamp(min=10 ** (SILENCE_DB / 10)).log10()
    threshold = max(_silence_level(levels, CONTRAST_DB, below_loudest), SILENCE_DB)
    silent = (levels <= threshold).int()
    changes = torch.nn.functional.pad(silent, (1, 1)).diff().nonzero()[:, 0].view(-1, 2)
    pauses = []
    for first, stop in changes.tolist():
        start = max(0.0, (first * hop - size / 2) / sample_rate)
        end = min(duration, ((stop - 1) * hop + size / 2) / sample_rate)
        if end - start >= shortest or start == 0 or end == duration:
            pauses.append((start, end))
    return pauses


def _silence_level(decibels, contrast, below_loudest=math.inf):
    """The level up to which an utterance or recording is silent, in dB.

    Arguments
    ---------
    decibels : torch.Tensor
        Levels of its windows, [N].
    contrast : float
        Silence is fainter than the loudest 5 % by so many dB at least.
    below_loudest : float
        What is fainter than those by more is silent whatever else there is.
    """
    # Not quantile(), which takes no more than 16 million values.
    ordered = decibels.sort().values
    levels = []
    for share in (0.02, 0.95):
        index = share * (len(ordered) - 1)
        low = int(index)
        high = min(low + 1, len(ordered) - 1)
        levels.append(float(torch.lerp(ordered[low], ordered[high], index - low)))
    quietest, loudest = levels
    return max(min(quietest + ABOVE_QUIETEST_DB, loudest - contrast), loudest - below_loudest)


def find_sound(wav, sample_rate, margin):
    """Finds where a waveform begins and ends to be more than silence.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    sample_rate : int
        In Hz.
    margin : float
        Seconds of silence that are kept on either side.

    Returns
    -------
    first, behind : int
        Its first sample and the one behind its last; all of the waveform if it is nothing but
        silence, or has none at its ends.

    Example
    -------
    >>> tone = torch.sin(torch.arange(16000) / 5)
    >>> wav = torch.cat([torch.zeros(16000), tone, torch.zeros(8000), tone])
    >>> first, behind = find_sound(wav, 16000, margin=0.1)
    >>> round(first / 16000, 1), behind == len(wav)
    (0.9, True)
    """
    duration = len(wav) / sample_rate
    pauses = find_pauses(wav, sample_rate, below_loudest=UNHEARD_DB)
    start, end = 0.0, duration
    if pauses and pauses[0][0] == 0:
        start = max(0.0, pauses[0][1] - margin)
    if pauses and pauses[-1][1] == duration:
        end = min(duration, pauses[-1][0] + margin)
    if start >= end:
        return 0, len(wav)
    return round(start * sample_rate), round(end * sample_rate)


# silero-vad misses faint speech: a recording fainter than the first is given to it again, as
# loud as the second. Both are levels that are exceeded for a hundredth of the time, but for at
# least 0.1 s, since a knock at the microphone makes nothing loud, and 1 s suffices.
_FAINT, _LOUD = 0.05, 0.15
_LOUD_SHARE, _LOUD_SECONDS = 0.01, (0.1, 1.0)

# Of a whole recording only what is fainter than its loudest by so many dB is a long silence.
_SILENT_DB = 30.0
# Loudness is averaged over so much when the quietest point is sought: a pause, not a plosive.
_QUIET_SECONDS = 0.2


class Levels:
    """Loudness of a recording in steps of 10 ms: 2.9 MB for an hour.

    Arguments
    ---------
    sample_rate : int
        Samples per second.

    Example
    -------
    >>> levels = Levels(16000)
    >>> _ = list(levels.watch([torch.zeros(16000), torch.full((16000,), 0.01)]))
    >>> levels.length, round(levels.peak, 3), levels.peak_level(0.0, 0.9), round(levels.gain, 3)
    (32000, 0.01, 0.0, 15.0)
    """

    def __init__(self, sample_rate):
        self.hop = max(1, round(LEVEL_HOP * sample_rate))
        self.sample_rate = sample_rate
        self.length = 0
        self.peak = 0.0  # the loudest sample
        self._rest = torch.zeros(0)
        # Arrays, since small tensors that stay, between large ones that go, would leave gaps in
        # memory that grow with the recording.
        self._powers, self._peaks = array("f"), array("f")

    def watch(self, blocks):
        """Hands blocks on and measures them.

        Arguments
        ---------
        blocks : iterable of torch.Tensor
            Consecutive pieces of the waveform, [T] each.

        Yields
        ------
        block : torch.Tensor
            The same.
        """
        for block in blocks:
            self.length += len(block)
            self.peak = max(self.peak, float(block.abs().max())) if len(block) else self.peak
            wav = torch.cat([self._rest, block])
            whole = len(wav) // self.hop * self.hop
            steps = wav[:whole].view(-1, self.hop)
            self._powers.frombytes(steps.square().mean(dim=1).numpy().tobytes())
            self._peaks.frombytes(steps.abs().amax(dim=1).numpy().tobytes())
            self._rest = wav[whole:].clone()
            yield block

    @property
    def gain(self):
        """What makes a faint recording as loud as others are; 1 for those."""
        powers = torch.tensor(self._powers)
        count = _loud_steps(len(powers))
        level = float(powers.topk(count).values[-1].sqrt()) if count else 0.0
        return _LOUD / level if 0 < level < _FAINT else 1.0

    def is_faint(self, stream):
        """Whether too little of a file has been loud so far to call it loud."""
        wanted = _loud_steps(int(stream.seconds / LEVEL_HOP))
        return int((torch.tensor(self._powers) >= _FAINT**2).sum()) < wanted

    def peak_level(self, low, high):
        """The loudest sample between two times, to 10 ms."""
        step = self.hop / self.sample_rate
        inside = torch.tensor(self._peaks[int(low / step) : math.ceil(high / step)])
        if high / step > len(self._peaks):
            inside = torch.cat([inside, self._rest.abs()])
        return float(inside.max()) if len(inside) else 0.0

    def spans(self, shortest, margin):
        """What lies between long silences.

        Silent is what is at most 6 dB louder than the quietest 2 % of the recording and at least
        30 dB fainter than its loudest 5 %: with noise behind the speech nothing is.

        Arguments
        ---------
        shortest : float
            Seconds of the shortest silence that counts.
        margin : float
            Seconds of it that are kept on either side.

        Returns
        -------
        stretches : list of (float, float)
            Start and end of each in seconds; all of the recording if there is no such silence.
        """
        duration = self.length / self.sample_rate
        if not self._powers:
            return [(0.0, duration)] if duration else []
        decibels = 10 * torch.tensor(self._powers).clamp(min=1e-12).log10()
        threshold = _silence_level(decibels, _SILENT_DB)
        silent = torch.nn.functional.pad((decibels <= threshold).int(), (1, 1))
        step, places = self.hop / self.sample_rate, silent.diff().nonzero()[:, 0].view(-1, 2)
        spans, begin = [], 0.0
        for low, high in (places * step).tolist():
            if high - low >= shortest:
                spans.append((begin, min(low + margin, duration)))
                begin = high - margin
        spans.append((begin, duration))
        return [(start, end) for start, end in spans if end - start > 2 * margin]

    def quietest(self, low, high):
        """The middle of the quietest 0.2 s between two times."""
        step = self.hop / self.sample_rate
        averaged = round(_QUIET_SECONDS / LEVEL_HOP)
        levels = torch.tensor(self._powers[int(low / step) : int(high / step)])
        if len(levels) < averaged:
            return (low + high) / 2
        energy = torch.nn.functional.avg_pool1d(levels[None], averaged, 1)[0]
        return int(low / step) * step + (int(energy.argmin()) + averaged / 2) * step


def _loud_steps(count):
    """How many of so many steps are loud in a loud recording."""
    fewest, most = (round(seconds / LEVEL_HOP) for seconds in _LOUD_SECONDS)
    return min(count, max(fewest, min(most, round(_LOUD_SHARE * count))))


def quietest_point(wav, sample_rate):
    """Finds where a waveform is quietest: in the middle of the 0.2 s of least energy.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    sample_rate : int
        Samples per second.

    Returns
    -------
    seconds : float
        From the beginning of the waveform; its middle if it is shorter than 0.2 s.

    Example
    -------
    >>> wav = torch.ones(32000)
    >>> wav[8000:16000] = 0.01
    >>> 0.5 < quietest_point(wav, 16000) < 1.0
    True
    """
    levels = Levels(sample_rate)
    deque(levels.watch([wav.detach().float().cpu()]), maxlen=0)
    return levels.quietest(0.0, len(wav) / sample_rate)
