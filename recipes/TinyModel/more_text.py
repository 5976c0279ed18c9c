"""Writes more lines to train on than there are sentences: frequent words, and words in new order.

A small set of sentences is soon learned by heart. Here the words of the training sentences are
chained anew, each after one that it follows somewhere, and some are exchanged for words of a list.
No line is a sentence that validation or test holds.

    python more_text.py --text_folder texts --word_folder words --output_folder data/more_texts
"""

import argparse
import random
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "SyntheticSpeech"))

from prepare import LANGUAGES, read_lines, read_texts, sentence_key, split_sentences

# Written without spaces, so that characters are chained instead of words.
UNSPACED = ("zh",)


def chain(sentences, words, joint, number, max_units, exchange, rng):
    """Makes new sentences.

    Arguments
    ---------
    sentences : list of list of str
        Sentences as words or characters.
    words : list of str
        What units are exchanged for.
    joint : str
        What units are joined with.
    number : int
        How many to make.
    max_units : int
        Longest of them.
    exchange : float
        Share of units that are exchanged.
    rng : random.Random

    Returns
    -------
    lines : list of str

    Example
    -------
    >>> chain([["a", "b"]], ["c"], " ", 2, 5, 0.0, random.Random(0))
    ['a b', 'a b']
    """
    followers = defaultdict(list)
    for units in sentences:
        for unit, follower in zip([None, *units], [*units, None], strict=True):
            followers[unit].append(follower)
    lines = []
    while len(lines) < number:
        line, unit = [], rng.choice(followers[None])
        while unit is not None and len(line) < max_units:
            line.append(rng.choice(words) if rng.random() < exchange else unit)
            unit = rng.choice(followers[unit])
        lines.append(joint.join(line))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--text_folder", required=True, help="as for SyntheticSpeech/prepare.py")
    add("--word_folder", required=True, help="LANG.txt with a word a line, most frequent first")
    add("--output_folder", required=True, help="LANG.txt to write")
    add("--words", type=int, default=10000, help="so many of each list (default: %(default)s)")
    add("--chained", type=int, default=12000, help="lines (default: %(default)s)")
    add("--strings", type=int, default=4000, help="of words at random (default: %(default)s)")
    add("--max_units", type=int, default=8, help="in a line (default: %(default)s)")
    add("--exchange", type=float, default=0.15, help="share of words (default: %(default)s)")
    add("--num_valid", type=int, default=40, help="as for prepare.py (default: %(default)s)")
    add("--num_test", type=int, default=200, help="as for prepare.py (default: %(default)s)")
    add("--seed", type=int, default=1986, help="default: %(default)s")
    args = parser.parse_args()

    output = Path(args.output_folder)
    output.mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        sentences, extra, _ = read_texts(args.text_folder, language)
        parts = split_sentences(sentences, {}, language, args.num_valid, args.num_test, args.seed)
        held_out = {sentence_key(line) for line in parts["valid"] + parts["test"]}
        known = set("".join(parts["train"]))
        listed = {**read_lines(Path(args.word_folder) / f"{language}.txt"), **extra}
        # The tokenizer spells what it has not seen in bytes, more than there are frames for.
        words = [word.lower() for word in listed.values() if set(word.lower()) <= known]
        words = words[: args.words]
        rng = random.Random(f"{args.seed} {language}")
        joint = "" if language in UNSPACED else " "
        units = [list(line) if language in UNSPACED else line.split() for line in parts["train"]]
        lines = chain(units, words, joint, args.chained, args.max_units, args.exchange, rng)
        lines += [joint.join(rng.choices(words, k=rng.randint(2, 4))) for _ in range(args.strings)]
        new = {sentence_key(line): line for line in [*words, *lines]}
        new = [line for key, line in new.items() if key not in held_out]
        (output / f"{language}.txt").write_text("\n".join(new) + "\n", encoding="utf-8")
        print(f"{language}: {len(words)} words, {len(new) - len(words)} other lines")


if __name__ == "__main__":
    main()
