"""The YAML file of a recipe and the options that change it."""

import contextlib
import datetime
import difflib
import io
import re
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError

# Keys of the run that no recipe's YAML need have.
SHARED = ("training", "evaluation")


def read_hparams(path: str | Path, overrides: str | dict | None = None) -> dict:
    """Loads a recipe's YAML file.

    Options that the file itself does not have are looked for in what it includes: `--lr` reaches
    the `lr` of hparams/training.yaml. One that is nowhere is an error.

    Arguments
    ---------
    path : str or Path
        The YAML file.
    overrides : str or dict
        As `speechbrain.parse_arguments` gives them.

    Returns
    -------
    hparams : dict

    Raises
    ------
    ValueError
        If an option is unknown or one that must be given is missing.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "shared.yaml").write_text("lr: 0.1\\nsteps: 5\\n")
    >>> _ = (folder / "train.yaml").write_text("a: 1\\ntraining: !include:shared.yaml\\n")
    >>> read_hparams(folder / "train.yaml", {"lr": 0.2})["training"]["lr"]
    0.2
    >>> read_hparams(folder / "train.yaml", {"step": 7})
    Traceback (most recent call last):
    ValueError: --step: no such option; did you mean --steps?
    >>> read_hparams(folder / "train.yaml", "lr: 1\\nlr: 2")
    Traceback (most recent call last):
    ValueError: --lr is given twice
    """
    with _routed(path, overrides) as (file, routed):
        try:
            return load_hyperpyyaml(file, routed)
        except ValueError as error:
            if "PLACEHOLDER" not in str(error):
                raise
            tree = _keys(path)
            missing = [key for key, value in tree.items() if value == _MISSING]
            missing = [key for key in missing if key not in routed]
            raise ValueError(f"{path}: give {', '.join('--' + key for key in missing)}") from None


def save_hparams(path, overrides, target):
    """Writes what `read_hparams` loads: the YAML file with its options and what it includes.

    Arguments
    ---------
    path : str or Path
    overrides : str or dict
    target : str or Path
        File to write.
    """
    with _routed(path, overrides) as (file, routed):
        text = resolve_references(file, routed).getvalue()
    head = f"# From {Path(path).absolute()} on {datetime.date.today()}.\n"
    Path(target).write_text(head + text, encoding="utf-8")


@contextlib.contextmanager
def _routed(path, overrides):
    """A recipe's YAML file for hyperpyyaml, and its options below the keys that include theirs."""
    tree = _keys(path)
    if isinstance(overrides, str):
        try:
            overrides = YAML(typ="safe").load(overrides) if overrides.strip() else {}
        except DuplicateKeyError as error:
            name = re.search(r'key "(\w+)"', str(error.problem))[1]
            raise ValueError(f"--{name} is given twice") from None
    routed = {}
    for name, value in (overrides or {}).items():
        if name in tree:
            routed[name] = value
            continue
        owners = [group for group in SHARED if name in (tree.get(group) or {})]
        if not owners:
            known = [*tree, *(key for group in SHARED for key in tree.get(group) or {})]
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean --{close[0]}?" if close else f"; {path} names them all"
            raise ValueError(f"--{name}: no such option{hint}")
        for group in owners:
            routed.setdefault(group, {})[name] = value
    # An include that changes nothing is an empty scalar, which takes no overrides.
    empty = r"(?m)^(\w+: !include:\S+)[ \t]*$(?!\n[ \t]+\S)"
    text = re.sub(empty, r"\1 {}", Path(path).read_text(encoding="utf-8"))
    with io.StringIO(text) as file:
        file.name = str(path)  # includes are looked for beside it
        yield file, routed


def show_help(script, argv):
    """Prints what a recipe can be told.

    Arguments
    ---------
    script : str
        Name of the program.
    argv : list of str
        Its arguments; a YAML file among them is shown.
    """
    files = [name for name in argv if name.endswith((".yaml", ".yml"))]
    print(f"usage: {script} FILE.yaml [--KEY VALUE ...] [--device cpu] [--precision bf16] ...\n")
    print("Every key of the YAML file, and of what it includes, is an option.")
    print("Those of SpeechBrain come with them: --device, --precision bf16, --noprogressbar,")
    print("--grad_accumulation_factor N, --ckpt_interval_minutes N; for several GPUs:")
    print(f"  torchrun --nproc_per_node N {script} FILE.yaml ...")
    for name in files:
        for path in [Path(name), *_includes(name)]:
            print(f"\n# ---- {path}\n{path.read_text(encoding='utf-8').rstrip()}")
    if not files:
        print(f"\n{script} train.yaml --help shows the keys of train.yaml.")


_MISSING = "!PLACEHOLDER"


def _keys(path):
    """The keys of a YAML file; those of an included file are below the key that includes it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    node = YAML().compose(text)
    keys = {}
    for key, value in node.value if node is not None else ():
        tag = str(value.tag or "")
        if tag.startswith("!include:"):
            keys[key.value] = _keys(Path(path).parent / tag.removeprefix("!include:"))
        else:
            keys[key.value] = tag if tag == _MISSING else None
    return keys


def _includes(path):
    """Files that a YAML file includes."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    names = [line.partition("!include:")[2].split()[0] for line in lines if ": !include:" in line]
    return [Path(path).parent / name for name in names]
