"""Transcripts as JSON: a versioned format with a schema, written and read back."""

import json

from speechbrain_diffasr.segments import LongTranscript, Segment, Word

FORMAT = "diffasr-transcript"
VERSION = 1

_SECONDS = {"type": "number", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_NAME = {"type": ["string", "null"]}


def _object(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# JSON Schema (https://json-schema.org/draft/2020-12/schema) of version 1. A change that readers
# of version 1 would stumble over gets another version.
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Transcript by diffasr, version 1; all times in seconds from the start of the audio",
    **_object(
        format={"const": FORMAT},
        version={"const": VERSION},
        audio={"type": "string", "description": "name of the recording as it was given"},
        duration=_SECONDS,
        language={**_NAME, "description": "code of the language; null: not known"},
        language_probability={
            "description": "of a language found from the audio; null: given or not known",
            "anyOf": [_SHARE, {"type": "null"}],
        },
        text={"type": "string", "description": "of all segments, in one line"},
        segments={
            "type": "array",
            "description": "in order of their starts; none if nobody speaks",
            "items": _object(
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
    transcript : LongTranscript

    Returns
    -------
    text : str
        Times are rounded to milliseconds, probabilities to four digits.

    Example
    -------
    >>> transcript = LongTranscript("a.wav", 2.0, (Segment(0.5, 1.5, "Hello."),), "en")
    >>> parse_json(format_json(transcript)) == transcript
    True
    """
    probability = transcript.language_probability
    content = {
        "format": FORMAT,
        "version": VERSION,
        "audio": transcript.name,
        "duration": _time(transcript.duration),
        "language": transcript.language,
        "language_probability": None if probability is None else round(probability, 4),
        "text": transcript.text,
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
            }
            for segment in transcript.segments
        ],
    }
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    # File names need not be valid UTF-8: what stands for their bytes is escaped.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_json(text, name="JSON"):
    """Reads a transcript that `format_json` wrote.

    Arguments
    ---------
    text : str
    name : str
        What a message calls it, such as its path. Default: JSON.

    Returns
    -------
    transcript : LongTranscript

    Raises
    ------
    ValueError
        If it is another kind of JSON, or of another version.

    Example
    -------
    >>> parse_json('{"format": "diffasr-transcript", "version": 7}', "a.json")
    Traceback (most recent call last):
    ValueError: a.json: version 7 of the format; this program reads version 1, update it
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as err:
        raise ValueError(f"{name}: not JSON ({err}); transcribe again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{name}: field 'format' is not {FORMAT!r}; not a transcript by diffasr")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{name}: version {content.get('version')} of the format; this program reads "
            f"version {VERSION}, update it"
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
            )
            for part in content["segments"]
        )
        return LongTranscript(
            content["audio"],
            content["duration"],
            segments,
            content["language"],
            content["language_probability"],
        )
    except KeyError as err:
        raise ValueError(f"{name}: no field {err}; transcribe again") from None
    except (TypeError, ValueError) as err:
        raise ValueError(f"{name}: {err}; transcribe again") from None


def _time(seconds):
    return round(seconds, 3)
