"""Who speaks when: turns that overlap, and the words that belong to each."""

from itertools import pairwise

from speechbrain_diffasr.segmentation.regions import Region


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
    for index, turn in enumerate(turns):
        for other in range(index + 1, len(turns)):
            if turns[other].start >= turn.end:
                break
            if turns[other].start > turn.start and turns[other].end > turn.end:
                middle = (turn.end + turns[other].start) / 2
                ends[index] = min(ends[index], middle)
                starts[other] = max(starts[other], middle)
    shared = [
        (start, end, turn.duration, turn.speaker)
        for start, end, turn in zip(starts, ends, turns, strict=True)
    ]
    return _innermost(shared)


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
