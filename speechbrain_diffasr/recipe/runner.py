"""What every train.py and evaluate.py of a recipe runs."""

import inspect
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import speechbrain as sb
import torch
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import ddp_init_group, if_main_process

from speechbrain_diffasr.recipe import steps
from speechbrain_diffasr.recipe.options import read_hparams, save_hparams, show_help

logger = logging.getLogger(__name__)


def run(argv: list[str], prepare: Callable | None = None) -> None:
    """Trains, saves and scores, or only scores, as a YAML file says.

    Arguments
    ---------
    argv : list of str
        The YAML file and what it is to be changed by, as in every SpeechBrain recipe. A file
        without the key `training` only scores.
    prepare : callable, optional
        Makes the CSV files; is given the mapping `prepare` of the YAML file.
    """
    script = Path(sys.argv[0]).name
    if {"-h", "--help"} & set(argv):
        show_help(script, argv)
        return
    if not argv or argv[0].startswith("-"):
        sys.exit(f"{script}: name a YAML file, such as train.yaml, before any option; see --help")
    try:
        path, run_opts, overrides = sb.parse_arguments(argv)
        hparams = read_hparams(path, overrides)
        _run(path, hparams, run_opts, overrides, prepare)
    except KeyboardInterrupt:
        sys.exit(f"{script}: stopped; the same command goes on from the last checkpoint")
    except (OSError, ValueError, YAMLError, torch.OutOfMemoryError) as error:
        logger.debug("what led to it:", exc_info=True)
        sys.exit(f"{script}: {_reason(error)}")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _run(path, hparams, run_opts, overrides, prepare):
    # It says at every epoch that it makes batches.
    logging.getLogger("speechbrain.dataio.sampler").setLevel(logging.WARNING)
    steps.check(hparams, run_opts)
    ddp_init_group(run_opts)
    sb.create_experiment_directory(hparams["output_folder"])
    if if_main_process():
        save_hparams(path, overrides, Path(hparams["output_folder"], "hyperparams.yaml"))
        for script in (sys.argv[0], prepare and inspect.getsourcefile(prepare)):
            if script and Path(script).suffix == ".py":
                shutil.copy(script, hparams["output_folder"])
    steps.prepare(hparams, prepare, run_opts)
    asr = steps.load(hparams, run_opts)
    if "training" in hparams:
        steps.fit(asr, hparams, run_opts)
    steps.score(asr, hparams, run_opts)


def _reason(error):
    """What an error says, without the traceback that comes with one of a data loader's process."""
    text = str(error).strip()
    if text.startswith("Caught ") and "Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return text or type(error).__name__
