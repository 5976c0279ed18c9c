"""Words, segments, transcripts."""

from dataclasses import dataclass, field, replace

from speechbrain_diffasr.text.spacing import join_texts, join_words, split_text


@dataclass(frozen=True)
class Word:
    """A word of a transcript.

    Arguments
    ---------
    text : str
        The word, with punctuation attached; in scripts without spaces, a character.
    start, end : float
        Seconds from the beginning of the audio.
    confidence : float
        From 0 to 1.
    space : bool
        Whether a space stands before it in the text.
    """

    text: str
    start: float
    end: float
    confidence: float
    space: bool


@dataclass(frozen=True)
class Alternative:
    """A text that a segment was chosen among.

    Arguments
    ---------
    text : str
    score : float
        The higher the better, for texts of the same segment: a log-likelihood in nats, or minus the
        word errors that are expected of it.
    """

    text: str
    score: float


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
    alternatives : tuple of Alternative
        What its text was chosen among, itself first. Default: they were not asked for, or it is
        only a part of what was heard at once.

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
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    speaker: str | None = None
    language: str | None = None
    alternatives: tuple[Alternative, ...] = ()

    def __post_init__(self):
        if not 0 <= self.start <= self.end < float("inf"):
            raise ValueError(
                f"a segment from {self.start} to {self.end} s; "
                "it must start at 0 or later and not end before its start"
            )

    @classmethod
    def from_words(cls, words, start=None, end=None, speaker=None, language=None) -> "Segment":
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
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.end - self.start

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words, or None if there are none."""
        if not self.words:
            return None
        return sum(word.confidence for word in self.words) / len(self.words)


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording of any length, or in one waveform.

    Arguments
    ---------
    segments : tuple of Segment
        What was said when, in order of their starts; none if nobody speaks.
    duration : float
        Of the audio, in seconds.
    language : str, optional
        Code of the language that was given, or else found from the audio; the prompt names only
        the former. Default: not known.
    language_probability : float, optional
        How sure the language is, from 0 to 1, if it was found from the audio. Default: it was
        given, or is not known.
    steps : int, optional
        Denoising steps that were taken, in the window that took most. Default: not known.
    tokens : tuple of int
        What was decoded, of all windows. Default: not known.
    name : str, optional
        Of the recording, such as its path. Default: it has none.
    channels : tuple of str
        The speakers that are channels of the recording, in their order. Default: none are.
    notes : tuple of str
        What whoever reads it should know of how it was made. Default: nothing.

    Example
    -------
    >>> parts = Segment(0.0, 1.5, "Hello.", speaker="A"), Segment(2.0, 3.0, "Hi.", speaker="B")
    >>> transcript = Transcript(parts, 3.2, name="call.wav")
    >>> transcript.text, transcript.speakers
    ('Hello. Hi.', ['A', 'B'])
    """

    segments: tuple[Segment, ...]
    duration: float
    language: str | None = None
    language_probability: float | None = None
    steps: int | None = None
    tokens: tuple[int, ...] = ()
    name: str | None = None
    channels: tuple[str, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self):
        ordered = sorted(self.segments, key=lambda segment: segment.start)
        object.__setattr__(self, "segments", tuple(ordered))

    @property
    def text(self) -> str:
        """The whole text, in one line."""
        return join_texts(segment.text for segment in self.segments)

    @property
    def words(self) -> list[Word]:
        """All words with times; none if those are not known."""
        return [word for segment in self.segments for word in segment.words]

    @property
    def speakers(self) -> list[str]:
        """Names of the speakers in order of appearance."""
        named = (segment.speaker for segment in self.segments if segment.speaker is not None)
        return list(dict.fromkeys(named))


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
            text=text[start:stop],
            start=segment.start + start * scale,
            end=segment.start + stop * scale,
            confidence=0.0,
            space=start > 0 and text[start - 1] == " ",
        )
        for start, stop in split_text(text)
    )
