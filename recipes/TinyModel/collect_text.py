"""Writes the lines that training may read: those of SyntheticSpeech's training split, and digits.

The tokenizer and the denoiser need text only, so they need not wait for speech. The strings of
digits are also written as a text folder, for SyntheticSpeech to speak.

    python collect_text.py --text_folder texts --output data/text.csv \\
        --digit_folder data/digit_texts
"""

import argparse
import csv
import inspect
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "SyntheticSpeech"))

from prepare import LANGUAGES, prepare_synthetic_speech, read_lines, read_texts, split_sentences

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def main():
    defaults = inspect.signature(prepare_synthetic_speech).parameters
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text_folder", required=True, help="as for SyntheticSpeech/prepare.py")
    parser.add_argument("--output", required=True, help="CSV to write, with the columns lang, wrd")
    parser.add_argument("--more_folder", help="of more_text.py; the sentences then count twice")
    parser.add_argument("--digit_strings", type=int, default=5000, help="default: %(default)s")
    parser.add_argument("--digit_folder", required=True, help="folder to write, with en.txt")
    for name in ("num_valid", "num_test", "seed"):
        parser.add_argument(f"--{name}", type=int, default=defaults[name].default)
    args = parser.parse_args()

    rows = []
    for language in LANGUAGES:
        sentences, words, _ = read_texts(args.text_folder, language)
        parts = split_sentences(
            sentences, words, language, args.num_valid, args.num_test, args.seed
        )
        lines = parts["train"]
        if args.more_folder:
            # As in speech, where both corpora are drawn equally often.
            lines = [
                *lines,
                *lines,
                *read_lines(Path(args.more_folder) / f"{language}.txt").values(),
            ]
        rows += [(language, line) for line in lines]
    rng = random.Random(args.seed)
    strings = [
        " ".join(rng.choices(DIGITS, k=rng.randint(1, 7))) for _ in range(args.digit_strings)
    ]
    digit_folder = Path(args.digit_folder)
    digit_folder.mkdir(parents=True, exist_ok=True)
    (digit_folder / "en.txt").write_text("\n".join(strings) + "\n", encoding="utf-8")
    parts = split_sentences(
        {string: string for string in strings}, {}, "en", args.num_valid, args.num_test, args.seed
    )
    rows += [("digits", line) for line in parts["train"]]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    with open(args.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lang", "wrd"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
