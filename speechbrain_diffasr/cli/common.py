"""What the commands share: the model's options, output and errors."""

import argparse
import contextlib
import logging
import os
import sys
import warnings

from speechbrain_diffasr.utils.atomic import write_atomically


class UsageError(Exception):
    """The command cannot start as it was called; the message is one line."""


def add_command(commands, run, summary, description, examples):
    """Adds a subcommand, whose help keeps its lines.

    Arguments
    ---------
    commands : argparse._SubParsersAction
    run : callable
        Takes the parsed arguments and gives the exit status; its name is the command's.
    summary : str
        For the list of commands.
    description : str
        What its own help begins with.
    examples : str
        What that ends with.

    Returns
    -------
    parser : argparse.ArgumentParser

    Example
    -------
    >>> commands = argparse.ArgumentParser().add_subparsers()
    >>> def wait(args):
    ...     return 0
    >>> parser = add_command(commands, wait, "do nothing", "Waits.", "example:\\n  diffasr wait")
    >>> print(parser.format_help().rstrip().splitlines()[-1])
      diffasr wait
    """
    parser = commands.add_parser(
        run.__name__,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_model_options(parser, steps_type=None):
    """Adds the options of every command that runs a model.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Gets --model, --language, --steps, --batch-size, --device, --seed and --verbose.
    steps_type : callable, optional
        Reads a value of --steps that can be several. Default: a whole number of 1 or more.

    Example
    -------
    >>> parser = argparse.ArgumentParser()
    >>> add_model_options(parser)
    >>> parser.parse_args([]).batch_size
    8
    """
    options = parser.add_argument_group("model")
    options.add_argument(
        "--model",
        metavar="SOURCE",
        help="a folder with hyperparams.yaml, or a name on the Hugging Face Hub "
        "[default: the tiny demonstration model that comes with the package]",
    )
    options.add_argument(
        "--language",
        metavar="CODE",
        help="the language that is spoken, such as en [default: the prompt names none; if the "
        "model's folder has language.safetensors, the language is found from the audio and "
        "reported; diffasr languages makes it]",
    )
    options.add_argument(
        "--steps",
        type=steps_type or positive,
        metavar="N,N" if steps_type else "N",
        help="denoising steps at most for an utterance, 1 or more; time grows with them"
        + ("; of several, each is tried " if steps_type else " ")
        + "[default: the model's own]",
    )
    options.add_argument(
        "--batch-size",
        type=positive,
        default=8,
        metavar="N",
        help="files that are decoded together; the transcripts do not depend on it, memory does "
        "[default: %(default)s]",
    )
    options.add_argument(
        "--device", metavar="NAME", help="cpu, cuda or cuda:N [default: cuda if there is one]"
    )
    options.add_argument(
        "--seed",
        type=_seed,
        metavar="N",
        help="of the noise that a transcript starts from, 0 or more; the same seed gives the "
        "same transcript [default: the model's own]",
    )
    options.add_argument(
        "--verbose",
        action="store_true",
        help="let the libraries log and warn on stderr, and show why a model cannot be loaded",
    )


def add_decoding_options(parser, start="--start"):
    """Adds the options that say how canvases start, what is joined, and what is chosen among.

    Arguments
    ---------
    parser : argparse.ArgumentParser
    start : str
        Option that says what canvases start from, where --start is a time. Default: --start.

    Example
    -------
    >>> parser = argparse.ArgumentParser()
    >>> add_decoding_options(parser)
    >>> parser.parse_args(["--start", "ctc"]).start
    'ctc'
    """
    options = parser.add_argument_group("decoding", "docs/decoding.md says when which pays")
    own = "[default: the model's own]"
    options.add_argument(
        start,
        dest="start",
        choices=("noise", "ctc", "draft"),
        metavar="FROM",
        help="what canvases start from: noise, as in the paper; ctc, what CTC reads in the audio; "
        f"draft, the text that is given for each {own}",
    )
    options.add_argument(
        "--ctc-weight",
        type=_weight,
        metavar="W",
        help="at every step the denoiser's probabilities are multiplied with CTC's to this power; "
        f"0: the denoiser alone {own}",
    )
    options.add_argument(
        "--noise",
        choices=("seed", "audio"),
        metavar="FROM",
        help="what the noise of a canvas follows from: seed, one for all; audio, what is heard in "
        f"it, and the seed {own}",
    )
    options.add_argument(
        "--candidates",
        type=positive,
        metavar="N",
        help=f"canvases of each utterance, from noise of their own {own}",
    )
    options.add_argument(
        "--choose",
        choices=("likelihood", "consensus"),
        metavar="BY",
        help="what is taken of several: the likeliest by CTC and language model, or that with the "
        f"fewest word errors if any of them is right {own}",
    )
    options.add_argument(
        "--readings",
        type=_count,
        metavar="N",
        help=f"readings of CTC's beam that are candidates, too; 0: none {own}",
    )
    options.add_argument(
        "--keywords",
        metavar="FILE",
        help="words to expect, such as names, one a line: they are heard sooner",
    )


def configure_decoding(model, args):
    """Makes a model decode as the options of `add_decoding_options` say.

    Arguments
    ---------
    model : DiffusionASR
    args : argparse.Namespace

    Returns
    -------
    keywords : list of str
        Those of --keywords; None if it was not given.

    Raises
    ------
    UsageError
        If options do not go together, or the keywords cannot be read.
    """
    from speechbrain_diffasr.decoders.keywords import read_keywords

    names = "start", "ctc_weight", "noise", "candidates", "choose", "readings"
    settings = {name: getattr(args, name) for name in names}
    if settings["choose"] == "consensus" and settings["readings"] is None:
        settings["readings"] = 0
    try:
        if any(value is not None for value in settings.values()):
            model.mods.decoder.configure(**settings)
    except ValueError as err:
        raise UsageError(f"--{err}") from None
    if args.keywords is None:
        return None
    try:
        keywords = read_keywords(args.keywords)
        model.keywords(keywords)  # seen to be usable before the work begins
    except ValueError as err:
        raise UsageError(f"--keywords: {str(err).removeprefix('keywords: ')}") from None
    return keywords


def open_model(args):
    """Loads the model that the options of `add_model_options` name.

    Arguments
    ---------
    args : argparse.Namespace
        With `model`, `device`, `language` and `verbose`.

    Returns
    -------
    model : DiffusionASR

    Raises
    ------
    UsageError
        If there is no such device or model, or the model does not know the language.
    """
    from speechbrain_diffasr.inference.pretrained import check_source

    device = _device(args.device)
    try:
        if args.model is not None:
            check_source(args.model)
    except FileNotFoundError as err:
        raise UsageError(f"--model: {err}") from None
    try:
        model = load_model(args.model, device, args.verbose)
    # A broken folder can fail anywhere in YAML, constructors or weights.
    except Exception as err:
        if args.verbose:
            raise
        # hyperpyyaml wraps whatever ends an import, Ctrl-C too.
        if isinstance(err.__cause__ or err.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        lines = str(err).strip().splitlines() or [type(err).__name__]
        name = "the default model" if args.model is None else repr(args.model)
        raise UsageError(f"--model: cannot load {name}: {lines[0]} (--verbose shows more)") from err
    if args.language is not None and args.language not in model.languages:
        known = ", ".join(model.languages)
        raise UsageError(f"--language: unknown language {args.language!r}; the model knows {known}")
    return model


def load_model(source, device, verbose=False):
    """Loads a recognizer.

    Arguments
    ---------
    source : str or None
        A folder or a name on the Hub; None is the model that ships with the source code.
    device : str
        Where it runs.
    verbose : bool
        Whether transformers may show progress bars. Default: False.

    Returns
    -------
    model : DiffusionASR
    """
    from transformers.utils.logging import disable_progress_bar

    from speechbrain_diffasr.inference.asr import DiffusionASR
    from speechbrain_diffasr.inference.pretrained import default_model

    if not verbose:
        disable_progress_bar()
    return DiffusionASR.from_hparams(
        source=default_model() if source is None else source, run_opts={"device": device}
    )


def drop_stdout():
    # Python flushes stdout once more at its end, which would fail again, aloud.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# A file name need not be valid UTF-8: lines of text give its bytes back, the others have escaped
# or replaced them.
_ERRORS = {"text": "surrogateescape"}


def utf8_stdout(kind):
    """stdout as UTF-8 whatever the locale is: transcripts have many scripts."""
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(encoding="utf-8", errors=_ERRORS.get(kind, "backslashreplace"))
    return sys.stdout


def write_stdout(text, kind):
    """Writes to stdout, at once.

    Arguments
    ---------
    text : str
    kind : str
        What it holds; bytes of file names in "text" are given back.

    Raises
    ------
    UsageError
        If it cannot be written.
    """
    try:
        print(text, end="", file=utf8_stdout(kind), flush=True)
    except BrokenPipeError:
        raise
    except OSError as err:
        drop_stdout()
        raise UsageError(f"stdout cannot be written ({err.strerror})") from None


def write_file(path, text, kind):
    """Writes an output all or nothing.

    Arguments
    ---------
    path : str
    text : str
    kind : str
        What it holds; bytes of file names in "text" are given back.

    Raises
    ------
    UsageError
        If it cannot be written; the old file is then as it was.
    """
    try:
        write_atomically(path, text, _ERRORS.get(kind, "backslashreplace"))
    except OSError as err:
        raise UsageError(f"--output: cannot write {path!r}: {err.strerror}") from None


def check_output(output, inputs, option="--output", kind="audio files"):
    """Finds before the work what would make it useless after.

    Arguments
    ---------
    output : str or None
        The file that is to be written.
    inputs : list of str
        Files that it must not replace.
    option : str
        That names it. Default: --output.
    kind : str
        What the inputs are. Default: audio files.

    Raises
    ------
    UsageError
        If it cannot be written, or would replace an input.
    """
    if output is None:
        return
    folder = os.path.dirname(os.path.realpath(output))
    if not output or os.path.isdir(output):
        raise UsageError(f"{option}: {output!r} is a folder; name a file in it")
    if not os.path.isdir(folder):
        raise UsageError(f"{option}: there is no folder {folder!r}; make it first")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option}: the folder {folder!r} cannot be written to")
    if os.path.realpath(output) in map(os.path.realpath, inputs):
        raise UsageError(f"{option}: {output!r} is one of the {kind}")


def _device(name):
    import torch

    from speechbrain_diffasr.utils.environment import check_device

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        check_device(name)
    except ValueError as err:
        raise UsageError(f"--device: {err}") from None
    return name


@contextlib.contextmanager
def quiet_libraries(verbose):
    """Keeps warnings and logs of the libraries off stderr, which is for the user's files."""
    if verbose:
        yield
        return
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def positive(text):
    """Reads an option that is a whole number of 1 or more.

    Arguments
    ---------
    text : str

    Returns
    -------
    number : int

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none.

    Example
    -------
    >>> positive("8")
    8
    """
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def _count(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _weight(text):
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more, such as 1.5")
    return weight


def _seed(text):
    # torch takes 64 bits.
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def seconds_from_text(text):
    """Reads an option that is a time or a duration.

    Arguments
    ---------
    text : str

    Returns
    -------
    seconds : float

    Raises
    ------
    argparse.ArgumentTypeError
        If it is no number of 0 or more.

    Example
    -------
    >>> seconds_from_text("12.5")
    12.5
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 12.5")
    return seconds
