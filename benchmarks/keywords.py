"""Measures what words to expect do: how many are found, and how many are heard but not said.

    python benchmarks/keywords.py --csv valid.csv --model pretrained/diffasr-base --words 100

Listed are words of five letters or more that occur once in the references of a language. Recall is
the share of them that are in the text of their own utterance. For false alarms each utterance is
transcribed with words of the other half of its language's utterances that its own half has not:
whatever of them is in its text is one.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

from common import environment, print_table
from tqdm import tqdm

from speechbrain_diffasr import AudioError, DiffusionASR, shipped_model
from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.decoders.keywords import Keywords
from speechbrain_diffasr.evaluation.selection import usable_rows
from speechbrain_diffasr.inference import check_device
from speechbrain_diffasr.text import normalize_text
from speechbrain_diffasr.text.normalizers import is_scored_by_characters

LEAST_LETTERS = 5


def choose_words(references, count, seed=0, spoken=(), can_spell=lambda word: True):
    """Words that occur once, to be listed.

    Arguments
    ---------
    references : list of list of str
        Words of each utterance.
    count : int
        Words at most.
    seed : int
        Of the choice among more. Default: 0.
    spoken : list of list of str
        Other utterances, whose words are not wanted. Default: none.
    can_spell : callable, optional
        Whether a model can write a word. Default: every word.

    Returns
    -------
    words : list of str
        Sorted.

    Example
    -------
    >>> choose_words([["the", "sheriff", "said"], ["again", "and", "again", "loudly"]], 5)
    ['loudly', 'sheriff']
    """
    counts = Counter(word for words in references for word in words)
    others = {word for words in spoken for word in words}
    rare = [
        word
        for word in sorted(counts)
        if counts[word] == 1
        and len(word) >= LEAST_LETTERS
        and word.isalpha()
        and word not in others
        and can_spell(word)
    ]
    return sorted(random.Random(seed).sample(rare, min(count, len(rare))))


def count_words(listed, references, texts):
    """How often listed words are said and found, and how often they are heard but not said.

    Arguments
    ---------
    listed : list of str
    references, texts : list of list of str
        Words of each utterance.

    Returns
    -------
    said, found, false_alarms : int
        A word that is said twice in an utterance is said twice, and a false alarm is a word that is
        heard more often than it is said.

    Example
    -------
    >>> count_words(["anna", "bob"], [["hi", "anna"], ["hi"]], [["hi", "anna"], ["bob", "bob"]])
    (1, 1, 2)
    """
    wanted = set(listed)
    said, found, false_alarms = 0, 0, 0
    for reference, text in zip(references, texts, strict=True):
        expected, heard = (
            Counter(word for word in words if word in wanted) for words in (reference, text)
        )
        said += expected.total()
        found += (expected & heard).total()
        false_alarms += (heard - expected).total()
    return said, found, false_alarms


def measure(asr, rows, language, count, seed, batch_size):
    """Counts for the utterances of a language, with and without keywords.

    Arguments
    ---------
    asr : DiffusionASR
    rows : list of dict
        Utterances.
    language : str
    count : int
        Words that are listed.
    seed : int
        Of their choice.
    batch_size : int

    Returns
    -------
    row : dict
        `recall` and `recall_without` are shares of `said`, the words of the list that are said;
        `false_alarms` and `false_alarms_without` numbers in all `utterances`.
    """

    def can_spell(word):
        try:
            Keywords.from_words([word], asr.tokenizer, len(asr.tokenizer), language=language)
        except ValueError:
            return False
        return True

    def transcribe(rows, **keywords):
        texts = asr.transcribe_files(
            [row["wav"] for row in rows], language=language, batch_size=batch_size, **keywords
        )
        return [normalize_text(text, language).split() for text in texts]

    references = [normalize_text(row["wrd"], language).split() for row in rows]
    listed = choose_words(references, count, seed, can_spell=can_spell)
    without = transcribe(rows)
    said, found_without, _ = count_words(listed, references, without)
    _, found, _ = count_words(listed, references, transcribe(rows, keywords=listed))
    alarms, alarms_without = 0, 0
    for half in (0, 1):
        own, others = references[half::2], references[1 - half :: 2]
        unsaid = choose_words(others, count, seed, own, can_spell)
        if not own or not unsaid:
            continue
        alarms += count_words(unsaid, own, transcribe(rows[half::2], keywords=unsaid))[2]
        alarms_without += count_words(unsaid, own, without[half::2])[2]
    return {
        "language": language,
        "utterances": len(rows),
        "listed": len(listed),
        "said": said,
        "recall_without": found_without / max(1, said),
        "recall": found / max(1, said),
        "false_alarms_without": alarms_without,
        "false_alarms": alarms,
    }


def parse(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default=shipped_model("diffasr-base"), help="a pretrained folder"
    )
    parser.add_argument("--csv", required=True, help="recordings with texts")
    parser.add_argument(
        "--languages", nargs="+", help="default: those of the model that are written with spaces"
    )
    parser.add_argument(
        "--words", type=int, default=100, help="of each language at most (%(default)s)"
    )
    parser.add_argument(
        "--overrides", default="", help="of the model's YAML, such as 'keyword_bonus: 3.0'"
    )
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the words (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="JSON file for the figures")
    args = parser.parse_args(argv)
    for name in ("words", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: {getattr(args, name)} is not 1 or more")
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    try:
        check_device(args.device)
        asr = DiffusionASR.from_hparams(
            args.model, overrides=args.overrides, run_opts={"device": args.device}
        )
        rows, _ = usable_rows(read_rows(args.csv), args.languages or asr.languages)
        languages = [
            code
            for code in dict.fromkeys(row.get("lang") for row in rows)
            if code and (args.languages or not is_scored_by_characters(code))
        ]
        if not languages:
            parser.error(f"{args.csv}: no utterance has a language of {list(asr.languages)}")
        results = [
            measure(
                asr,
                [row for row in rows if row.get("lang") == language],
                language,
                args.words,
                args.seed,
                args.batch_size,
            )
            for language in tqdm(languages, unit="language")
        ]
    except (AudioError, OSError, ValueError) as error:
        parser.error(str(error))
    print_table(results)
    report = {"settings": vars(args), **environment(args.device), "results": results}
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
