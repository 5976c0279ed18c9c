"""Who speaks when: turns that overlap, and the words that belong to each."""

from bisect import bisect_right
from itertools import groupby, pairwise

from speechbrain_diffasr.segments import Region, Segment

# A word outside of all turns belongs to the nearest one, if it is no further away: a diarizer's
# edges are seldom better.
MAX_DISTANCE = 1.0  # s


def flatten_turns(turns):
    """Gives every moment to one speaker, since one text is written at a time.

    - Where one turn runs into the next, each gets half of the overlap, as in SpeechBrain's
      `distribute_overlap`.
    - A turn inside of another keeps its time; the other goes on behind it. Of two that start or
      end together, the shorter one is inside.
    - Overlapping turns of the same speaker are one.

    Arguments
    ---------
    turns : list of Region
        With speakers, in any order.

    Returns
    -------
    turns : list of Region
        In order; none overlaps another, and together they last from the same starts to the same
        ends.

    Example
    -------
    >>> turns = [Region(0, 6, "anna"), Region(1, 2, "ben"), Region(4, 9, "ben")]
    >>> [(turn.start, turn.end, turn.speaker) for turn in flatten_turns(turns)]
    [(0, 1, 'anna'), (1, 2, 'ben'), (2, 5.0, 'anna'), (5.0, 9, 'ben')]
    """
    turns = _merged_by_speaker(turns)
    starts = [turn.start for turn in turns]
    ends = [turn.end for turn in turns]
    for place, turn in enumerate(turns):
        for other in range(place + 1, len(turns)):
            if turns[other].start >= turn.end:
                break
            if turns[other].start > turn.start and turns[other].end > turn.end:
                middle = (turn.end + turns[other].start) / 2
                ends[place] = min(ends[place], middle)
                starts[other] = max(starts[other], middle)
    shared = [
        (start, end, turn.duration, turn.speaker)
        for start, end, turn in zip(starts, ends, turns, strict=True)
    ]
    return _innermost(shared)


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
    >>> from speechbrain_diffasr.segments import Word
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
        for place, (speaker, words) in enumerate(parts):
            start = segment.start if place == 0 else words[0].start
            end = segment.end if place == len(parts) - 1 else parts[place + 1][1][0].start
            attributed.append(
                Segment.from_words(words, start, max(start, end), speaker, segment.language)
            )
    return attributed


def _merged_by_speaker(turns):
    """Turns in order, those of one speaker that overlap or touch as one."""
    last, merged = {}, []
    for turn in sorted(turns, key=lambda turn: (turn.start, -turn.end)):
        place = last.get(turn.speaker)
        if place is not None and turn.start <= merged[place].end:
            end = max(merged[place].end, turn.end)
            merged[place] = Region(merged[place].start, end, turn.speaker)
        else:
            last[turn.speaker] = len(merged)
            merged.append(turn)
    return merged


def _innermost(turns):
    """At every moment the shortest of the turns that last then; each (start, end, length, name)."""
    edges = sorted({time for start, end, *_ in turns for time in (start, end)})
    waiting = sorted(turns, key=lambda turn: turn[0], reverse=True)
    lasting, flat = [], []
    for start, end in pairwise(edges):
        while waiting and waiting[-1][0] <= start:
            lasting.append(waiting.pop())
        lasting = [turn for turn in lasting if turn[1] > start]
        if not lasting:
            continue
        name = min(lasting, key=lambda turn: (turn[2], turn[0]))[3]
        if flat and flat[-1].speaker == name and flat[-1].end == start:
            flat[-1] = Region(flat[-1].start, end, name)
        else:
            flat.append(Region(start, end, name))
    return flat


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
