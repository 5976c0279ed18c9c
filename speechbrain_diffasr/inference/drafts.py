"""Drafts from files, and the part of one that a window needs."""

import json
from pathlib import Path

from speechbrain_diffasr.text.recordings import recording_names
from speechbrain_diffasr.text.spacing import join_texts
from speechbrain_diffasr.transcripts.schema import parse_json
from speechbrain_diffasr.utils.errors import DiffASRError
from speechbrain_diffasr.utils.paths import path_text

READABLE = "a text file, or what diffasr transcribe --format json writes"


def draft_of(transcript, start=0.0, end=float("inf")):
    """What a transcript says between two times, as a draft.

    Arguments
    ---------
    transcript : Transcript
        Of the whole recording, by whatever recognizer.
    start, end : float
        Seconds; words or, where their times are not known, whole segments count whose middle
        lies between. Default: all of it.

    Returns
    -------
    draft : str or list of list
        As `make_guesses` takes it: words with confidences, or a text.

    Example
    -------
    >>> from speechbrain_diffasr import Segment, Transcript, Word
    >>> words = Word("so", 0.0, 0.4, 0.9, False), Word("it", 2.5, 2.9, 0.4, True)
    >>> transcript = Transcript((Segment(0.0, 3.0, "so it", words), Segment(3, 4, "is")), 4.0)
    >>> draft_of(transcript, 2.0, 3.0), draft_of(Transcript(transcript.segments[1:], 4.0))
    ([[('it', 0.4)]], 'is')
    """
    words, has_words = [], False
    for segment in transcript.segments:
        for word in segment.words:
            if start <= (word.start + word.end) / 2 < end:
                words.append((word.text, word.confidence))
                has_words = True
        if not segment.words and start <= (segment.start + segment.end) / 2 < end:
            words.append((segment.text, 1.0))
    return [words] if has_words else join_texts(text for text, _ in words)


def read_drafts(path, recordings):
    """Reads what may be said in recordings.

    Arguments
    ---------
    path : str or Path
        A text file, the draft of the one recording; or JSON as `diffasr transcribe --format json`
        writes it, of any number of them, found by their paths or, if no two share one, by the last
        part of these without its ending.
    recordings : list of str or Path

    Returns
    -------
    drafts : list of str, Transcript or None
        For each recording; None where the file says nothing of it.

    Raises
    ------
    DiffASRError
        If it cannot be read, is empty or JSON of another kind, or is of no recording.

    Example
    -------
    >>> path = getfixture("tmp_path") / "draft.txt"
    >>> _ = path.write_text("so it is\\n")
    >>> read_drafts(path, ["speech.wav"])
    ['so it is']
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DiffASRError(f"draft: {path}: no such file; give {READABLE}") from None
    except OSError as error:
        raise DiffASRError(f"draft: {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DiffASRError(f"draft: {path}: not text in UTF-8; give {READABLE}") from None
    if not text.strip():
        raise DiffASRError(f"draft: {path}: nothing is in it; give {READABLE}")
    if text.lstrip()[0] not in "{[":
        if len(recordings) != 1:
            raise DiffASRError(
                f"draft: {path} is a text, and of one recording; for several give what "
                "diffasr transcribe --format json writes"
            )
        return [" ".join(text.split())]
    try:
        parts = json.loads(text)
    except json.JSONDecodeError as error:
        raise DiffASRError(f"draft: {path}: not JSON ({error}); give {READABLE}") from None
    parts = parts if isinstance(parts, list) else [parts]
    try:
        transcripts = [parse_json(json.dumps(part), f"draft: {path}") for part in parts]
    except ValueError as error:
        raise DiffASRError(str(error)) from None
    by_path = {one.name: one for one in transcripts}
    names = recording_names([str(one.name) for one in transcripts])
    by_name = dict(zip(names, transcripts, strict=True))
    found = [
        by_path.get(path_text(recording), by_name.get(name))
        for recording, name in zip(recordings, recording_names(recordings), strict=True)
    ]
    if recordings and all(draft is None for draft in found):
        held = f"{', '.join(names[:3])}{' …' * (len(names) > 3)}" or "no recording"
        raise DiffASRError(
            f"draft: {path} has {held}, and nothing of {path_text(recordings[0])}; give the "
            "transcript of that, under its name"
        )
    return found
