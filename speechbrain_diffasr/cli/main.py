"""The command `diffasr`."""

import argparse
import sys

from speechbrain_diffasr import __version__
from speechbrain_diffasr.cli.common import UsageError, drop_stdout
from speechbrain_diffasr.cli.evaluate import add_evaluate
from speechbrain_diffasr.cli.explain import add_explain
from speechbrain_diffasr.cli.languages import add_languages
from speechbrain_diffasr.cli.transcribe import add_transcribe


class Parser(argparse.ArgumentParser):
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
    parser = Parser(prog="diffasr", description="Speech recognition by discrete diffusion.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    add_transcribe(commands)
    add_evaluate(commands)
    add_explain(commands)
    add_languages(commands)
    return parser


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
        drop_stdout()
        return 141
