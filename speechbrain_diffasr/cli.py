"""The command `diffasr`."""

import argparse
import contextlib
import json
import logging
import os
import shutil
import sys
import warnings

from tqdm import tqdm

from speechbrain_diffasr import __version__
from speechbrain_diffasr.evaluate_cli import add_evaluate

TRANSCRIBE = """\
Writes what is said in audio files.

Any format that soundfile reads (WAV, FLAC, Ogg, MP3, ...) at any sample rate, with any number
of channels. A file that cannot be transcribed gets one line on stderr and the others go on."""

TRANSCRIBE_EXAMPLES = """\
examples:
  diffasr transcribe speech.wav
      the transcript alone
  diffasr transcribe *.flac --language de --output transcripts.tsv
      a line for each file: its path, a tab, its transcript
  diffasr transcribe a.mp3 b.mp3 --format json --steps 16
      a JSON list; duration is in seconds, steps are the denoising steps that were taken

exit status: 0 all files transcribed, 1 some were not, 2 wrong usage, 130 interrupted"""


class UsageError(Exception):
    """The command cannot start as it was called; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser():
    """The parser of all subcommands; each sets `run`, which takes the parsed arguments.

    Returns
    -------
    parser : argparse.ArgumentParser

    Example
    -------
    >>> args = build_parser().parse_args(["transcribe", "a.wav", "--steps", "16"])
    >>> args.steps, args.run.__name__
    (16, 'transcribe')
    """
    parser = _Parser(prog="diffasr", description="Speech recognition by discrete diffusion.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    _add_transcribe(commands)
    add_evaluate(commands, add_model_options)
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
        "[default: the tiny demonstration model that comes with the source]",
    )
    options.add_argument(
        "--language",
        metavar="CODE",
        help="the language that is spoken, such as en [default: the prompt names none]",
    )
    options.add_argument(
        "--steps",
        type=steps_type or _positive,
        metavar="N,N" if steps_type else "N",
        help="denoising steps at most for an utterance, 1 or more; time grows with them"
        + ("; of several, each is tried " if steps_type else " ")
        + "[default: the model's own]",
    )
    options.add_argument(
        "--batch-size",
        type=_positive,
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
    from speechbrain_diffasr.hub import check_source

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

    from speechbrain_diffasr.inference import DiffusionASR, default_model

    if not verbose:
        disable_progress_bar()
    return DiffusionASR.from_hparams(
        source=default_model() if source is None else source, run_opts={"device": device}
    )


def transcribe(args):
    """Runs `diffasr transcribe`.

    Arguments
    ---------
    args : argparse.Namespace
        What `build_parser` parsed.

    Returns
    -------
    status : int
        0 if all files were transcribed, else 1.

    Raises
    ------
    UsageError
        If the model cannot be loaded or the output cannot be written.
    """
    check_output(args.output, args.files)
    with quiet_libraries(args.verbose):
        from speechbrain_diffasr.audio import AudioError, quiet_decoder

        model = open_model(args)
        results, shown, failed = {}, 0, 0
        stream = model.stream_files(
            args.files, args.language, args.steps, args.seed, args.batch_size
        )
        # disable=None shows the bar only where stderr is a terminal.
        hidden = True if len(args.files) == 1 else None
        with (
            quiet_decoder() as stderr,
            tqdm(total=len(args.files), unit="file", disable=hidden, file=stderr) as bar,
        ):
            for index, result in stream:
                bar.update()
                if isinstance(result, AudioError):
                    tqdm.write(f"diffasr: {result}", file=stderr)
                    failed += 1
                    result = None
                results[index] = result
                # They end in another order; each is shown once all before it are there.
                while shown in results:
                    if args.format == "text" and args.output is None:
                        _show(args.files, shown, results[shown])
                    shown += 1
    results = [
        (path, results[index])
        for index, path in enumerate(args.files)
        if results[index] is not None
    ]
    if args.output is not None:
        write_file(args.output, _FORMATS[args.format](results, len(args.files)), args.format)
    elif args.format == "json":
        print(_as_json(results, len(args.files)), end="", file=_stdout("json"), flush=True)
    return int(failed > 0)


def main(argv=None):
    """Runs the command line.

    Arguments
    ---------
    argv : list of str, optional
        Default: the arguments of the process.

    Returns
    -------
    status : int
        0 all done, 1 some files failed, 2 wrong usage, 130 interrupted, 141 nobody reads stdout.

    Example
    -------
    >>> main(["transcribe", "a.wav", "--steps", "16", "--output", "no/such/folder/a.txt"])
    2
    """
    try:
        args = build_parser().parse_args(argv)
        return args.run(args)
    except UsageError as err:
        print(f"diffasr: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at its end, which would fail again, aloud.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _add_transcribe(commands):
    parser = commands.add_parser(
        "transcribe",
        help="write what is said in audio files",
        description=TRANSCRIBE,
        epilog=TRANSCRIBE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files")
    parser.add_argument(
        "--format",
        choices=sorted(_FORMATS, reverse=True),
        default="text",
        help="text: the transcript alone for one file, PATH<tab>TEXT for several; json: a list "
        "of objects with path, text, language, duration (s) and steps [default: %(default)s]",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write here, as UTF-8, when all is done [default: stdout]",
    )
    add_model_options(parser)
    parser.set_defaults(run=transcribe)


def _show(files, index, transcript):
    """Prints a transcript past the progress bar."""
    if transcript is not None:
        line = _as_text([(files[index], transcript)], len(files))
        tqdm.write(line, file=_stdout("text"), end="")
        sys.stdout.flush()


def _as_text(results, num_files):
    # One line for each file, whatever the model wrote.
    lines = [(path, " ".join(transcript.text.split())) for path, transcript in results]
    return "".join(f"{text}\n" if num_files == 1 else f"{path}\t{text}\n" for path, text in lines)


def _as_json(results, num_files):
    objects = [
        {
            "path": path,
            "text": transcript.text,
            "language": transcript.language,
            "duration": round(transcript.duration, 3),
            "steps": transcript.steps,
        }
        for path, transcript in results
    ]
    return json.dumps(objects, ensure_ascii=False, indent=2) + "\n"


_FORMATS = {"text": _as_text, "json": _as_json}

# A file name need not be valid UTF-8: text gives its bytes back, JSON has \udcXX for them.
_ERRORS = {"text": "surrogateescape", "json": "backslashreplace"}


def _stdout(kind):
    """stdout as UTF-8 whatever the locale is: transcripts have many scripts."""
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(encoding="utf-8", errors=_ERRORS[kind])
    return sys.stdout


def write_file(path, text, kind):
    """Writes all or nothing."""
    path = os.path.realpath(path)
    special = os.path.exists(path) and not os.path.isfile(path)
    # Devices and pipes cannot be replaced by a file.
    temporary = path if special else f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors=_ERRORS[kind]) as file:
            file.write(text)
        if not special:
            if os.path.exists(path):
                shutil.copymode(path, temporary)
            os.replace(temporary, path)
    except OSError as err:
        raise UsageError(f"--output: cannot write {path!r}: {err.strerror}") from None
    finally:
        if not special:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


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

    from speechbrain_diffasr.inference import check_device

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


def _positive(text):
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def _seed(text):
    # torch takes 64 bits.
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)
