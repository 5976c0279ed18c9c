"""Which stretches of a recording are heard at once: speech packed into windows."""

import math
from dataclasses import dataclass

from speechbrain_diffasr.segmentation.regions import Region

# Whisper hears 30 s at once.
MAX_SECONDS = 30.0
# Longer silence between two regions is not heard: it costs time and invites invented words.
MAX_GAP = 1.0  # s
# Where nothing tells speech from silence, neighbouring windows share some words.
OVERLAP = 4.0  # s
# Windows stay so much below the longest, since their edges are rounded to samples.
_ROUNDING = 1e-3  # s
# The last piece of a region that is too long is at least so much of the longest window.
_LAST_PIECE = 0.25


@dataclass(frozen=True)
class Window:
    """A stretch of audio that is heard at once, and what of it is speech.

    Arguments
    ---------
    start, end : float
        Seconds from the beginning of the audio.
    regions : tuple of Region
        Speech in it, in order.

    Example
    -------
    >>> window = Window(1.0, 3.0, (Region(1.0, 3.0, "A"),))
    >>> window.speaker, window.samples(16000)
    ('A', (16000, 48000))
    """

    start: float
    end: float
    regions: tuple = ()

    @property
    def duration(self):
        """Seconds from start to end."""
        return self.end - self.start

    @property
    def speaker(self):
        """The speaker of all its regions, or None."""
        names = {region.speaker for region in self.regions}
        return names.pop() if len(names) == 1 else None

    def samples(self, sample_rate):
        """Where it lies in the waveform.

        Arguments
        ---------
        sample_rate : int
            Samples per second.

        Returns
        -------
        first, behind : int
            Its first sample and the one behind its last. Windows that meet share no sample and
            leave none out.
        """
        return round(self.start * sample_rate), round(self.end * sample_rate)


def pack_regions(regions, max_seconds=MAX_SECONDS, max_gap=MAX_GAP, quietest=None, overlap=OVERLAP):
    """Packs speech into windows that are heard at once.

    Neighbours go into one window as long as they fit, no longer silence lies between them, and
    one speaker speaks. A region that is too long is cut: at its quietest points if they can be
    asked for, otherwise into windows that overlap, see `fixed_windows`; `join_overlapping` then
    joins their texts. All speech is in a window, and none in two but for such overlaps.

    Arguments
    ---------
    regions : list of Region
        None overlaps another; see `merge_regions` and `flatten_turns`.
    max_seconds : float
        Longest window. Default: 30.
    max_gap : float
        Longest silence inside of a window, in seconds. Default: 1.
    quietest : callable, optional
        Given two times in seconds, returns the time between them at which to cut, for example by
        `quietest_point`. Default: long regions are cut with overlap.
    overlap : float
        Seconds that pieces of a long region share if `quietest` is not given. Default: 4.

    Returns
    -------
    windows : list of Window
        In order.

    Raises
    ------
    ValueError
        If regions overlap, or `max_seconds` is not positive.

    Example
    -------
    >>> speech = [Region(0, 10), Region(10.5, 25), Region(26, 34), Region(50, 90)]
    >>> windows = pack_regions(speech, quietest=lambda low, high: round(high) - 1)
    >>> [(window.start, window.end) for window in windows]
    [(0, 25), (26, 34), (50, 79), (79, 90)]
    """
    if not max_seconds > 0:
        raise ValueError(f"max_seconds: {max_seconds}; windows must last longer than nothing")
    windows, packed = [], []
    last = None
    for region in sorted(regions, key=lambda region: region.start):
        if last is not None and region.start < last.end:
            raise ValueError(
                f"regions overlap at {region.start:.2f} s; merge_regions or flatten_turns first"
            )
        last = region
        if region.duration > max_seconds - _ROUNDING and quietest is None:
            windows += _packed(packed)
            packed = []
            windows += [
                Window(part.start, part.end, (Region(part.start, part.end, region.speaker),))
                for part in _overlapping(region.start, region.end, max_seconds, overlap)
            ]
            continue
        for piece in _cut(region, max_seconds - _ROUNDING, quietest):
            fits = packed and (
                piece.end - packed[0].start <= max_seconds - _ROUNDING
                and piece.start - packed[-1].end <= max_gap
                and piece.speaker == packed[-1].speaker
            )
            if not fits:
                windows += _packed(packed)
                packed = []
            packed.append(piece)
    return windows + _packed(packed)


def fixed_windows(duration, max_seconds=MAX_SECONDS, overlap=OVERLAP):
    """Cuts a recording into windows that overlap, without a look at its sound.

    All are equally long, so that the last one has as much context as the others.

    Arguments
    ---------
    duration : float
        Of the audio in seconds.
    max_seconds : float
        Longest window. Default: 30.
    overlap : float
        Seconds that neighbours share, at most a third of `max_seconds`, so that no more than two
        windows meet anywhere. Default: 4.

    Returns
    -------
    windows : list of Window
        In order; none if there is no audio.

    Raises
    ------
    ValueError
        If the overlap is negative or too long.

    Example
    -------
    >>> [(window.start, window.end) for window in fixed_windows(80)]
    [(0.0, 29.333333333333332), (25.333333333333332, 54.666666666666664), (50.666666666666664, 80)]
    """
    if not duration > 0:
        return []
    return [
        Window(part.start, part.end, (part,))
        for part in _overlapping(0.0, duration, max_seconds, overlap)
    ]


def _packed(regions):
    return [Window(regions[0].start, regions[-1].end, tuple(regions))] if regions else []


def _cut(region, limit, quietest):
    """Pieces of a region, none longer than the limit."""
    pieces, start = [], region.start
    while region.end - start > limit:
        high = min(start + limit, region.end - _LAST_PIECE * limit)
        low = (start + high) / 2
        cut = min(max(quietest(low, high), low), high)
        pieces.append(Region(start, cut, region.speaker))
        start = cut
    return [*pieces, Region(start, region.end, region.speaker)]


def _overlapping(start, end, max_seconds, overlap):
    """Equal regions that overlap and cover the time from start to end."""
    if not 0 <= overlap <= max_seconds / 3:
        raise ValueError(
            f"overlap: {overlap:g} s; at least 0 and at most a third of the {max_seconds:g} s "
            "that are heard at once"
        )
    limit = max_seconds - _ROUNDING
    duration = end - start
    count = max(1, math.ceil((duration - overlap) / (limit - overlap)))
    size = (duration + (count - 1) * overlap) / count
    starts = [start + index * (size - overlap) for index in range(count)]
    ends = [first + size for first in starts[:-1]]
    return [Region(*both) for both in zip(starts, [*ends, end], strict=True)]


@dataclass(frozen=True)
class WindowPlan:
    """Which windows of a file are heard.

    Arguments
    ---------
    duration : float
        Of the audio in seconds.
    windows : tuple of Window
        In order.
    speech : tuple of Region
        What was found or given, without margins; none for windows of fixed length.
    overlapping : bool
        Whether neighbouring windows share audio, so that their texts are joined at seams.
    """

    duration: float
    windows: tuple
    speech: tuple = ()
    overlapping: bool = False
