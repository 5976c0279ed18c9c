"""Shows each transcript beside its reference, which lies next to the audio: a.wav and a.txt.

diffasr transcribe *.wav --format json | python benchmarks/beside_reference.py
"""

import json
import os
import sys
import unicodedata
from pathlib import Path

HEADER = ("file", "heard", "reference", "same")


def compare(transcripts):
    """Puts references beside transcripts.

    Arguments
    ---------
    transcripts : list of dict
        With path and text, as `diffasr transcribe --format json` writes them.

    Returns
    -------
    rows : list of tuple
        Name of the file, transcript, reference, and "yes" or "no", or "" without a reference.
    """
    rows = []
    for transcript in transcripts:
        path = Path(transcript["path"])
        heard = " ".join(transcript["text"].split())
        reference, same = "(none)", ""
        if path.with_suffix(".txt").is_file():
            reference = " ".join(path.with_suffix(".txt").read_text(encoding="utf-8").split())
            same = "yes" if heard == reference else "no"
        rows.append((path.name, heard, reference, same))
    return rows


def width(text):
    """Columns that a text takes in a terminal: Han characters two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me") for char in text)


def main():
    text = sys.stdin.read()
    if not text.strip():  # diffasr has said why
        return 1
    rows = compare(json.loads(text))
    sizes = [max(map(width, column)) for column in zip(HEADER, *rows, strict=True)]
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    for row in (HEADER, ["-" * size for size in sizes], *rows):
        cells = [cell + " " * (size - width(cell)) for cell, size in zip(row, sizes, strict=True)]
        print(" | ".join(cells).rstrip())
    scored = [row[-1] for row in rows if row[-1]]
    print(f"\n{scored.count('yes')} of {len(scored)} are as in the reference")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
