"""Recordings of any length: which windows of them are heard."""

import importlib.util
import threading
from collections import deque

from speechbrain_diffasr.dataio.header import check_length
from speechbrain_diffasr.segmentation.levels import Levels
from speechbrain_diffasr.segmentation.regions import Region, merge_regions, pad_regions
from speechbrain_diffasr.segmentation.vad import SAMPLE_RATE, SileroVAD
from speechbrain_diffasr.segmentation.windows import (
    MAX_GAP,
    OVERLAP,
    Window,
    WindowPlan,
    fixed_windows,
    pack_regions,
)
from speechbrain_diffasr.utils.errors import AudioError, DiffASRError, MissingPackageError

SEGMENTATIONS = ("auto", "vad", "fixed", "none")
# Heard before and behind what a detector or a diarizer found, since they cut speech short.
MARGIN = 0.1  # s
# Boundaries may reach so far behind the end of the audio: they are rounded.
_BEYOND = 1.0  # s

# No gap is as short: regions that touch are not heard together either.
_NO_GAP = -1.0  # s

# Fixed windows begin anew behind silences so long at least, and so much fainter than speech.
_LONG_SILENCE = 0.3  # s
_EDGE = 0.15  # s of it that are kept: words begin and end fainter than a level tells


class Segmenter:
    """Decides which windows of a recording are heard.

    Arguments
    ---------
    max_seconds : float
        Longest window.
    segmentation : str
        ``vad``: speech as silero-vad finds it. ``fixed``: windows that overlap, with their edges
        in the quietest places there, whose texts are joined at their seams; they begin anew
        behind a silence that is longer than `max_gap` and 0.3 s. ``none``: audio that
        is longer than a window is refused. ``auto``: audio that fits a window is heard whole,
        longer audio by silero-vad if it is installed, otherwise in fixed windows; what is short
        and faint is not heard if silero-vad finds no speech in it. Default: auto.
    sample_rate : int
        Samples per second. Default: 16000.
    max_gap : float
        Longest pause inside of a window, in seconds: what lies closer is heard together, as far
        as it fits. 0 hears every stretch of speech by itself. Default: 1.

    Raises
    ------
    ValueError
        If the segmentation is unknown, or silero-vad is asked for and not installed.

    Example
    -------
    >>> import torch
    >>> from speechbrain.dataio import audio_io
    >>> from speechbrain_diffasr.dataio import AudioStream
    >>> from speechbrain_diffasr.segmentation import Region
    >>> path = getfixture("tmp_path") / "noise.wav"
    >>> noise = 0.1 * torch.rand(1, 144000)
    >>> noise[:, 64000:67200] = noise[:, 80000:83200] = 0.0  # pauses from 4.0 and from 5.0 s
    >>> audio_io.save(path, noise, 16000)
    >>> plan = Segmenter(6.0, "fixed").plan(AudioStream(path))
    >>> [(round(window.start, 1), round(window.end, 1)) for window in plan.windows]
    [(0.0, 5.1), (4.1, 9.0)]
    >>> plan = Segmenter(6.0).plan(AudioStream(path), [Region(1, 3), Region(3.5, 5)])
    >>> [(window.start, window.end) for window in plan.windows]
    [(0.9, 5.1)]
    """

    def __init__(self, max_seconds, segmentation="auto", sample_rate=16000, max_gap=MAX_GAP):
        if segmentation not in SEGMENTATIONS:
            raise ValueError(
                f"segmentation: {segmentation!r} is unknown; choose {', '.join(SEGMENTATIONS)}"
            )
        self.max_seconds = max_seconds
        self.segmentation = segmentation
        self.sample_rate = sample_rate
        self.max_gap = max_gap
        self.has_vad = sample_rate == SAMPLE_RATE and (
            segmentation == "vad" or importlib.util.find_spec("silero_vad") is not None
        )
        self._detectors = threading.local()
        if segmentation == "vad":
            if not self.has_vad:
                raise DiffASRError(
                    f"segmentation: silero-vad hears {SAMPLE_RATE} Hz and the model {sample_rate}"
                )
            self._detector()

    def fits_one_window(self, stream, regions=None):
        """Whether a file is one utterance; one without a sound is none.

        Arguments
        ---------
        stream : AudioStream
        regions : list of Region, optional
            Where speech is. Default: not known.

        Returns
        -------
        whole : bool

        Raises
        ------
        AudioError
            If it is longer than a window and is not to be cut.
        """
        if regions is not None or self.segmentation in ("vad", "fixed"):
            return False
        if self.segmentation == "none":
            header = stream.header
            check_length(stream.path, header.frames, header.samplerate, self.max_seconds)
        return stream.fits(self.max_seconds) and not self._is_empty(stream)

    def plan(self, stream, regions=None):
        """Reads a file once and decides which windows of it are heard.

        Arguments
        ---------
        stream : AudioStream
        regions : list of Region, optional
            Where speech is; none overlaps another. Default: it is found.

        Returns
        -------
        plan : WindowPlan

        Raises
        ------
        AudioError
            If the file is damaged, or the regions reach behind its end.
        """
        levels = Levels(stream.sample_rate)
        blocks = levels.watch(stream.blocks())
        by_vad = regions is None and self.segmentation != "fixed" and self.has_vad
        if by_vad:
            regions = self._detector()(blocks)
            if levels.gain > 1:
                regions = merge_regions([*regions, *self._louder(stream, levels)])
        else:
            deque(blocks, maxlen=0)
        duration = levels.length / stream.sample_rate

        def is_heard(window):
            return levels.peak_level(window.start, window.end) > stream.noise_floor

        if regions is None:
            windows = []
            for start, end in levels.spans(max(self.max_gap, _LONG_SILENCE), _EDGE):
                windows += _fixed_at_pauses(start, end, self.max_seconds, levels)
            return WindowPlan(duration, tuple(filter(is_heard, windows)), overlapping=True)
        stop = max((region.end for region in regions), default=0.0)
        if stop > duration + _BEYOND:
            raise AudioError.of(
                stream.path,
                f"boundaries reach to {stop:.2f} s, but the audio lasts {duration:.2f} s; "
                "they belong to another recording",
            )
        padded = pad_regions(regions, MARGIN, duration)
        # Margins have made the pauses shorter.
        gap = self.max_gap - 2 * MARGIN if self.max_gap else _NO_GAP
        windows = pack_regions(padded, self.max_seconds, gap, levels.quietest)
        return WindowPlan(duration, tuple(filter(is_heard, windows)), tuple(regions))

    def _is_empty(self, stream):
        """Whether a short file is silent, or is faint and nobody speaks in it."""
        levels = Levels(stream.header.samplerate)
        by_vad = self.segmentation == "auto" and self.has_vad
        try:
            for _ in levels.watch(stream.samples()):
                # It need not be read to its end to know that it is heard.
                if levels.peak > stream.noise_floor and not (by_vad and levels.is_faint(stream)):
                    return False
            if levels.peak <= stream.noise_floor:
                return True
            # What either level lets it find is not lost.
            return by_vad and not (
                self._louder(stream, levels) or self._detector()(stream.blocks())
            )
        except (AudioError, MissingPackageError):
            # Who loads it says what is wrong; without a detector that works, it is heard.
            return False

    def _louder(self, stream, levels):
        """What silero-vad finds in a faint recording at the level of a loud one."""
        return self._detector()((levels.gain * wav).clamp(-1, 1) for wav in stream.blocks())

    def _detector(self):
        """One for each thread, since it remembers what it has heard."""
        if not hasattr(self._detectors, "vad"):
            self._detectors.vad = SileroVAD()
        return self._detectors.vad


def _fixed_at_pauses(start, end, max_seconds, levels):
    """Windows that overlap, from one time to another, with edges in pauses."""
    windows = fixed_windows(end - start, max_seconds, min(OVERLAP, max_seconds / 3))
    moved = [Window(start + window.start, start + window.end) for window in windows]
    return _at_quiet_edges(moved, levels)


def _at_quiet_edges(windows, levels):
    """Moves the edges of overlapping windows into pauses, as far as what they share allows."""
    starts, ends = [window.start for window in windows], [window.end for window in windows]
    for index in range(1, len(windows)):
        low, high = windows[index].start, windows[index - 1].end
        middle = (low + high) / 2
        starts[index] = levels.quietest(low, middle)
        ends[index - 1] = levels.quietest(middle, high)
    return [
        Window(start, end, (Region(start, end),)) for start, end in zip(starts, ends, strict=True)
    ]
