"""Joins the texts of windows that overlap, so that no word is lost and none said twice."""

from dataclasses import replace

from speechbrain_diffasr.text.normalizers import MarkKeepingNormalizer
from speechbrain_diffasr.transcripts.types import Segment, estimate_words

# Two windows may time the same word so differently.
TOLERANCE = 0.5  # s
# Without times, fewer words in common are seldom the same words, but at the seam itself, where
# one word may be misheard.
_SHORTEST_RUN = 2
_AT_SEAM = 1
# Where windows disagree, a word that is less sure does more harm than good.
_SURE = 0.3
_INSTANT = 1e-9  # s
_spelling = MarkKeepingNormalizer()


def join_overlapping(segments, tolerance=TOLERANCE):
    """Joins what was heard in windows that overlap.

    Both windows heard the time that they share, and each may have heard the words at its own edge
    wrongly. So the words are sought that both have there, at about the same time and in the same
    order. At one of them the text goes over from the first window to the second; if there are
    none, at any time that leaves no two words for the same time. Of these places it is the one
    that keeps most words that are likely right, then one where these do not overlap, then the one
    nearest to the middle.
    A word at the edge of a window may be a part of one, or invented where nobody speaks; such
    words are seldom sure.

    Without times of words, these are guessed from the places of words in the text, and may be
    wrong by as much as the windows overlap. A run then has two words at least, or lies at the very
    end of the first text and the very beginning of the second; without one, nothing is left out.

    Arguments
    ---------
    segments : list of Segment
        What was said in each window, from the window's start to its end, in order. Where one
        starts before the one before it ends, they are joined.
    tolerance : float
        Seconds by which two windows may time the same word differently. Default: 0.5.

    Returns
    -------
    segments : list of Segment
        Of the same text without the doubled words; none overlaps another, and none is empty.

    Example
    -------
    >>> first = Segment(0, 10, "it was the best of times it was the wor")
    >>> second = Segment(6, 16, "mes it was the worst of times")
    >>> [segment.text for segment in join_overlapping([first, second])]
    ['it was the best of times it was', 'the worst of times']
    """
    joined = []
    for segment in segments:
        if joined and segment.start < joined[-1].end and segment.text:
            joined[-1], segment = _join(joined[-1], segment, tolerance)
            if not joined[-1].text:
                joined.pop()
        if segment.text:
            joined.append(segment)
    return joined


def _join(left, right, tolerance):
    """Both segments, each with its part of the time that they share."""
    low, high = right.start, min(left.end, right.end)
    timed = bool(left.words and right.words)
    tolerance = tolerance if timed else max(tolerance, high - low)
    ours, theirs = estimate_words(left), estimate_words(right)
    # What lies further away than the tolerance is in one window only.
    start = next((i for i, w in enumerate(ours) if _middle(w) >= low - tolerance), len(ours))
    stop = next((i for i, w in enumerate(theirs) if _middle(w) > high + tolerance), len(theirs))
    find = _handover if timed else _untimed_handover
    keep, skip = find(ours[start:], theirs[:stop], (low + high) / 2, tolerance)
    keep += start
    before = ours[keep - 1].end if keep else low
    after = theirs[skip].start if skip < len(theirs) else high
    cut = min(max((before + after) / 2, low), high)
    return (
        _part(left, ours[:keep], left.start, cut),
        _part(right, theirs[skip:], cut, max(cut, right.end)),
    )


def _part(segment, words, start, end):
    """The segment with some of its words only; guessed times are dropped again."""
    words = [
        replace(word, start=max(word.start, start), end=min(word.end, end))
        if word.start < end and word.end > start
        else word
        for word in words
    ]
    part = Segment.from_words(words, start, end, segment.speaker, segment.language)
    return part if segment.words else replace(part, words=())


def _handover(ours, theirs, middle, tolerance):
    """How many of our words to keep, and how many of theirs to leave out."""
    common = _common_words(ours, theirs, tolerance)
    places = [(i + 1, j + 1, _middle(ours[i])) for i, j in common]
    if not places:
        for time in (middle, *map(_middle, ours), *map(_middle, theirs)):
            for early in (False, True):  # whether a word at that very time belongs to the first
                before = time + early * _INSTANT
                keep = sum(_middle(word) < before for word in ours)
                skip = sum(_middle(word) < before for word in theirs)
                places.append((keep, skip, time))

    def cost(place):
        keep, skip, time = place
        doubled = sum(_is_same(a, b) for a in ours[:keep] for b in theirs[skip:])
        worth = sum(word.confidence - _SURE for word in (*ours[:keep], *theirs[skip:]))
        shared = ours[keep - 1].end - theirs[skip].start if keep and skip < len(theirs) else 0.0
        return round(doubled - worth, 1), max(0.0, round(shared, 2)), abs(time - middle)

    return min(places, key=cost)[:2]


def _untimed_handover(ours, theirs, middle, tolerance):
    """As `_handover`, where times are guesses."""
    run = _longest_run(ours, theirs, tolerance)
    at_seam = run and max(len(ours) - 1 - run[0][0], run[-1][1]) <= _AT_SEAM
    if at_seam or len(run) >= _SHORTEST_RUN:
        return _within(run, ours, middle)
    return len(ours), 0


def _within(run, ours, middle):
    """Goes over from one text to the other at the word of a run that is nearest to a time."""
    keep, skip = min(run, key=lambda pair: abs(_middle(ours[pair[0]]) - middle))
    return keep + 1, skip + 1


def _is_same(one, other):
    """Whether two words take the same time, so that one of them was misheard."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    return shared > min(one.end - one.start, other.end - other.start) / 2


def _common_words(ours, theirs, tolerance):
    """The longest run of equal words and those before and behind it, as rising pairs of indices."""
    run = _longest_run(ours, theirs, tolerance)
    if not run:
        return []
    (i, j), (k, m) = run[-1], run[0]
    before = _common_words(ours[:i], theirs[:j], tolerance)
    stop = _common_words(ours[k + 1 :], theirs[m + 1 :], tolerance)
    return before + run[::-1] + [(k + 1 + a, m + 1 + b) for a, b in stop]


def _longest_run(ours, theirs, tolerance):
    """The longest run of equal words at about the same time, as pairs of indices from its end.

    Pairs count less the more their times differ: of "no no no no" the ones meant are found.
    """
    our_keys = [_spelling(word.text) for word in ours]
    their_keys = [_spelling(word.text) for word in theirs]
    weights = {}  # of the run that ends with a pair, and its length
    best, best_pair = (0.0, 0), None
    for i, key in enumerate(our_keys):
        for j, other in enumerate(their_keys):
            apart = abs(_middle(ours[i]) - _middle(theirs[j]))
            if key and key == other and apart <= tolerance:
                weight, length = weights.get((i - 1, j - 1), (0.0, 0))
                weights[i, j] = weight + 1 - apart / (2 * tolerance), length + 1
                if weights[i, j] > best:
                    best, best_pair = weights[i, j], (i, j)
    if best_pair is None:
        return []
    i, j = best_pair
    return [(i - back, j - back) for back in range(best[1])]


def _middle(word):
    return (word.start + word.end) / 2
