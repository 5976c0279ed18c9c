"""The house: packages import downward only, and each has a face."""

import ast
import importlib
from pathlib import Path

import pytest

import speechbrain_diffasr

PACKAGE = Path(speechbrain_diffasr.__file__).parent
# Each may import itself and what stands before it.
ORDER = (
    *("utils", "text", "kernels", "dataio", "lobes", "segmentation", "decoders", "evaluation"),
    *("transcripts", "inference", "visualization", "training", "pretraining", "recipe", "cli"),
)
# Where folders and scripts of 0.1 look for a class; they may import anything.
SHIMS = {"tokenizer.py", "prompt.py", "hub.py", "checkpoints.py", "evaluate.py"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / path.name not in SHIMS]


def imports():
    """(importing module, line, imported module) of every import of the package in the package."""
    for path in FILES:
        own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                first, _, rest = name.partition(".")
                if first == PACKAGE.name:
                    yield own, node.lineno, rest


def test_the_order_names_every_package():
    assert sorted(ORDER) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_root_holds_the_face_the_command_and_the_shims():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", *SHIMS}


def test_imports_point_down():
    upward = []
    for own, line, name in imports():
        layer, below = own.partition(".")[0], name.partition(".")[0]
        if below == "__version__" or layer not in ORDER:
            continue
        if below not in ORDER or ORDER.index(below) > ORDER.index(layer):
            upward.append(f"{own}:{line}: {name}")
    assert upward == []


def test_no_imports_run_in_circles():
    modules = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in FILES}
    targets = {}
    for own, _, name in imports():
        # The name of a thing in a module, or of the module.
        found = name if name in modules else name.rpartition(".")[0]
        targets.setdefault(own, set()).add(found)
    circles, done = [], set()

    def follow(module, path):
        if module in path:
            circles.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(targets.get(module, ())):
                follow(target, [*path, module])
            done.add(module)

    for module in sorted(modules):
        follow(module, [])
    assert circles == []


@pytest.mark.parametrize("name", ["", *(f".{layer}" for layer in ORDER)])
def test_a_face_names_what_is_there(name):
    face = importlib.import_module(f"speechbrain_diffasr{name}")
    for public in getattr(face, "__all__", ()):
        assert getattr(face, public) is not None
        assert public in dir(face)


def test_what_the_first_readme_imports_is_still_there():
    from speechbrain_diffasr.cli import main
    from speechbrain_diffasr.dataio import csv_dataset
    from speechbrain_diffasr.evaluate import evaluate_csvs
    from speechbrain_diffasr.inference import (
        AudioError,
        DiffusionASR,
        Transcript,
        check_device,
        default_model,
    )
    from speechbrain_diffasr.recipe import run
    from speechbrain_diffasr.segmentation import Segmenter
    from speechbrain_diffasr.text import normalize_text
    from speechbrain_diffasr.training import RecognizerLosses

    assert DiffusionASR is speechbrain_diffasr.DiffusionASR
    assert AudioError is speechbrain_diffasr.AudioError
    assert Transcript is speechbrain_diffasr.Transcript
    named = (main, csv_dataset, evaluate_csvs, check_device, default_model, run, normalize_text)
    assert all(map(callable, (*named, Segmenter, RecognizerLosses)))
