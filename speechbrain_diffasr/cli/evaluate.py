"""The command `diffasr evaluate`."""

import argparse
import functools
import sys
from pathlib import Path

from speechbrain_diffasr.cli.common import (
    UsageError,
    add_command,
    add_decoding_options,
    add_model_options,
    check_output,
    configure_decoding,
    open_model,
    quiet_libraries,
    utf8_stdout,
)
from speechbrain_diffasr.dataio.tables import read_rows
from speechbrain_diffasr.text.normalizers import NORMALIZERS
from speechbrain_diffasr.utils.errors import CsvError

EVALUATE = """\
Scores a model on CSV files with the columns ID, wav, wrd and lang, as the recipes write them.

Prints a table: WER and CER per language in percent for each number of denoising steps and each
normalizer, and RTFx: seconds of audio per second of computing, without the reading of files.
Languages written without spaces are judged by CER, the others by WER; CER leaves spaces out.
In which interval that rate lies with 95 % confidence is said for the first normalizer: few
utterances leave much to chance (bootstrap over utterances).
RTFx and taken are of the whole file: taken are the denoising steps that an utterance took on
average, since one that is sure stops early. --language is that of utterances whose lang is empty.

normalizers, applied to both texts before they are compared:
  whisper  of Whisper, as transformers has it. English is treated as in the literature: numbers,
           contractions and spellings count as their equals. That of the other languages turns
           combining marks into spaces, which tears Hindi words apart and makes their WER another
           measure than the name says
  marks    lower case, no punctuation, and combining marks stay
  none     text as it stands

Utterances that cannot be scored (no file, too long for the model, no reference, an ID that was
there already) are skipped, and named at the end."""

EVALUATE_EXAMPLES = """\
examples:
  diffasr evaluate --csv data/speech/test.csv data/digits/test.csv
  diffasr evaluate --csv test.csv --steps 8,16,32,48 --output steps.json --picture steps.png
      errors and speed over denoising steps, as a table, a JSON of everything, and a picture
  diffasr evaluate --csv test.csv --normalizers marks --alignments alignments
      what went wrong where: SpeechBrain's alignments of each utterance, a file for each language
  diffasr evaluate --csv test.csv --open-language
      the prompt names no language
  diffasr evaluate --csv test.csv --mismatched-audio
      does the model listen? Each text is decoded from the audio of another utterance; a model
      that listens makes nearly 100 % errors or more, one that recites makes fewer

exit status: 0 all utterances scored, 1 some were skipped, 2 wrong usage, 130 interrupted"""

PICTURES = (".png", ".svg", ".pdf")


def evaluate(args):
    """Runs `diffasr evaluate`.

    Arguments
    ---------
    args : argparse.Namespace
        What the command line holds.

    Returns
    -------
    status : int
        0 if all utterances were scored, else 1.

    Raises
    ------
    UsageError
        If a CSV file or the model cannot be loaded, or the output cannot be written.
    """

    _check_outputs(args)
    try:
        data = {path: read_rows(path, args.data_root) for path in args.csv}
    except CsvError as err:
        raise UsageError(f"--csv: {err}") from err
    with quiet_libraries(args.verbose):
        from speechbrain_diffasr.evaluation.evaluate import evaluate_csvs
        from speechbrain_diffasr.evaluation.report import skipped_lines
        from speechbrain_diffasr.inference.pretrained import default_model
        from speechbrain_diffasr.text.normalizers import make_normalizer

        try:
            make_normalizer("whisper", args.english_spelling)
        except ValueError as err:
            raise UsageError(f"--english-spelling: {err}") from err
        options = {
            name: getattr(args, name)
            for name in (
                *("steps", "normalizers", "batch_size", "seed", "language"),
                *("open_language", "mismatched_audio", "limit", "english_spelling"),
                *("output", "alignments", "picture", "n_best"),
            )
        }
        model = open_model(args)
        options["keywords"] = configure_decoding(model, args)
        try:
            report = evaluate_csvs(
                model,
                data,
                **options,
                model_name=args.model or default_model(),
                echo=functools.partial(print, file=utf8_stdout("text"), flush=True),
            )
        except BrokenPipeError:
            raise
        except OSError as err:
            raise UsageError(f"cannot write: {err}") from err
    for line in skipped_lines(report):
        print(f"diffasr: {line}", file=sys.stderr)
    return int(any(result["skipped"] for result in report["results"]))


def add_evaluate(commands):
    """Adds the subcommand.

    Arguments
    ---------
    commands : argparse._SubParsersAction
    """
    parser = add_command(
        commands,
        evaluate,
        "score a model on CSV files",
        EVALUATE,
        EVALUATE_EXAMPLES,
    )
    parser.add_argument("--csv", nargs="+", required=True, metavar="FILE", help="what to score on")
    parser.add_argument(
        "--data-root",
        metavar="FOLDER",
        help="what $data_root stands for in the CSV files [default: the folder of each]",
    )
    parser.add_argument(
        "--limit", type=_count, metavar="N", help="utterances of each language [default: all]"
    )
    parser.add_argument(
        "--normalizers",
        type=_normalizers,
        default=list(NORMALIZERS),
        metavar="NAMES",
        help=f"one or more of {','.join(NORMALIZERS)}; the picture shows the first [default: all]",
    )
    parser.add_argument(
        "--english-spelling",
        metavar="FILE",
        help="another table of spellings for the normalizer whisper, such as normalizer.json of an "
        "openai/whisper model [default: that of the package whisper-normalizer]",
    )
    parser.add_argument(
        "--open-language", action="store_true", help="name no language in the prompt"
    )
    parser.add_argument(
        "--mismatched-audio",
        action="store_true",
        help="decode each text from the audio of another utterance of its language, chosen by "
        "--seed: what is then still right did not come from the audio",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write a JSON of everything here, hypotheses included"
    )
    parser.add_argument(
        "--alignments",
        metavar="FOLDER",
        help="write SpeechBrain's alignments here, a file for each CSV file, number of steps, "
        "normalizer and language",
    )
    parser.add_argument(
        "--picture",
        metavar="FILE",
        help="draw error rates and RTFx over several --steps; .png, .svg or .pdf",
    )
    parser.add_argument(
        "--n-best",
        type=_count,
        metavar="N",
        help="how low the rate would be if the best of as many candidates were known, one more "
        "line below each table; their texts and scores go into --output",
    )
    add_decoding_options(parser)
    add_model_options(parser, _steps)


def _check_outputs(args):
    """Finds before the work what would make it useless after."""

    for option, path in (("--output", args.output), ("--picture", args.picture)):
        check_output(path, args.csv, option, "CSV files")
    if args.picture is not None:
        if len(args.steps or ()) < 2:
            raise UsageError("--picture: draws over several --steps, such as --steps 8,16,32")
        if Path(args.picture).suffix.lower() not in PICTURES:
            raise UsageError(f"--picture: {args.picture!r} must end in {', '.join(PICTURES)}")
    if args.alignments is not None:
        try:
            Path(args.alignments).mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise UsageError(
                f"--alignments: cannot make the folder {args.alignments!r}: {err.strerror}"
            ) from None


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _steps(text):
    """Numbers of denoising steps, as `8,16`."""
    try:
        return list(dict.fromkeys(_count(part.strip()) for part in text.split(",")))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not whole numbers of 1 or more, such as 8 or 4,8,16"
        ) from None


def _normalizers(text):
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in NORMALIZERS:
            raise argparse.ArgumentTypeError(
                f"unknown normalizer {name!r}; choose from {', '.join(NORMALIZERS)}"
            )
    return names
