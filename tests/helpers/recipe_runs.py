"""Recipes that are run as their users run them, in this process."""

import contextlib
import logging
import runpy
import sys

import pytest
from miniature import (
    REPOSITORY,
)

QUICK = (
    *("--number_of_epochs", "1", "--num_workers", "0", "--denoising_steps", "2"),
    *("--steps", "[1, 2]", "--device", "cpu", "--noprogressbar"),
)


def run_recipe(name, *argv):
    """`python train.py ...` in the folder of a recipe, without another start of Python."""
    folder, root = REPOSITORY / "recipes" / name, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        # SpeechBrain sets up logging anew, with the stdout of this moment.
        stack.callback(root.setLevel, level)
        stack.callback(setattr, root, "handlers", handlers)
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr(sys, "argv", ["train.py", *map(str, argv)])
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        # Each recipe has a prepare.py.
        sys.modules.pop("prepare", None)
        try:
            runpy.run_path("train.py", run_name="__main__")
        finally:
            sys.modules.pop("prepare", None)
