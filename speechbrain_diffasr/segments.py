"""What is said when, and by whom: the values that pass between recognizer, boundaries and files.

All times are seconds from the beginning of the audio, and no value changes once it is made.
"""

import unicodedata
from dataclasses import dataclass, replace

from speechbrain_diffasr.words import Word, join_words, split_text


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


@dataclass(frozen=True)
class Segment:
    """What was said in a stretch of audio.

    Arguments
    ---------
    start, end : float
        Seconds from the beginning of the audio.
    text : str
        What was said; empty if nothing was.
    words : tuple of Word
        Its words with their times, from the beginning of the audio too; joined, they are the
        text. Default: times of words are not known.
    speaker : str, optional
        Who said it. Default: not known.
    language : str, optional
        Code of the language. Default: not known.

    Raises
    ------
    ValueError
        If the end comes before the start.

    Example
    -------
    >>> words = [Word("guten", 0.1, 0.5, 0.9, False), Word("Tag", 0.5, 0.8, 0.7, True)]
    >>> segment = Segment.from_words(words, 0.0, 1.0, language="de")
    >>> segment.text, round(segment.confidence, 2)
    ('guten Tag', 0.8)
    >>> segment.shifted(30).words[1].start
    30.5
    """

    start: float
    end: float
    text: str
    words: tuple = ()
    speaker: str | None = None
    language: str | None = None

    def __post_init__(self):
        if not 0 <= self.start <= self.end < float("inf"):
            raise ValueError(
                f"a segment from {self.start} to {self.end} s; "
                "it must start at 0 or later and not end before its start"
            )

    @classmethod
    def from_words(cls, words, start=None, end=None, speaker=None, language=None):
        """Makes a segment whose text is that of its words.

        Arguments
        ---------
        words : list of Word
            In order.
        start, end : float, optional
            Seconds. Default: of the first and the last word.
        speaker, language : str, optional

        Returns
        -------
        segment : Segment
        """
        words = tuple(words)
        if words and words[0].space:
            words = (replace(words[0], space=False), *words[1:])
        if start is None or end is None:
            start = words[0].start if start is None else start
            end = max(word.end for word in words) if end is None else end
        return cls(start, end, join_words(words), words, speaker, language)

    @property
    def duration(self):
        """Seconds from start to end."""
        return self.end - self.start

    @property
    def confidence(self):
        """Mean confidence of the words, or None if there are none."""
        if not self.words:
            return None
        return sum(word.confidence for word in self.words) / len(self.words)

    def shifted(self, seconds):
        """The segment as it is when its audio begins later.

        Arguments
        ---------
        seconds : float
            Added to all times.

        Returns
        -------
        segment : Segment
        """
        words = tuple(
            replace(word, start=word.start + seconds, end=word.end + seconds) for word in self.words
        )
        return replace(self, start=self.start + seconds, end=self.end + seconds, words=words)


@dataclass(frozen=True)
class LongTranscript:
    """What was said in a recording of any length.

    Arguments
    ---------
    name : str
        Of the recording, such as its path.
    duration : float
        Of the audio in seconds.
    segments : tuple of Segment
        In order of their starts; none if nobody speaks.
    language : str, optional
        Code of the language. Default: not known.
    language_probability : float, optional
        How sure the language is, from 0 to 1. Default: it was given, or is not known.

    Example
    -------
    >>> parts = Segment(0.0, 1.5, "Hello.", speaker="A"), Segment(2.0, 3.0, "Hi.", speaker="B")
    >>> transcript = LongTranscript("call.wav", 3.2, parts)
    >>> transcript.text, transcript.speakers
    ('Hello. Hi.', ['A', 'B'])
    """

    name: str
    duration: float
    segments: tuple = ()
    language: str | None = None
    language_probability: float | None = None

    def __post_init__(self):
        ordered = sorted(self.segments, key=lambda segment: segment.start)
        object.__setattr__(self, "segments", tuple(ordered))

    @property
    def text(self):
        """The whole text, in one line."""
        return join_texts(segment.text for segment in self.segments)

    @property
    def words(self):
        """All words with times, a list of Word."""
        return [word for segment in self.segments for word in segment.words]

    @property
    def speakers(self):
        """Names of the speakers in order of appearance."""
        named = (segment.speaker for segment in self.segments if segment.speaker is not None)
        return list(dict.fromkeys(named))


def join_texts(texts):
    """Joins texts of consecutive segments: with a space, but not between Chinese or Japanese.

    Arguments
    ---------
    texts : iterable of str
        Empty ones are passed over.

    Returns
    -------
    text : str

    Example
    -------
    >>> join_texts(["我们用", "", "电脑。", "好", "OK then"])
    '我们用电脑。好 OK then'
    """
    joined = ""
    for text in texts:
        text = " ".join(text.split())
        if joined and text and needs_space(joined, text):
            joined += " "
        joined += text
    return joined


def needs_space(left, right):
    """Whether a space stands between two texts that are joined.

    Arguments
    ---------
    left, right : str
        Not empty.

    Returns
    -------
    space : bool
        False only between two wide characters of scripts without spaces: Han, kana and their
        punctuation.

    Example
    -------
    >>> needs_space("한국어", "문장"), needs_space("你好。", "我"), needs_space("你好", "ok")
    (True, False, True)
    """
    return not (_is_spaceless(left[-1]) and _is_spaceless(right[0]))


def estimate_words(segment):
    """Words of a segment, with times guessed from their place in the text if none are known.

    Arguments
    ---------
    segment : Segment

    Returns
    -------
    words : tuple of Word
        Its own words if it has any. Otherwise each lasts as long as its share of the characters,
        with confidence 0.

    Example
    -------
    >>> [(word.text, word.start, word.end) for word in estimate_words(Segment(2, 4, "so it is"))]
    [('so', 2.0, 2.5), ('it', 2.75, 3.25), ('is', 3.5, 4.0)]
    """
    if segment.words:
        return segment.words
    text = " ".join(segment.text.split())
    scale = segment.duration / max(1, len(text))
    return tuple(
        Word(
            text=text[first:behind],
            start=segment.start + first * scale,
            end=segment.start + behind * scale,
            confidence=0.0,
            space=first > 0 and text[first - 1] == " ",
        )
        for first, behind in split_text(text)
    )


def _is_spaceless(character):
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not unicodedata.name(character, "").startswith("HANGUL")


__all__ = [
    "LongTranscript",
    "Region",
    "Segment",
    "Word",
    "estimate_words",
    "join_texts",
    "join_words",
    "needs_space",
    "split_text",
]
