"""Captions: what is said in pieces that fit on a screen, as SRT and WebVTT."""

import math
import re
from dataclasses import dataclass, replace
from itertools import groupby

from speechbrain_diffasr.text.display import clean_text, text_width
from speechbrain_diffasr.text.spacing import join_words, needs_space
from speechbrain_diffasr.transcripts.types import Word, estimate_words

_SENTENCE_END = tuple(".?!…。？！．।॥؟۔")
_CLAUSE_END = tuple(",;:，、；：،؛–—")
_CLOSING = "\"'”’»)]}」』》）"
# What a caption costs, in units of a caption break between any two words.
_BREAK = {"sentence": 0.0, "clause": 0.4, "pause": 0.5, "word": 1.0}
_PAUSE = 0.3  # s after which a break is easier
_EMPTINESS = 0.5  # of a caption with nothing in it
_EXTRA_LINE = 10.0
# What players take for a tag of HTML or of SubStation Alpha.
_SRT_TAG = re.compile(r"<(?=[a-zA-Z/])|\{(?=\\)")
_SRT_HARMLESS = {"<": "‹", "{": "("}
# Captions that are cut short by the next speaker stay at least so long.
_SHORTEST_MS = 500


@dataclass(frozen=True)
class CaptionStyle:
    """How captions are cut.

    Arguments
    ---------
    max_columns : int
        Longest line. Wide characters, as of Chinese, count as two, combining marks as none.
        Default: 42.
    max_lines : int
        Default: 2.
    max_seconds : float
        Longest time that a caption spans, unless a single word lasts longer. Default: 7.
    min_seconds : float
        A shorter caption stays, while nothing else is said, until then. Default: 1.
    max_pause : float
        Seconds of silence that a caption does not reach over. Default: 1.

    Raises
    ------
    ValueError
        If a caption cannot hold anything.
    """

    max_columns: int = 42
    max_lines: int = 2
    max_seconds: float = 7.0
    min_seconds: float = 1.0
    max_pause: float = 1.0

    def __post_init__(self):
        # Two columns are one wide character.
        if self.max_columns < 2 or self.max_lines < 1 or not self.max_seconds > 0:
            raise ValueError(
                f"captions of {self.max_lines} lines, {self.max_columns} columns and "
                f"{self.max_seconds} s; at least 1, 2 and more than 0"
            )


@dataclass(frozen=True)
class Caption:
    """What is shown at once.

    Arguments
    ---------
    start, end : int
        Milliseconds from the beginning of the audio; the end comes after the start.
    lines : tuple of str
    speaker : str or None
    """

    start: int
    end: int
    lines: tuple
    speaker: str | None


def make_captions(transcript, style=None, label_speakers=False):
    """Cuts a transcript into captions.

    Cuts lie between words, or between characters of scripts without spaces, and best behind a
    sentence, next behind a comma or before a pause. No caption overlaps another: where two
    people speak at once, the one who began first gives way.

    Arguments
    ---------
    transcript : Transcript
        Times of words are guessed where there are none.
    style : CaptionStyle, optional
        Default: two lines of 42 columns, 7 s.
    label_speakers : bool
        Whether to write "NAME:" where the speaker changes. Default: False.

    Returns
    -------
    captions : list of Caption
        In order.

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript
    >>> text = "First of all, the text is cut at commas, or else between words."
    >>> transcript = Transcript((Segment(0, 4, text),), 4.0, name="a.wav")
    >>> captions = make_captions(transcript, CaptionStyle(max_columns=20))
    >>> [caption.lines for caption in captions]
    [('First of all,', 'the text is cut at'), ('commas, or else', 'between words.')]
    """
    style = style or CaptionStyle()
    spoken = [segment for segment in transcript.segments if segment.text.strip()]
    cut = []
    for speaker, group in groupby(spoken, key=lambda segment: segment.speaker):
        words = _words(group)
        if label_speakers and speaker is not None and words:
            start = words[0].start
            label = Word(f"{clean_text(speaker)}:", start, start, 1.0, False)
            words = [label, replace(words[0], space=True), *words[1:]]
        words = [piece for word in words for piece in _pieces(word, style.max_columns)]
        for first, stop in _divide(len(words), _caption_costs(words, style)):
            part = words[first:stop]
            times = part[0].start, max(word.end for word in part)
            cut.append((*times, _lines(part, style.max_columns), speaker))
    cut.sort(key=lambda caption: caption[0])
    return _timed(cut, transcript.duration, style.min_seconds)


def format_srt(transcript, style=None):
    """Writes a transcript as SubRip captions.

    SRT has no escapes: "-->", which ends the text of a caption for some readers, becomes "→", and
    "<" and "{" that begin a tag become "‹" and "(". A speaker's name stands before the text where
    the speaker changes.

    Arguments
    ---------
    transcript : Transcript
    style : CaptionStyle, optional

    Returns
    -------
    srt : str

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript
    >>> print(format_srt(Transcript((Segment(0.5, 2, "Hello.", (), "anna"),), 2.5, name="a.wav")))
    1
    00:00:00,500 --> 00:00:02,000
    anna: Hello.
    <BLANKLINE>
    """
    blocks = []
    captions = make_captions(transcript, style, label_speakers=True)
    for number, caption in enumerate(captions, start=1):
        times = f"{_clock(caption.start, ',')} --> {_clock(caption.end, ',')}"
        text = _SRT_TAG.sub(lambda tag: _SRT_HARMLESS[tag[0]], "\n".join(caption.lines))
        text = text.replace("-->", "→")
        blocks.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(blocks)


def format_vtt(transcript, style=None):
    """Writes a transcript as WebVTT captions.

    Speakers become voice tags, and &, < and > are escaped; see https://www.w3.org/TR/webvtt1/

    Arguments
    ---------
    transcript : Transcript
    style : CaptionStyle, optional

    Returns
    -------
    vtt : str

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript
    >>> print(format_vtt(Transcript((Segment(0.5, 2, "a < b", (), "anna"),), 2.5, name="a.wav")))
    WEBVTT
    <BLANKLINE>
    00:00:00.500 --> 00:00:02.000
    <v anna>a &lt; b</v>
    <BLANKLINE>
    """
    blocks = ["WEBVTT\n"]
    for caption in make_captions(transcript, style):
        times = f"{_clock(caption.start, '.')} --> {_clock(caption.end, '.')}"
        text = _escape("\n".join(caption.lines))
        if caption.speaker is not None:
            text = f"<v {_escape(clean_text(caption.speaker))}>{text}</v>"
        blocks.append(f"{times}\n{text}\n")
    return "\n".join(blocks)


def _caption_costs(words, style):
    """Returns a function that yields what captions of 1, 2, ... words from one on cost."""
    widths = [text_width(word.text) for word in words]

    def costs(first):
        lines, used = 1, 0
        for index in range(first, len(words)):
            word = words[index]
            if index > first and (
                word.end - words[first].start > style.max_seconds
                or word.start - words[index - 1].end > style.max_pause
            ):
                return
            wider = used + (word.space and used > 0) + widths[index]
            if wider > style.max_columns:
                lines, wider = lines + 1, widths[index]
            used = wider
            if lines > style.max_lines:
                return
            filled = (lines - 1 + used / style.max_columns) / style.max_lines
            broken = 0.0
            if index + 1 < len(words):
                pauses = words[index + 1].start - word.end > _PAUSE
                broken = min(_BREAK[_ending(word.text)], _BREAK["pause" if pauses else "word"])
            yield 1 + _EMPTINESS * (1 - filled) ** 2 + broken

    return costs


def _words(segments):
    """Words of consecutive segments, with the spaces that stand between segments."""
    words = []
    for segment in segments:
        for index, word in enumerate(estimate_words(segment)):
            text = clean_text(word.text)
            if text:
                space = needs_space(words[-1].text, text) if words and not index else word.space
                words.append(replace(word, text=text, space=space and bool(words)))
    return words


def _pieces(word, columns):
    """A word that is wider than a line, cut between characters; most are one piece."""
    if text_width(word.text) <= columns:
        return [word]
    parts, used = [""], 0
    for character in word.text:
        width = text_width(character)
        if used + width > columns:
            parts.append("")
            used = 0
        parts[-1] += character
        used += width
    pieces, read, scale = [], 0, (word.end - word.start) / len(word.text)
    for part in parts:
        start = word.start + read * scale
        read += len(part)
        pieces.append(replace(word, text=part, start=start, end=word.start + read * scale))
    return [pieces[0], *(replace(piece, space=False) for piece in pieces[1:])]


def _lines(words, columns):
    """Lines of about the same length, as few as possible."""

    def costs(first):
        width = 0
        for index in range(first, len(words)):
            width += text_width(words[index].text) + (words[index].space and index > first)
            if width > columns:
                return
            is_last = index + 1 == len(words)
            broken = 0.0 if is_last else _BREAK[_ending(words[index].text)]
            yield _EXTRA_LINE + (1 - width / columns) ** 2 + broken / 4

    return tuple(
        join_words(words[first:stop]).strip() for first, stop in _divide(len(words), costs)
    )


def _divide(count, costs):
    """Divides a range into parts whose costs have the least sum.

    From every place, `costs` yields those of the parts of 1, 2, ... that begin there, as long as
    they may be.
    """
    best = [0.0] + [math.inf] * count
    starts = [0] * (count + 1)
    for start in range(count):
        for stop, cost in enumerate(costs(start), start=start + 1):
            if best[start] + cost < best[stop]:
                best[stop], starts[stop] = best[start] + cost, start
    parts = []
    while count:
        parts.append((starts[count], count))
        count = starts[count]
    return parts[::-1]


def _timed(captions, duration, min_seconds):
    """Captions in whole milliseconds, none before the one before it has ended."""
    timed, free = [], 0
    for index, (start, end, lines, speaker) in enumerate(captions):
        is_last = index + 1 == len(captions)
        limit = _milliseconds(duration if is_last else captions[index + 1][0])
        start = max(_milliseconds(start), free)
        end = max(_milliseconds(end), start + 1)
        if not is_last:
            end = min(end, max(limit, start + _SHORTEST_MS))
        free = max(end, min(start + _milliseconds(min_seconds), limit))
        timed.append(Caption(start, free, lines, speaker))
    return timed


def _ending(text):
    """What ends behind a word: a sentence, a clause, or just the word."""
    text = text.rstrip(_CLOSING) or text
    if text.endswith(_SENTENCE_END):
        return "sentence"
    return "clause" if text.endswith(_CLAUSE_END) else "word"


def _escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _milliseconds(seconds):
    return round(1000 * seconds)


def _clock(milliseconds, point):
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"
