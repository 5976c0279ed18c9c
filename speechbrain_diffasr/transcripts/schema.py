"""Transcripts as JSON: a versioned format with a schema, written and read back."""

import json

from speechbrain_diffasr.transcripts.types import Alternative, Segment, Transcript, Word

FORMAT = "diffasr-transcript"
VERSION = 2
# Version 1 had neither the path nor the steps.
READABLE = (1, 2)

_SECONDS = {"type": "number", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_NAME = {"type": ["string", "null"]}


def _object(optional=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


# JSON Schema (https://json-schema.org/draft/2020-12/schema) of this version. A change that its
# readers would stumble over gets another version.
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": f"Transcript by diffasr, version {VERSION}; times in seconds from the audio's start",
    **_object(
        format={"const": FORMAT},
        version={"const": VERSION},
        path={"type": "string", "description": "of the recording, as it was given"},
        audio={"type": "string", "description": "the same, under its name in version 1"},
        text={"type": "string", "description": "of all segments, in one line"},
        language={**_NAME, "description": "code of the language; null: not known"},
        duration=_SECONDS,
        steps={
            "description": "denoising steps taken, in the window that took most; null: not known",
            "type": ["integer", "null"],
            "minimum": 0,
        },
        language_probability={
            "description": "of a language found from the audio; null: given or not known",
            "anyOf": [_SHARE, {"type": "null"}],
        },
        segments={
            "type": "array",
            "description": "in order of their starts; none if nobody speaks",
            "items": _object(
                optional=("alternatives",),
                alternatives={
                    "type": "array",
                    "description": "what the text was chosen among, itself first, if asked for",
                    "items": _object(text={"type": "string"}, score={"type": "number"}),
                },
                start=_SECONDS,
                end=_SECONDS,
                text={"type": "string"},
                speaker=_NAME,
                language=_NAME,
                words={
                    "type": "array",
                    "description": "empty if times of words are not known",
                    "items": _object(
                        text={"type": "string"},
                        start=_SECONDS,
                        end=_SECONDS,
                        confidence=_SHARE,
                        space={"type": "boolean", "description": "whether a space stands before"},
                    ),
                },
            ),
        },
    ),
}


def format_json(transcript):
    """Writes a transcript as JSON of the format that `SCHEMA` describes.

    Arguments
    ---------
    transcript : Transcript
        With a name.

    Returns
    -------
    text : str
        Times are rounded to milliseconds, probabilities to four digits.

    Example
    -------
    >>> transcript = Transcript((Segment(0.5, 1.5, "Hello."),), 2.0, "en", name="a.wav")
    >>> parse_json(format_json(transcript)) == transcript
    True
    """
    return _dump(_content(transcript), 1)


def format_json_list(transcripts):
    """Writes transcripts as one JSON list, its items as `format_json` writes each.

    Arguments
    ---------
    transcripts : iterable of Transcript
        With names.

    Returns
    -------
    text : str
    """
    return _dump([_content(transcript) for transcript in transcripts], 2)


def _dump(content, indent):
    text = json.dumps(content, ensure_ascii=False, indent=indent, allow_nan=False) + "\n"
    # File names need not be valid UTF-8: what stands for their bytes is escaped.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _content(transcript):
    probability = transcript.language_probability
    return {
        "path": transcript.name,
        "text": transcript.text,
        "language": transcript.language,
        "duration": _time(transcript.duration),
        "steps": transcript.steps,
        "format": FORMAT,
        "version": VERSION,
        "audio": transcript.name,
        "language_probability": None if probability is None else round(probability, 4),
        "segments": [
            {
                "start": _time(segment.start),
                "end": _time(segment.end),
                "text": segment.text,
                "speaker": segment.speaker,
                "language": segment.language,
                "words": [
                    {
                        "text": word.text,
                        "start": _time(word.start),
                        "end": _time(word.end),
                        "confidence": round(word.confidence, 4),
                        "space": word.space,
                    }
                    for word in segment.words
                ],
                **_alternatives(segment),
            }
            for segment in transcript.segments
        ],
    }


def _alternatives(segment):
    """A field that is there only if it was asked for: readers of 0.1 do not know it."""
    if not segment.alternatives:
        return {}
    parts = [{"text": one.text, "score": round(one.score, 4)} for one in segment.alternatives]
    return {"alternatives": parts}


def parse_json(text, name="JSON"):
    """Reads a transcript that `format_json` wrote.

    Arguments
    ---------
    text : str
    name : str
        What a message calls it, such as its path. Default: JSON.

    Returns
    -------
    transcript : Transcript
        Without its tokens, which the format does not hold.

    Raises
    ------
    ValueError
        If it is another kind of JSON, or of another version.

    Example
    -------
    >>> parse_json('{"format": "diffasr-transcript", "version": 7}', "a.json")
    Traceback (most recent call last):
    ValueError: a.json: version 7 of the format; this program reads version 1 and 2, update it
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as err:
        raise ValueError(f"{name}: not JSON ({err}); transcribe again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{name}: field 'format' is not {FORMAT!r}; not a transcript by diffasr")
    if content.get("version") not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise ValueError(
            f"{name}: version {content.get('version')} of the format; this program reads "
            f"version {readable}, update it"
        )
    try:
        segments = tuple(
            Segment(
                start=part["start"],
                end=part["end"],
                text=part["text"],
                words=tuple(Word(**word) for word in part["words"]),
                speaker=part["speaker"],
                language=part["language"],
                alternatives=tuple(Alternative(**one) for one in part.get("alternatives", ())),
            )
            for part in content["segments"]
        )
        return Transcript(
            segments,
            content["duration"],
            content["language"],
            content["language_probability"],
            content["steps"] if content["version"] > 1 else None,
            name=content["audio"],
        )
    except KeyError as err:
        raise ValueError(f"{name}: no field {err}; transcribe again") from None
    except (TypeError, ValueError) as err:
        raise ValueError(f"{name}: {err}; transcribe again") from None


def _time(seconds):
    return round(seconds, 3)
