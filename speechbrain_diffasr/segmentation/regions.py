"""Stretches of a recording."""

from dataclasses import dataclass


def merge_regions(regions):
    """Merges what overlaps or touches, whoever speaks in it.

    Arguments
    ---------
    regions : iterable of Region
        In any order.

    Returns
    -------
    regions : list of Region
        In order, apart from each other. A speaker stays named where all that was merged had the
        same.

    Example
    -------
    >>> merge_regions([Region(3, 4), Region(0, 1), Region(0.5, 2)])
    [Region(start=0, end=2, speaker=None), Region(start=3, end=4, speaker=None)]
    """
    merged = []
    for region in sorted(regions, key=lambda region: region.start):
        if merged and region.start <= merged[-1].end:
            last = merged[-1]
            speaker = last.speaker if last.speaker == region.speaker else None
            merged[-1] = Region(last.start, max(last.end, region.end), speaker)
        else:
            merged.append(region)
    return merged


@dataclass(frozen=True)
class Region:
    """A stretch of audio in which somebody speaks.

    Arguments
    ---------
    start, end : float
        Seconds from the beginning of the audio; the end comes after the start.
    speaker : str, optional
        Who speaks. Default: not known.

    Raises
    ------
    ValueError
        If the end does not come after the start, or the start is negative.

    Example
    -------
    >>> Region(0.5, 2.0).duration
    1.5
    >>> Region(2.0, 0.5)
    Traceback (most recent call last):
    ValueError: a region from 2.0 to 0.5 s; it must start at 0 or later and end after its start
    """

    start: float
    end: float
    speaker: str | None = None

    def __post_init__(self):
        if not 0 <= self.start < self.end < float("inf"):
            raise ValueError(
                f"a region from {self.start} to {self.end} s; "
                "it must start at 0 or later and end after its start"
            )

    @property
    def duration(self):
        """Seconds from start to end."""
        return self.end - self.start


def pad_regions(regions, margin, duration):
    """Widens regions, since detectors cut speech short.

    Arguments
    ---------
    regions : list of Region
        None overlaps another, in order.
    margin : float
        Seconds to add before and behind each, but no more than half of the gap to the neighbour.
    duration : float
        Of the audio in seconds: nothing reaches behind its end.

    Returns
    -------
    regions : list of Region
        Those that begin behind the end of the audio are left out.

    Example
    -------
    >>> pad_regions([Region(0.1, 1.0), Region(1.2, 2.0)], 0.25, 2.1)
    [Region(start=0.0, end=1.1, speaker=None), Region(start=1.1, end=2.1, speaker=None)]
    """
    regions = [region for region in regions if region.start < duration]
    padded = []
    for index, region in enumerate(regions):
        start, end = max(0.0, region.start - margin), min(duration, region.end + margin)
        if index:
            start = max(start, (regions[index - 1].end + region.start) / 2)
        if index + 1 < len(regions):
            end = min(end, (region.end + regions[index + 1].start) / 2)
        padded.append(Region(start, end, region.speaker))
    return padded
