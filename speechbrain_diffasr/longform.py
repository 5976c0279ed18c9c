"""One transcript from what was heard in the windows of a recording."""

import os
from dataclasses import dataclass

import torch

from speechbrain_diffasr.boundaries import (
    BoundaryError,
    merge_regions,
    read_boundaries,
    read_rttm,
    regions_from_tensor,
)
from speechbrain_diffasr.language import FoundLanguage
from speechbrain_diffasr.seams import join_overlapping
from speechbrain_diffasr.segments import LongTranscript, Region, Segment, join_texts
from speechbrain_diffasr.turns import attribute_speakers
from speechbrain_diffasr.windows import Window


@dataclass(frozen=True)
class Transcript:
    """What was heard in one file or waveform.

    Arguments
    ---------
    text : str
        The transcript.
    tokens : list of int
        Its tokens, of all windows.
    language : str or None
        The language that was given, or else found from the audio; the prompt names only the
        former.
    duration : float
        Of the audio, in seconds.
    steps : int
        Denoising steps that were taken, in the window that took most.
    segments : tuple of Segment
        What was said when; none if nothing was. Default: none.
    language_probability : float, optional
        How sure the language is, if it was found from the audio. Default: not known.
    """

    text: str
    tokens: list
    language: str | None
    duration: float
    steps: int
    segments: tuple = ()
    language_probability: float | None = None

    def named(self, name):
        """The transcript as what the writers of captions and other files take.

        Arguments
        ---------
        name : str or Path
            Of the recording, such as its path.

        Returns
        -------
        transcript : LongTranscript
        """
        return LongTranscript(
            name=os.fspath(name),
            duration=self.duration,
            segments=self.segments,
            language=self.language,
            language_probability=self.language_probability,
        )


@dataclass(frozen=True)
class Plan:
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


@dataclass(frozen=True)
class Heard:
    """What was heard in a window.

    Arguments
    ---------
    window : Window
    text : str
    tokens : list of int
    steps : int
    words : tuple of Word
        With times from the beginning of the file; none if they are not known.
    language : FoundLanguage, optional
        That was found from the audio. Default: it was given, or cannot be found.
    """

    window: Window
    text: str
    tokens: list
    steps: int
    words: tuple = ()
    language: FoundLanguage | None = None


def as_regions(boundaries, sample_rate=None):
    """Takes boundaries in any form that users have them in.

    Arguments
    ---------
    boundaries : torch.Tensor or list or str or Path
        A tensor of SpeechBrain's `VAD.get_speech_segments` or pairs of seconds, [N, 2]; a list of
        Region; or the path of a file that SpeechBrain's `VAD.save_boundaries` wrote.
    sample_rate : int, optional
        Samples per second, if they are whole numbers. Default: these are refused.

    Returns
    -------
    regions : list of Region
        In order; none overlaps another.

    Raises
    ------
    BoundaryError
        If they cannot be used.

    Example
    -------
    >>> as_regions([(0.5, 1.0), (0.9, 2.0)])
    [Region(start=0.5, end=2.0, speaker=None)]
    """
    if isinstance(boundaries, str | os.PathLike):
        return read_boundaries(boundaries, sample_rate)
    boundaries = boundaries if torch.is_tensor(boundaries) else list(boundaries)
    if len(boundaries) and not torch.is_tensor(boundaries):
        if all(isinstance(one, Region) for one in boundaries):
            return merge_regions(boundaries)
        try:
            boundaries = torch.tensor(boundaries, dtype=torch.float64)
        except (TypeError, ValueError):
            raise BoundaryError(
                "boundaries: neither a tensor [N, 2], nor pairs of seconds, nor regions"
            ) from None
    return regions_from_tensor(boundaries, sample_rate)


def as_turns(turns, recording=None, only=True):
    """Takes speakers' turns as an RTTM file or a list.

    Arguments
    ---------
    turns : str or Path or list of Region
    recording : str or Path, optional
        Audio file that is meant, where an RTTM file has several. Default: the only one.
    only : bool
        Whether an RTTM file of one recording may call it otherwise. Default: True.

    Returns
    -------
    turns : list of Region

    Raises
    ------
    BoundaryError
        If the file cannot be used.
    """
    if not isinstance(turns, str | os.PathLike):
        return list(turns)
    name = None if recording is None else os.path.splitext(os.path.basename(recording))[0]
    try:
        return read_rttm(turns, name)
    except BoundaryError:
        if not only:
            raise
        # A file about one recording need not call it as the audio is called.
        return read_rttm(turns)


def assemble(plan, heard, turns=None, language=None):
    """Makes one transcript from what was heard in the windows of a file.

    Arguments
    ---------
    plan : Plan
    heard : list of Heard
        In any order.
    turns : list of Region, optional
        Who speaks when. Default: the speakers of the windows, if they have any.
    language : str, optional
        That the prompt named. Default: none.

    Returns
    -------
    transcript : Transcript
        Its segments are the regions of the plan in which something was said, if the times of
        words are known, and otherwise the windows.
    """
    heard = sorted(heard, key=lambda one: one.window.start)
    segments = []
    for one in heard:
        start, end = one.window.start, one.window.end
        code = language if one.language is None else one.language.code
        whole = Segment(start, end, one.text, one.words, one.window.speaker, code)
        segments += [whole] if plan.overlapping else _by_region(whole, plan.speech)
    if plan.overlapping:
        segments = join_overlapping(segments)
    if turns is not None:
        segments = attribute_speakers(segments, turns)
    segments = tuple(segment for segment in segments if segment.text)
    probability = None
    if language is None:
        language, probability = _main_language(heard)
    return Transcript(
        text=join_texts(segment.text for segment in segments),
        tokens=[token for one in heard for token in one.tokens],
        language=language,
        duration=plan.duration,
        steps=max((one.steps for one in heard), default=0),
        segments=segments,
        language_probability=probability,
    )


def _main_language(heard):
    """The most probable language of a file, with the mean of its probability over the time."""
    found = [(one.window.duration, one.language) for one in heard if one.language and one.text]
    total = sum(seconds for seconds, _ in found)
    if not total:
        return None, None
    chances = {
        code: sum(seconds * language.probabilities[code] for seconds, language in found) / total
        for code in found[0][1].probabilities
    }
    code = max(chances, key=chances.get)
    return code, min(1.0, chances[code])


def _by_region(whole, speech):
    """Divides what was heard in a window among the regions of speech in it."""
    regions = [r for r in speech if r.start < whole.end and r.end > whole.start]
    if not regions or not whole.text:
        return [whole]
    if len(regions) == 1 or not whole.words:
        start = max(whole.start, regions[0].start)
        end = min(whole.end, max(region.end for region in regions))
        return [_around(whole, start, end, whole.words)]
    shares, place = [[] for _ in regions], 0
    for word in whole.words:
        middle = (word.start + word.end) / 2
        # Words are in order, so that regions behind them are never gone back to.
        distances = [max(r.start - middle, middle - r.end, 0.0) for r in regions[place:]]
        place += distances.index(min(distances))
        shares[place].append(word)
    return [
        _around(whole, max(whole.start, region.start), min(whole.end, region.end), words)
        for region, words in zip(regions, shares, strict=True)
        if words
    ]


def _around(whole, start, end, words):
    """A part of a segment, wide enough for its words."""
    if not words:
        return Segment(start, end, whole.text, (), whole.speaker, whole.language)
    start, end = min(start, words[0].start), max(end, *(word.end for word in words))
    return Segment.from_words(words, start, end, whole.speaker, whole.language)
