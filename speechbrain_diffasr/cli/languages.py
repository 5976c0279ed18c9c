"""The command `diffasr languages`."""

import sys
from pathlib import Path

from speechbrain_diffasr.cli.common import (
    UsageError,
    add_command,
    open_model,
    quiet_libraries,
    utf8_stdout,
)

LANGUAGES = """\
Makes the table by which a model finds the language of an utterance.

It holds how often each token occurs in the texts of each language, and lies in the model's
folder as language.safetensors. With it `diffasr transcribe` without --language reports what is
spoken, and how probably. Recipes write it by themselves; this command is for a folder that has
none, or lacks a language that the model knows.

The texts should be those that the model was trained on, or some that are spelled alike; a few
thousand sentences of each language will do."""

LANGUAGES_EXAMPLES = """\
examples:
  diffasr languages results/csv/1986/csv/train.csv --model results/csv/1986/pretrained
      languages that the table lacks are added, the others stay as they are
  diffasr languages en.csv de.csv --model FOLDER --replace
      a table of these texts alone

A model that was fine-tuned on one language needs the table of the model it came from, to which
its own is added: copy language.safetensors from there first.

exit status: 0 the table is written, 2 wrong usage"""


def languages(args):
    """Runs `diffasr languages`.

    Arguments
    ---------
    args : argparse.Namespace
        What the command line holds.

    Returns
    -------
    status : int

    Raises
    ------
    UsageError
        If texts or model cannot be used, or there would be nothing to tell apart.
    """

    with quiet_libraries(args.verbose):
        from speechbrain_diffasr.dataio.tables import read_texts
        from speechbrain_diffasr.decoders.language_id import LANGUAGE_FILE, count_languages
        from speechbrain_diffasr.inference.pretrained import check_source

        folder = Path(args.model)
        try:
            texts = read_texts(args.csv)
            check_source(folder)
        except ValueError as err:
            raise UsageError(str(err)) from None
        except FileNotFoundError as err:
            raise UsageError(f"--model: {err}") from None
        if not folder.is_dir():
            raise UsageError(
                f"--model: {args.model!r} is not a folder that a table could be written to; "
                "download it, or save it with save_pretrained"
            )
        model = open_model(args)
        elsewhere = model.hparams.pretrainer.place("language")
        if elsewhere:
            raise UsageError(
                f"--model: {args.model!r} takes its table from {elsewhere!r}, as sources in its "
                "hyperparams.yaml says; name that folder, or take language out of sources"
            )
        known = ", ".join(model.languages)
        for language in texts:
            if language not in model.languages:
                raise UsageError(f"unknown language {language!r}; the model knows {known}")
        old = None if args.replace else model.language_table
        vocab_size = model.mods.decoder.model.vocab_size
        progress = sys.stderr.isatty()
        table = count_languages(texts, model.tokenizer, vocab_size, old, progress)
        if table is None:
            raise UsageError(
                f"only {', '.join(texts)} has texts, which leaves nothing to tell apart; add "
                "those of other languages, or see the end of diffasr languages --help"
            )
        before = [] if old is None else old.languages
        added = [language for language in table.languages if language not in before]
        if not added:
            raise UsageError(
                f"{folder / LANGUAGE_FILE} has {', '.join(texts)} already; --replace counts anew"
            )
        try:
            table.save(folder / LANGUAGE_FILE)
        except OSError as err:
            raise UsageError(f"--model: cannot write a table: {err.strerror}") from None
    kept = f", beside {', '.join(before)}" if before else ""
    print(f"{folder / LANGUAGE_FILE}: {', '.join(added)}{kept}", file=utf8_stdout("text"))
    return 0


def add_languages(commands):
    """Adds the subcommand.

    Arguments
    ---------
    commands : argparse._SubParsersAction
    """
    parser = add_command(
        commands,
        languages,
        "let a model find the language of an utterance: count tokens in texts",
        LANGUAGES,
        LANGUAGES_EXAMPLES,
    )
    parser.add_argument(
        "csv",
        nargs="+",
        metavar="CSV",
        help="texts: a CSV file with the columns ID, wav, wrd and lang, as recipes write it",
    )
    parser.add_argument(
        "--model", required=True, metavar="FOLDER", help="gets the table; holds hyperparams.yaml"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="count every language anew [default: those that the table has stay]",
    )
    parser.add_argument("--verbose", action="store_true", help="show why a model cannot be loaded")
    parser.set_defaults(device="cpu", language=None)
