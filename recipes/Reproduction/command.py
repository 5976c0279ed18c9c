"""What the experiments' command lines share."""

import logging
import signal
import sys
from pathlib import Path

import speechbrain as sb
import torch

from speechbrain_diffasr.recipe.options import read_hparams, show_help

logger = logging.getLogger(__name__)


def run_command(experiment, argv):
    """Runs an experiment from the command line, without tracebacks for bad input.

    Arguments
    ---------
    experiment : callable
        Is given the values of the YAML file, SpeechBrain's run options and `argv`.
    argv : list of str
        Of the command line.
    """
    script = Path(sys.argv[0]).name
    if {"-h", "--help"} & set(argv):
        show_help(script, argv)
        return
    # A time limit ends an experiment as Ctrl-C does, so that no run goes on without it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        path, run_opts, overrides = sb.parse_arguments(argv)
        experiment(read_hparams(path, overrides), run_opts, argv)
    except KeyboardInterrupt:
        sys.exit(f"{script}: stopped; the same command goes on")
    except (OSError, ValueError, torch.OutOfMemoryError) as error:
        logger.debug("what led to it:", exc_info=True)
        sys.exit(f"{script}: {str(error).strip() or type(error).__name__}")
