"""Shows each transcript beside its reference, which lies next to the audio: a.wav and a.txt.

    diffasr transcribe *.wav --format json | python benchmarks/beside_reference.py

CER counts the characters that are wrong, in percent of those of the reference, without case and
punctuation.
"""

import json
import os
import sys
import unicodedata
from pathlib import Path

from speechbrain_diffasr.evaluation import ErrorRates
from speechbrain_diffasr.text.normalizers import make_normalizer

HEADER = ("file", "heard", "reference", "CER")
ALL = ""


def compare(transcripts):
    """Puts references beside transcripts.

    Arguments
    ---------
    transcripts : list of dict
        With path and text, as `diffasr transcribe --format json` writes them.

    Returns
    -------
    rows : list of tuple
        Name of the file, transcript, reference and CER; the last two "(none)" and "" without one.
    right : int
        Transcripts without a wrong character.
    total : float or None
        CER of all in percent; None without references.
    """
    pairs, rates, normalize = [], ErrorRates(), make_normalizer("marks")
    for transcript in transcripts:
        path, reference = Path(transcript["path"]), None
        heard = " ".join(transcript["text"].split())
        if path.with_suffix(".txt").is_file():
            reference = " ".join(path.with_suffix(".txt").read_text(encoding="utf-8").split())
            for group in (str(path), ALL):
                rates.append([str(path)], [normalize(heard)], [normalize(reference)], [group])
        pairs.append((path, heard, reference))
    summary = rates.summarize()
    rows = [
        (path.name, heard, "(none)", "")
        if reference is None
        else (path.name, heard, reference, f"{summary[str(path)]['cer']:.1f}")
        for path, heard, reference in pairs
    ]
    total = summary.pop(ALL)["cer"] if summary else None
    return rows, sum(one["cer"] == 0 for one in summary.values()), total


def width(text):
    """Columns that a text takes in a terminal: Han characters two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me") for char in text)


def main():
    text = sys.stdin.read()
    if not text.strip():  # diffasr has said why
        return 1
    rows, right, total = compare(json.loads(text))
    sizes = [max(map(width, column)) for column in zip(HEADER, *rows, strict=True)]
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    for row in (HEADER, ["-" * size for size in sizes], *rows):
        cells = [cell + " " * (size - width(cell)) for cell, size in zip(row, sizes, strict=True)]
        print(" | ".join(cells).rstrip())
    if total is not None:
        scored = sum(row[-1] != "" for row in rows)
        print(f"\n{right} of {scored} are right; CER {total:.1f} % of all")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
