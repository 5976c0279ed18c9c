"""Brings transcribed speech and plain text into the form that the stages of training read.

    python collect_data.py --speech train.csv --text_folder texts more_texts --exclude valid.csv \\
        --output_folder data

Texts become lower case without punctuation; apostrophes inside of words stay. Left out are lines
with digits, whose reading is not written, lines with letters that are rare in their language, and
sentences of the files that are excluded.

Written are, in the output folder:
    human/train.csv    utterances of the voices that are trained on
    human/valid.csv    those of some voices more, in languages that have many
    text.csv           lang, wrd: the lines that the denoiser reads
    lines.tsv          id, lang, text, wrd: lines for synthesizers to speak, as they were written
    texts/LANG.txt     the same lines as they are trained on
"""

import argparse
import csv
import random
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from pathlib import Path

from tqdm import tqdm

from speechbrain_diffasr.dataio import read_rows

LANGUAGES = ("en", "de", "fr", "es", "hi", "zh", "it")
SCRIPTS = {"hi": "DEVANAGARI", "zh": "CJK"}  # all others are written in Latin letters
APOSTROPHES = re.compile("[’`´ʼ‘]")
INSIDE = re.compile(r"(?<=\w)'(?=\w)")


def spoken_text(text, language):
    """What is trained on: letters and marks in lower case, apostrophes inside of words.

    Arguments
    ---------
    text : str
    language : str

    Returns
    -------
    text : str or None
        None if something in it is read otherwise than it is written.

    Example
    -------
    >>> spoken_text("Don't stop – “C’est ça”, Straße!", "en")
    "don't stop c'est ça straße"
    >>> spoken_text("Room 12", "en") is None
    True
    >>> spoken_text("这是 怎么回事？", "zh")
    '这是怎么回事'
    """
    text = unicodedata.normalize("NFC", text).lower()
    text = INSIDE.sub("\0", APOSTROPHES.sub("'", text))
    kept = []
    for char in text:
        category = unicodedata.category(char)
        if category[0] == "N" or category == "Sc":
            return None
        if char == "\0":
            kept.append("'")
        elif category[0] in "LM":
            kept.append(char)
        elif category != "Cf":
            kept.append(" ")
    script = SCRIPTS.get(language, "LATIN")
    if any(c.isalpha() and script not in unicodedata.name(c, "") for c in kept):
        return None
    joint = "" if language == "zh" else " "
    return joint.join("".join(kept).split()) or None


def without_rare_letters(lines, language, least):
    """Lines whose letters all occur `least` times in their language."""
    counts = Counter(char for line in lines for char in line)
    return [line for line in lines if all(counts[char] >= least for char in line)]


def is_held_out(voice, share):
    """Whether a voice is kept for validation; which ones follows from their names."""
    return zlib.crc32(f"valid {voice}".encode()) % 1000 < 1000 * share


def write_csv(path, rows):
    """Writes rows, dicts of the same keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--speech", nargs="+", required=True, help="CSV: ID, duration, wav, lang, wrd, spk_id")
    add("--text_folder", nargs="+", required=True, help="LANG.txt with a line each")
    add("--exclude", nargs="*", default=[], help="CSV files whose sentences are not read")
    add("--output_folder", required=True, type=Path, help="to write")
    add("--languages", nargs="+", default=LANGUAGES, help="of the text (default: %(default)s)")
    add("--spoken", nargs="+", default=LANGUAGES[:-1], help="of the speech (default: %(default)s)")
    add("--valid_share", type=float, default=0.05, help="of the voices (default: %(default)s)")
    add("--least_voices", type=int, default=20, help="of a language with validation (%(default)s)")
    add("--least_count", type=int, default=5, help="of a letter in its language (%(default)s)")
    add("--max_seconds", type=float, default=13.5, help="of an utterance (default: %(default)s)")
    add("--max_letters", type=int, default=160, help="of a line; a third in zh (%(default)s)")
    args = parser.parse_args()
    output = args.output_folder

    excluded = {
        (row["lang"], spoken_text(row["wrd"], row["lang"]))
        for path in args.exclude
        for row in read_rows(path)
    }
    voices = defaultdict(set)
    rows = []
    for path in args.speech:
        for row in read_rows(path):
            text = spoken_text(row["wrd"], row["lang"])
            if text is None or (row["lang"], text) in excluded:
                continue
            if row["lang"] in args.spoken and float(row["duration"]) <= args.max_seconds:
                voices[row["lang"]].add(row["spk_id"])
                rows.append({**row, "wrd": text, "wav": str(Path(row["wav"]).resolve())})
    names = ["ID", "duration", "wav", "lang", "wrd", "spk_id"]
    parts = {"train": [], "valid": []}
    for row in rows:
        many = len(voices[row["lang"]]) >= args.least_voices
        split = "valid" if many and is_held_out(row["spk_id"], args.valid_share) else "train"
        parts[split].append({name: row[name] for name in names})
    for split, chosen in parts.items():
        write_csv(output / "human" / f"{split}.csv", chosen)

    texts, lines = [], []
    (output / "texts").mkdir(parents=True, exist_ok=True)
    for language in tqdm(args.languages, desc="Reading texts"):
        written = {}
        for folder in args.text_folder:
            path = Path(folder) / f"{language}.txt"
            for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
                text = spoken_text(line, language)
                most = args.max_letters // (3 if language == "zh" else 1)
                if text and len(text) <= most and (language, text) not in excluded:
                    written.setdefault(text, line)
        kept = without_rare_letters(list(written), language, args.least_count)
        said = [row["wrd"] for row in parts["train"] if row["lang"] == language]
        texts += [{"lang": language, "wrd": text} for text in [*kept, *said]]
        random.Random(language).shuffle(kept)
        (output / "texts" / f"{language}.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
        lines += [
            {"id": f"{language}_{i:06d}", "lang": language, "text": written[text], "wrd": text}
            for i, text in enumerate(kept)
        ]
    write_csv(output / "text.csv", texts)
    with open(output / "lines.tsv", "w", encoding="utf-8") as file:
        for line in lines:
            file.write("\t".join(line.values()) + "\n")
    for split, chosen in parts.items():
        hours = Counter()
        for row in chosen:
            hours[row["lang"]] += float(row["duration"]) / 3600
        print(f"{split}:", ", ".join(f"{lang} {h:.2f} h" for lang, h in sorted(hours.items())))
    counts = Counter(row["lang"] for row in texts)
    print("lines:", ", ".join(f"{lang} {number}" for lang, number in counts.items()))


if __name__ == "__main__":
    main()
