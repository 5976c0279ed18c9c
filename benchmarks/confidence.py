"""Fits and measures the calibration of word confidence on recordings whose texts are known.

    python benchmarks/confidence.py --csv valid.csv --model pretrained/diffasr-base \\
        --languages en de fr es hi zh --decodings "" "ctc_weight=1 readings=0"

Every second recording of a language is for fitting, the others are for measuring, and the other way
round. What it prints for hyperparams.yaml is fitted on all of them. Right is a word that edit
distance pairs with its equal in the reference.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from common import environment, print_table
from scipy.optimize import minimize
from timestamps import (
    LEAST_PROBABILITY,
    area_under_curve,
    calibration,
    fit_temperature,
    match,
)
from tqdm import tqdm

from speechbrain_diffasr import AudioError, DiffusionASR
from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.evaluation.selection import usable_rows
from speechbrain_diffasr.text.spacing import split_text
from speechbrain_diffasr.text.spelling import normalize_text
from speechbrain_diffasr.transcripts.alignment import word_confidence
from speechbrain_diffasr.utils.errors import CsvError

HALVES = "even", "odd"
LEAST_WEIGHT = 0.1  # so that words are told apart at both ends


def choose_rows(rows, languages, count):
    """The first recordings of each language, with their place in it.

    Arguments
    ---------
    rows : list of dict
        With lang.
    languages : list of str
    count : int
        Of each language at most.

    Returns
    -------
    chosen : list of (dict, int)

    Example
    -------
    >>> rows = [{"lang": lang} for lang in ("en", "de", "en", "en")]
    >>> [(row["lang"], place) for row, place in choose_rows(rows, ["en", "de"], 2)]
    [('en', 0), ('en', 1), ('de', 0)]
    """
    return [
        (row, place)
        for lang in languages
        for place, row in enumerate([row for row in rows if row["lang"] == lang][:count])
    ]


def hear(asr, chosen, batch_size, title):
    """Transcribes recordings as files and judges their words.

    Arguments
    ---------
    asr : DiffusionASR
        Its words are not calibrated.
    chosen : list of (dict, int)
        From `choose_rows`.
    batch_size : int
    title : str
        Of the progress bar.

    Returns
    -------
    words : dict of list
        Of each word its `confidence`, whether it is `right`, its `language`, and in which `half`
        of the recordings it is.
    """
    found = []
    results = asr.stream_files(
        [row["wav"] for row, _ in chosen],
        language=[row["lang"] for row, _ in chosen],
        batch_size=batch_size,
        words=True,
    )
    for index, transcript in tqdm(results, total=len(chosen), desc=title, unit="file"):
        if isinstance(transcript, AudioError):
            raise transcript
        row, place = chosen[index]
        text = normalize_text(row["wrd"], row["lang"])
        spelled = [text[start:end] for start, end in split_text(text)]
        right = {other for _, other in match(spelled, [word.text for word in transcript.words])}
        found += [
            (word.confidence, other in right, row["lang"], HALVES[place % 2])
            for other, word in enumerate(transcript.words)
        ]
    names = "confidence", "right", "language", "half"
    return {name: [word[at] for word in found] for at, name in enumerate(names)}


def select(words, name, value):
    """Those words of which `name` is `value`."""
    which = words[name] == value
    return {key: values[which] for key, values in words.items()}


def recalibrate(confidences, temperature=1.0, numbers=None):
    """What `word_confidence` makes of confidences that are not calibrated."""
    logs = np.log(np.clip(confidences, np.finfo(float).tiny, None)).tolist()
    return np.array([word_confidence([value], temperature, numbers) for value in logs])


def fit(words, platt=False):
    """The three numbers of `word_confidence` with the smallest log loss.

    Arguments
    ---------
    words : dict of numpy.ndarray
        From `hear`.
    platt : bool
        Whether both weights are one. Default: False.

    Returns
    -------
    numbers : list of float

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> chances = rng.uniform(0.02, 0.98, 9000)
    >>> odds = (chances / (1 - chances)) ** 2 / 3  # so that their root, times 1.7, is right
    >>> words = {"confidence": odds / (1 + odds), "right": rng.random(9000) < chances}
    >>> [round(number - right, 1) == 0 for number, right in zip(fit(words), (0.5, 0.5, 0.55))]
    [True, True, True]
    """

    def spread(numbers):
        return [numbers[0], *numbers] if platt else list(numbers)

    def loss(numbers):
        chances = recalibrate(words["confidence"], numbers=spread(numbers))
        chances = np.clip(chances, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return -np.mean(np.log(np.where(words["right"], chances, 1 - chances)))

    start = [1.0, 0.0] if platt else [1.0, 1.0, 0.0]
    bounds = [(LEAST_WEIGHT, None)] * (len(start) - 1) + [(None, None)]
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    return [round(float(number), 2) for number in spread(found)]


def measure(words, temperature=1.0, numbers=None):
    """Calibration error of words under a calibration."""
    confidences = recalibrate(words["confidence"], temperature, numbers)
    return calibration(confidences, words["right"])[0]


def compare(words, own):
    """Calibration errors of each half under what the other half gives, and others.

    Arguments
    ---------
    words : dict of numpy.ndarray
        From `hear`.
    own : tuple
        The model's temperature, and its three numbers or None.

    Returns
    -------
    halves : list of dict
        Errors by half.
    languages : dict
        Errors by language, of both halves, each calibrated by the other.
    """
    halves, calibrated = [], []
    for fitted, measured in (HALVES, HALVES[::-1]):
        fitting, others = select(words, "half", fitted), select(words, "half", measured)
        numbers = fit(fitting)
        confidences = recalibrate(others["confidence"], numbers=numbers)
        calibrated.append(others | {"confidence": confidences})
        alone = fit_temperature(fitting["confidence"], fitting["right"])
        halves.append(
            {
                "fitted": fitted,
                "words": len(others["right"]),
                "right": float(others["right"].mean()),
                "auc": area_under_curve(others["confidence"], others["right"]),
                "auc_calibrated": area_under_curve(confidences, others["right"]),
                "uncalibrated": measure(others),
                "model": measure(others, *own),
                "temperature": measure(others, alone),
                "platt": measure(others, numbers=fit(fitting, platt=True)),
                "beta": measure(others, numbers=numbers),
                "beta_where_fitted": measure(fitting, numbers=numbers),
                "numbers": numbers,
            }
        )
    both = {key: np.concatenate([half[key] for half in calibrated]) for key in words}
    languages = {"all": calibration(both["confidence"], both["right"])[0]}
    for lang in dict.fromkeys(words["language"].tolist()):
        some = select(both, "language", lang)
        languages[lang] = calibration(some["confidence"], some["right"])[0]
    return halves, languages


def printable(cell):
    """A figure for `print_table`; nothing where there is none."""
    if cell is None:
        return ""
    return str(cell) if isinstance(cell, list) else cell


def parse_decoding(text):
    """Settings for `DiffusionSearcher.configure`.

    Example
    -------
    >>> parse_decoding("ctc_weight=1 start=ctc")
    {'ctc_weight': 1, 'start': 'ctc'}
    """
    settings = {}
    for name, _, value in (pair.partition("=") for pair in text.split()):
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def parse(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", required=True, help="recordings with texts and languages")
    parser.add_argument("--model", required=True, help="a pretrained folder")
    parser.add_argument("--languages", nargs="+", help="default: those of the model")
    parser.add_argument("--utterances", type=int, default=50, help="of each language (%(default)s)")
    parser.add_argument(
        "--decodings",
        nargs="+",
        default=[""],
        metavar="SETTINGS",
        help='such as "ctc_weight=1 readings=0"; "" is the model\'s own (%(default)s)',
    )
    parser.add_argument(
        "--words", help="JSON file for the words that were heard; what is there is not heard again"
    )
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="JSON file for the figures")
    return parser, parser.parse_args(argv)


def main(argv=None):
    parser, args = parse(argv)
    asr = DiffusionASR.from_hparams(args.model, run_opts={"device": args.device})
    decoder, aligner = asr.mods.decoder, asr.aligner
    temperature, own = aligner.temperature, aligner.calibration
    aligner.temperature, aligner.calibration = 1.0, {}
    usual = decoder.settings()
    kept = Path(args.words) if args.words else None
    known = json.loads(kept.read_text(encoding="utf-8")) if kept and kept.is_file() else {}
    figures, pooled = [], {}
    try:
        rows, _ = usable_rows(read_rows(args.csv), list(asr.languages))
        languages = args.languages or list(asr.languages)
        chosen = choose_rows(rows, languages, args.utterances)
        if len(chosen) < 2:
            parser.error("no two recordings are left, of these languages")
        for name in args.decodings:
            decoder.configure(**usual | parse_decoding(name))
            if name not in known:
                known[name] = hear(asr, chosen, args.batch_size, name or "own decoding")
                if kept:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
            words = {key: np.array(values) for key, values in known[name].items()}
            halves, by_language = compare(words, (temperature, own.get(aligner.source)))
            figures.append(
                {
                    "decoding": name or "own",
                    "source": aligner.source,
                    "halves": halves,
                    "languages": by_language,
                }
            )
            pooled.setdefault(aligner.source, []).append(words)
    except (AudioError, CsvError, OSError, TypeError, ValueError) as error:
        parser.error(str(error))

    fitted = {
        source: fit({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
        for source, parts in pooled.items()
    }
    rows = [{"decoding": one["decoding"]} | half for one in figures for half in one["halves"]]
    print_table([{key: printable(cell) for key, cell in row.items()} for row in rows])
    print()
    print_table([{"decoding": one["decoding"]} | one["languages"] for one in figures])
    print("\nword_calibration:")
    for source, numbers in fitted.items():
        print(f"    {source}: {numbers}")
    result = {
        "model": Path(args.model).name,
        "recordings": len(chosen),
        **environment(args.device),
        "decodings": figures,
        "word_calibration": fitted,
    }
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
