"""Transcripts as files: text, captions, JSON, CTM, RTTM and TextGrid."""

from pathlib import Path

from speechbrain_diffasr.text.display import clean_text
from speechbrain_diffasr.text.recordings import as_column, recording_name
from speechbrain_diffasr.text.spacing import join_texts
from speechbrain_diffasr.transcripts.captions import format_srt, format_vtt
from speechbrain_diffasr.transcripts.schema import format_json
from speechbrain_diffasr.utils.atomic import write_atomically
from speechbrain_diffasr.utils.errors import WriterError

# In RTTM every turn is somebody's.
UNKNOWN_SPEAKER = "unknown"


def write_transcript(path, transcript, kind=None):
    """Writes a transcript to a file, all or nothing.

    Arguments
    ---------
    path : str or Path
    transcript : Transcript
    kind : str, optional
        A key of `FORMATS`. Default: by the ending of the path, such as ``.srt``.

    Raises
    ------
    WriterError
        If the kind is not known, the transcript lacks what it needs, or the file cannot be
        written; the old file is then as it was.

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> write_transcript(path, Transcript((Segment(0, 2, "Hello."),), 2.0, name="a.wav"))
    >>> path.read_text()
    'Hello.\\n'
    """
    if kind is None:
        kind = Path(path).suffix[1:].lower()
        if kind not in _BY_ENDING:
            known = ", ".join(_BY_ENDING)
            raise WriterError.of(path, f"its ending names no format; known are {known}")
    kind = _BY_ENDING.get(kind, kind)
    if kind not in FORMATS:
        known = ", ".join(FORMATS)
        raise WriterError.of(path, f"unknown format {kind!r}; known are {known}")
    try:
        text = FORMATS[kind](transcript)
    except WriterError as err:
        raise WriterError.of(path, str(err)) from None
    try:
        write_atomically(path, text)
    except OSError as err:
        raise WriterError.of(path, f"cannot be written ({err.strerror})") from None


def format_text(transcript):
    """Writes the text alone: in one line, or a line for each turn if speakers are known.

    Arguments
    ---------
    transcript : Transcript

    Returns
    -------
    text : str

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript
    >>> parts = Segment(0, 1, "Tea?", (), "anna"), Segment(1, 2, "Please.", (), "ben")
    >>> print(format_text(Transcript(parts, 2.0, name="a.wav")), end="")
    anna: Tea?
    ben: Please.
    """
    turns = []  # [speaker, texts]
    for segment in transcript.segments:
        text = clean_text(segment.text)
        if text and turns and turns[-1][0] == segment.speaker:
            turns[-1][1].append(text)
        elif text:
            turns.append((segment.speaker, [text]))
    if not turns:
        return "\n"
    return "".join(
        ("" if speaker is None else f"{clean_text(speaker)}: ") + join_texts(texts) + "\n"
        for speaker, texts in turns
    )


def format_ctm(transcript, name=None):
    """Writes words with times and confidence as CTM, the format of NIST's sclite.

    A line for each word: recording, channel, start and duration in seconds, word, confidence.
    The channel is 1, or that of the speaker where speakers are channels.
    The recording is named as the audio file without its ending; white space in it and in words
    becomes "_", since it divides the columns. CTM has no place for speakers.

    Arguments
    ---------
    transcript : Transcript
        With words.
    name : str, optional
        Of the recording, one of `recording_names` where several are in one file. Default: that of
        the transcript's file.

    Returns
    -------
    ctm : str

    Raises
    ------
    WriterError
        If times of words are not known.

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript, Word
    >>> segment = Segment.from_words([Word("Hello.", 0.5, 0.9, 0.75, False)])
    >>> print(format_ctm(Transcript((segment,), 2.0, name="folder/a.wav")), end="")
    a 1 0.500 0.400 Hello. 0.7500
    """
    name = recording_name(transcript.name) if name is None else name
    lines = []
    _check_times(transcript)
    words = [
        (word, _channel(transcript, segment.speaker) or 1)
        for segment in transcript.segments
        for word in segment.words
    ]
    for word, channel in sorted(words, key=lambda both: (both[1], both[0].start)):
        # Rounded before the difference, so that words that meet still do.
        start, end = round(word.start, 3), round(word.end, 3)
        label = as_column(word.text)
        times = f"{start:.3f} {end - start:.3f}"
        lines.append(f"{name} {channel} {times} {label} {word.confidence:.4f}\n")
    return "".join(lines)


def format_rttm(transcript, name=None):
    """Writes speakers and words as RTTM, the format of NIST's rich transcription.

    Each segment is a SPEAKER line, as SpeechBrain's `write_rttm` writes it; readers of turns,
    such as scorers of diarization, use these alone. RTTM allows no text in them (the field of
    the orthography has to be <NA>), but has lines of another type for words: each word is a
    LEXEME line with its times, spelling, speaker and confidence. Without times of words there
    are SPEAKER lines only. See "RTTM-format-v13", NIST, 2009.

    The channel is 0, or that of the speaker, from 1, where speakers are channels. White space in
    names and words becomes "_", and quotation marks in words become "'", because
    common readers take them for the quotes of a table. An unknown speaker is "unknown".

    Arguments
    ---------
    transcript : Transcript
    name : str, optional
        As for `format_ctm`.

    Returns
    -------
    rttm : str

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript, Word
    >>> words = [Word("Hello.", 0.5, 0.9, 0.75, False)]
    >>> segment = Segment.from_words(words, 0.25, 1.0, speaker="anna")
    >>> print(format_rttm(Transcript((segment,), 2.0, name="folder/a.wav")), end="")
    SPEAKER a 0 0.25 0.75 <NA> <NA> anna <NA> <NA>
    LEXEME a 0 0.5 0.4 Hello. lex anna 0.75 <NA>
    """
    name = recording_name(transcript.name) if name is None else name
    lines = []
    for segment in transcript.segments:
        speaker = UNKNOWN_SPEAKER if segment.speaker is None else _label(segment.speaker)
        channel = _channel(transcript, segment.speaker)
        times = _rttm_times(segment.start, segment.end)
        if segment.text.strip() and segment.duration > 0:
            lines.append(f"SPEAKER {name} {channel} {times} <NA> <NA> {speaker} <NA> <NA>\n")
        for word in segment.words:
            times = _rttm_times(word.start, word.end)
            label = _label(word.text)
            sure = round(word.confidence, 4)
            lines.append(f"LEXEME {name} {channel} {times} {label} lex {speaker} {sure} <NA>\n")
    return "".join(lines)


def format_textgrid(transcript):
    """Writes segments and words as tiers of a TextGrid, the format of Praat.

    There is a tier of segments and one of words for each speaker, and intervals without text
    between them. An interval lasts at least 1 ms. See
    https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html

    Arguments
    ---------
    transcript : Transcript

    Returns
    -------
    textgrid : str

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript
    >>> grid = format_textgrid(Transcript((Segment(0.5, 2, 'He said "no".'),), 2.0, name="a.wav"))
    >>> print(*grid.splitlines()[-5:], sep="\\n")
            text = ""
          intervals [2]:
            xmin = 0.500
            xmax = 2.000
            text = "He said ""no""."
    """
    tiers = []  # (name, intervals in ms)
    speakers = dict.fromkeys(segment.speaker for segment in transcript.segments) or [None]
    for speaker in speakers:
        prefix = "" if speaker is None else f"{clean_text(speaker)}: "
        own = [segment for segment in transcript.segments if segment.speaker == speaker]
        words = [word for segment in own for word in segment.words]
        tiers.append((f"{prefix}segments", _disjoint(own)))
        if words:
            tiers.append((f"{prefix}words", _disjoint(words)))
    ends = [intervals[-1][1] for _, intervals in tiers if intervals]
    xmax = max(1, round(1000 * transcript.duration), *ends)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0.000", f"xmax = {_seconds(xmax)}", "tiers? <exists>"]
    lines += [f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers, start=1):
        intervals = _filled(intervals, xmax)
        lines += [
            f"  item [{number}]:",
            '    class = "IntervalTier"',
            f"    name = {_quoted(name)}",
        ]
        lines += ["    xmin = 0.000", f"    xmax = {_seconds(xmax)}"]
        lines += [f"    intervals: size = {len(intervals)}"]
        for index, (start, end, text) in enumerate(intervals, start=1):
            lines += [f"      intervals [{index}]:", f"        xmin = {_seconds(start)}"]
            lines += [f"        xmax = {_seconds(end)}", f"        text = {_quoted(text)}"]
    return "\n".join(lines) + "\n"


# How each kind of file is written, by its name and ending.
# What a transcript can be written as.
FORMATS = {
    "text": format_text,
    "srt": format_srt,
    "vtt": format_vtt,
    "json": format_json,
    "ctm": format_ctm,
    "rttm": format_rttm,
    "textgrid": format_textgrid,
}


def file_ending(kind):
    """What the files of a format end in.

    Arguments
    ---------
    kind : str
        A key of `FORMATS`.

    Returns
    -------
    ending : str

    Example
    -------
    >>> file_ending("text"), file_ending("srt")
    ('txt', 'srt')
    """
    return "txt" if kind == "text" else kind


_BY_ENDING = {ending: kind for kind in FORMATS for ending in (file_ending(kind), kind)}


def _channel(transcript, speaker):
    """The number of the channel that is a speaker, from 1; 0 if speakers are no channels."""
    return transcript.channels.index(speaker) + 1 if speaker in transcript.channels else 0


def _check_times(transcript):
    untimed = [part for part in transcript.segments if part.text.strip() and not part.words]
    if untimed:
        raise WriterError(
            f"CTM needs the times of words, and the segment at {untimed[0].start:.2f} s has none; "
            "transcribe with word times, or write another format"
        )


def _label(text):
    return as_column(text).replace('"', "'")


def _rttm_times(start, end):
    # Digits as in SpeechBrain's `write_rttm`.
    return f"{round(start, 4)} {round(end - start, 4)}"


def _disjoint(parts):
    """Intervals in ms of what has start, end and text: each begins where the last one ended."""
    intervals, free = [], 0
    for part in parts:
        text = clean_text(part.text)
        if text:
            start = max(round(1000 * part.start), free)
            free = max(round(1000 * part.end), start + 1)
            intervals.append((start, free, text))
    return intervals


def _filled(intervals, xmax):
    """The intervals, and empty ones between them."""
    filled, free = [], 0
    for start, end, text in intervals:
        if start > free:
            filled.append((free, start, ""))
        filled.append((start, end, text))
        free = end
    return [*filled, (free, xmax, "")] if free < xmax else filled


def _seconds(milliseconds):
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def _quoted(text):
    return '"' + text.replace('"', '""') + '"'
