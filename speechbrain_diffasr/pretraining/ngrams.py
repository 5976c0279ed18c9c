"""Counts the n-grams that a recognizer expects words by: seconds for millions of them."""

import argparse
from collections import defaultdict

from tqdm import tqdm

from speechbrain_diffasr.dataio.tables import open_table
from speechbrain_diffasr.decoders.ngram import TokenNGram
from speechbrain_diffasr.lobes.tokenizer import Tokenizer

LEAST = [1, 1, 2, 3]


def count_ngrams(path, tokenizer, ngram, least):
    """Counts the n-grams of a CSV file of lines, for each of its languages.

    Arguments
    ---------
    path : str or Path
        With the columns lang and wrd, as collect_data.py writes it.
    tokenizer : Tokenizer
        Of the recognizer.
    ngram : TokenNGram
        Is filled.
    least : list of int
        Of each order from the lowest, how often an n-gram must occur to be kept.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> path = getfixture("tmp_path") / "text.csv"
    >>> _ = path.write_text("lang,wrd\\nen,hello there\\nde,guten tag\\n")
    >>> ngram = TokenNGram(order=2)
    >>> tokenizer = DiffusionASR.from_hparams(shipped_model("diffasr-tiny")).tokenizer
    >>> count_ngrams(path, tokenizer, ngram, [1, 1])
    >>> ngram.languages, ngram.guess_language(tokenizer.encode("tag"))
    (['en', 'de'], 'de')
    """
    texts = defaultdict(list)
    with open_table(path) as rows:
        for row in rows:
            texts[row["lang"]].append(row["wrd"])
    lines = {
        language: tokenizer.backend(rows, add_special_tokens=False)["input_ids"]
        for language, rows in tqdm(texts.items(), desc="Counting", disable=len(texts) < 3)
    }
    ngram.count(lines, len(tokenizer), tokenizer.eos_id, least)


def main():
    """Writes ngram.safetensors of a CSV file of lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--csv", required=True, help="CSV with the columns lang and wrd")
    add("--tokenizer", required=True, help="tokenizer.json of the recognizer")
    add("--output", required=True, help="ngram.safetensors to write")
    add("--order", type=int, default=4, help="as in the model's YAML (default: %(default)s)")
    add(
        "--least",
        type=int,
        nargs="+",
        default=LEAST,
        metavar="N",
        help="of each order, how often an n-gram must occur to be kept (default: %(default)s)",
    )
    args = parser.parse_args()
    if len(args.least) != args.order:
        parser.error(f"--least: {len(args.least)} numbers for {args.order} orders")
    tokenizer = Tokenizer()
    tokenizer.load(args.tokenizer)
    ngram = TokenNGram(args.order)
    count_ngrams(args.csv, tokenizer, ngram, args.least)
    ngram.save(args.output)
    numbers = ", ".join(f"{len(level[0]):,}" for level in ngram.levels)
    print(f"{args.output}: {numbers} n-grams of orders 1 to {args.order}")
