"""One transcript from what was heard in the windows of a recording."""

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import groupby

from speechbrain_diffasr.decoders.language_id import FoundLanguage
from speechbrain_diffasr.segmentation.turns import flatten_turns
from speechbrain_diffasr.segmentation.windows import Window
from speechbrain_diffasr.text.recordings import channel_names
from speechbrain_diffasr.transcripts.stitching import join_overlapping
from speechbrain_diffasr.transcripts.types import Segment, Transcript


@dataclass(frozen=True)
class WindowResult:
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
    alternatives : tuple of Alternative
        What the text was chosen among. Default: not asked for.
    """

    window: Window
    text: str
    tokens: list
    steps: int
    words: tuple = ()
    language: FoundLanguage | None = None
    alternatives: tuple = ()


def assemble(plan, heard, turns=None, language=None, name=None):
    """Makes one transcript from what was heard in the windows of a file.

    Arguments
    ---------
    plan : WindowPlan
    heard : list of WindowResult
        In any order.
    turns : list of Region, optional
        Who speaks when. Default: the speakers of the windows, if they have any.
    language : str, optional
        That the prompt named. Default: none.
    name : str, optional
        Of the recording. Default: it has none.

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
        speaker = one.window.speaker
        whole = Segment(start, end, one.text, one.words, speaker, code, one.alternatives)
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
        segments=segments,
        duration=plan.duration,
        language=language,
        language_probability=probability,
        steps=max((one.steps for one in heard), default=0),
        tokens=tuple(token for one in heard for token in one.tokens),
        name=name,
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
        part = _around(whole, start, end, whole.words)
        return [replace(part, alternatives=whole.alternatives if len(regions) == 1 else ())]
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


def merge_channels(transcripts):
    """Makes one transcript of those of a recording's channels, each of which is a speaker.

    Arguments
    ---------
    transcripts : list of Transcript
        In the order of the channels.

    Returns
    -------
    transcript : Transcript

    Example
    -------
    >>> parts = [Transcript((Segment(1.0, 2.0, "No."),), 3.0, "en"),
    ...          Transcript((Segment(0.0, 1.0, "Yes?"),), 3.0, "en")]
    >>> [(part.speaker, part.text) for part in merge_channels(parts).segments]
    [('right', 'Yes?'), ('left', 'No.')]
    """
    names = channel_names(len(transcripts))
    spoken = [one for one in transcripts if one.segments] or transcripts[:1]
    language = spoken[0].language if len({one.language for one in spoken}) == 1 else None
    sure = [one.language_probability for one in spoken if one.language_probability is not None]
    return replace(
        transcripts[0],
        segments=tuple(
            replace(segment, speaker=name)
            for name, one in zip(names, transcripts, strict=True)
            for segment in one.segments
        ),
        duration=max(one.duration for one in transcripts),
        language=language,
        language_probability=min(sure) if sure and language is not None else None,
        steps=max((one.steps for one in transcripts if one.steps is not None), default=None),
        tokens=tuple(token for one in transcripts for token in one.tokens),
        channels=tuple(names),
    )


# A word outside of all turns belongs to the nearest one, if it is no further away: a diarizer's
# edges are seldom better.
MAX_DISTANCE = 1.0  # s


def attribute_speakers(segments, turns, max_distance=MAX_DISTANCE):
    """Says who said each word, by the turns of a diarizer.

    A word belongs to the turn that it shares most time with, a word outside of all turns to the
    nearest one. Where the speaker changes, a new segment begins. A segment without times of
    words belongs to one speaker as a whole.

    Arguments
    ---------
    segments : list of Segment
    turns : list of Region
        With speakers; overlapping ones are flattened, see `flatten_turns`.
    max_distance : float
        Seconds; a word that is further away from all turns is nobody's. Default: 1.

    Returns
    -------
    segments : list of Segment
        With speakers; of the same words.

    Example
    -------
    >>> from speechbrain_diffasr import Word
    >>> from speechbrain_diffasr.segmentation import Region
    >>> words = [Word("Tea?", 0.2, 0.6, 0.9, False), Word("Please.", 1.1, 1.6, 0.9, True)]
    >>> turns = [Region(0, 1, "anna"), Region(0.9, 2, "ben")]
    >>> parts = attribute_speakers([Segment.from_words(words)], turns)
    >>> [(part.speaker, part.text) for part in parts]
    [('anna', 'Tea?'), ('ben', 'Please.')]
    """
    turns = flatten_turns(turns)
    starts = [turn.start for turn in turns]
    attributed = []
    for segment in segments:
        if not segment.words:
            speaker = _speaker(segment, turns, starts, max_distance)
            attributed.append(
                Segment(segment.start, segment.end, segment.text, (), speaker, segment.language)
            )
            continue
        named = [(_speaker(word, turns, starts, max_distance), word) for word in segment.words]
        parts = [
            (speaker, [word for _, word in group])
            for speaker, group in groupby(named, key=lambda both: both[0])
        ]
        for index, (speaker, words) in enumerate(parts):
            start = segment.start if index == 0 else words[0].start
            end = segment.end if index == len(parts) - 1 else parts[index + 1][1][0].start
            attributed.append(
                Segment.from_words(words, start, max(start, end), speaker, segment.language)
            )
    return attributed


def _speaker(part, turns, starts, max_distance):
    """Who speaks in most of the time of a word or segment."""
    shares = {}
    first = max(0, bisect_right(starts, part.start) - 1)
    nearest = None
    for turn in turns[first:]:
        shared = min(turn.end, part.end) - max(turn.start, part.start)
        if shared > 0:
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared
        if nearest is None or -shared < nearest[0]:
            nearest = -shared, turn.speaker
        if turn.start >= part.end:
            break
    if shares:
        return max(shares, key=shares.get)
    return nearest[1] if nearest is not None and nearest[0] <= max_distance else None
