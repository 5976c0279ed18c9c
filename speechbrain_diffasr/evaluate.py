"""Scores a recognizer on CSV files: `diffasr evaluate`."""

import argparse
import csv
import json
import time
from pathlib import Path

from tqdm import tqdm

EVALUATE = """\
Scores a model on CSV files with the columns ID, wav, wrd and lang, as the recipes write them.

Prints WER and CER per language in percent for each number of denoising steps, and RTFx: seconds
of audio per second of computing. Text is compared as it stands, words split at spaces; CER
leaves spaces out. Languages written without spaces are judged by CER, the others by WER."""

EVALUATE_EXAMPLES = """\
examples:
  diffasr evaluate --csv data/speech/test.csv data/digits/test.csv
  diffasr evaluate --csv data/speech/test.csv --steps 1,2,4,8,16 --output steps.json
  diffasr evaluate --csv data/speech/test.csv --open-language
      the prompt names no language"""


def read_rows(path, data_root=None):
    """Reads a CSV file of utterances.

    Arguments
    ---------
    path : str or Path
        With the columns ID, wav and wrd, and lang if there are several languages.
    data_root : str, optional
        What `$data_root` stands for in the column wav. Default: the folder of the file.

    Returns
    -------
    rows : list of dict

    Raises
    ------
    ValueError
        If the file is missing, or a column is.

    Example
    -------
    >>> path = getfixture("tmp_path") / "test.csv"
    >>> _ = path.write_text("ID,wav,wrd\\na,$data_root/a.wav,hello\\n")
    >>> Path(read_rows(path)[0]["wav"]).parent == path.parent
    True
    """
    root = str(data_root or Path(path).parent)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except OSError as err:
        raise ValueError(f"{path}: {err.strerror}") from err
    missing = {"ID", "wav", "wrd"} - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"{path}: no column {sorted(missing)[0]}; expected ID, wav, wrd and lang")
    for row in rows:
        row["wav"] = row["wav"].replace("$data_root", root)
    return rows


def evaluate_rows(
    model, rows, group=None, steps=None, open_language=False, batch_size=8, seed=None
):
    """Transcribes and scores utterances.

    Arguments
    ---------
    model : DiffusionASR
    rows : list of dict
        From `read_rows`.
    group : str, optional
        Names the rates. Default: the language of each utterance.
    steps : int, optional
        Denoising steps at most. Default: the model's own.
    open_language : bool
        Whether the prompt names no language. Default: False.
    batch_size : int
        Utterances that are decoded together. Default: 8.
    seed : int, optional
        Of the canvas noise. Default: the model's own.

    Returns
    -------
    result : dict
        steps, rates (by group, as `ErrorRates.summarize` gives them), seconds of audio and of
        computing, rtfx, mean steps taken, hypotheses by ID.
    """
    from speechbrain_diffasr.metrics import ErrorRates

    rates, hypotheses = ErrorRates(), {}
    audio = computing = taken = 0.0
    with tqdm(total=len(rows), unit="utt", desc=f"steps {steps}", disable=None) as bar:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            languages = [row.get("lang") or None for row in batch]
            wavs = [model.load_audio(row["wav"]) for row in batch]
            begin = time.perf_counter()
            transcripts = model.transcribe(
                wavs, None if open_language else languages, steps=steps, seed=seed
            )
            computing += time.perf_counter() - begin
            audio += sum(t.duration for t in transcripts)
            taken += sum(t.steps for t in transcripts)
            names = [row["ID"] for row in batch]
            texts = [t.text for t in transcripts]
            groups = [group or language or "all" for language in languages]
            rates.append(names, texts, [row["wrd"] for row in batch], groups)
            hypotheses.update(zip(names, texts, strict=True))
            bar.update(len(batch))
    return {
        "steps": steps if steps is not None else model.mods.decoder.sampler.steps,
        "rates": rates.summarize(),
        "audio_seconds": audio,
        "computing_seconds": computing,
        "rtfx": audio / computing,
        "mean_steps_taken": taken / len(rows),
        "hypotheses": hypotheses,
    }


def evaluate(args):
    """Runs `diffasr evaluate`.

    Arguments
    ---------
    args : argparse.Namespace
        What the command line holds.

    Returns
    -------
    status : int
        0.
    """
    from speechbrain_diffasr import cli

    try:
        data = {path: read_rows(path, args.data_root) for path in args.csv}
    except ValueError as err:
        raise cli.UsageError(f"--csv: {err}") from err
    with cli.quiet_libraries(args.verbose):
        from speechbrain_diffasr.audio import AudioError
        from speechbrain_diffasr.metrics import is_scored_by_characters

        model = cli.open_model(args)
        results = []
        print("| data | language | steps | WER | CER | judged by | utterances | RTFx |")
        print("|---|---|---|---|---|---|---|---|")
        for path, rows in data.items():
            if args.limit:
                rows = _thin(rows, args.limit)
            for steps in args.steps or [None]:
                try:
                    result = evaluate_rows(
                        model, rows, None, steps, args.open_language, args.batch_size, args.seed
                    )
                except (AudioError, ValueError) as err:
                    raise cli.UsageError(str(err)) from err
                results.append({"data": str(path), **result})
                name = "/".join(Path(path).parts[-2:])
                for language, rate in sorted(result["rates"].items()):
                    judged = "CER" if is_scored_by_characters(language) else "WER"
                    print(
                        f"| {name} | {language} | {result['steps']} | {rate['wer']:.1f} | "
                        f"{rate['cer']:.1f} | {judged} | {rate['utterances']} | "
                        f"{result['rtfx']:.1f} |",
                        flush=True,
                    )
    if args.output:
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        cli.write_file(args.output, text, "json")
    return 0


def _thin(rows, limit):
    """The first `limit` utterances of each language."""
    kept, counts = [], {}
    for row in rows:
        language = row.get("lang")
        counts[language] = counts.get(language, 0) + 1
        if counts[language] <= limit:
            kept.append(row)
    return kept


def _steps(text):
    """Numbers of denoising steps, as `8,16`."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers, such as 8 or 4,8,16")
    return [int(part) for part in parts]


def add_evaluate(commands, add_model_options):
    """Adds the subcommand.

    Arguments
    ---------
    commands : argparse._SubParsersAction
    add_model_options : callable
        Takes the parser and a type for --steps.
    """
    parser = commands.add_parser(
        "evaluate",
        help="score a model on CSV files",
        description=EVALUATE,
        epilog=EVALUATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--csv", nargs="+", required=True, metavar="FILE", help="what to score on")
    parser.add_argument(
        "--data-root",
        metavar="FOLDER",
        help="what $data_root stands for in the CSV files [default: the folder of each]",
    )
    parser.add_argument(
        "--open-language", action="store_true", help="name no language in the prompt"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="utterances of each language [default: all]"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write a JSON of everything here, hypotheses included"
    )
    add_model_options(parser, _steps)
    parser.set_defaults(run=evaluate)
