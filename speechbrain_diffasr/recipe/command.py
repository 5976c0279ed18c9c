"""Runs the function of a prepare.py from the command line."""

import argparse
import inspect
import logging
import re
import sys


def run_prepare(prepare, argv=None):
    """Runs the function of a prepare.py as its command line, without tracebacks.

    Arguments
    ---------
    prepare : callable
        Documented as `prepare_parser` reads it. OSError, ValueError and RuntimeError end the
        command with their message.
    argv : list of str, optional
        Default: the arguments of the process.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(**vars(prepare_parser(prepare).parse_args(argv)))
    except KeyboardInterrupt:
        sys.exit("prepare.py: stopped; run the same command again to continue")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"prepare.py: {error}")


def prepare_parser(prepare):
    """Makes the command line of a function from its signature and docstring.

    An argument without a default is required. Arguments that are no numbers, strings or lists of
    them are left to those who call the function.

    Arguments
    ---------
    prepare : callable
        With a docstring in NumPy style. The docstring of its module introduces the command.

    Returns
    -------
    parser : argparse.ArgumentParser

    Example
    -------
    >>> def prepare(data_folder, languages=("en", "de"), workers=None, progress=True):
    ...     '''Makes data.
    ...
    ...     Arguments
    ...     ---------
    ...     data_folder : str or Path
    ...     languages : list of str
    ...     workers : int or None
    ...     progress : bool
    ...     '''
    >>> arguments = ["--data_folder", "data", "--languages", "fr", "--workers", "2"]
    >>> prepare_parser(prepare).parse_args([*arguments, "--no-progress"])
    Namespace(data_folder='data', languages=['fr'], workers=2, progress=False)
    """
    parser = argparse.ArgumentParser(
        prog="prepare.py",
        description=inspect.getmodule(prepare).__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    documented = _documented_arguments(prepare)
    for name, parameter in inspect.signature(prepare).parameters.items():
        kind, text = documented[name]
        found = re.match(r"((?:list|tuple) of )?(str|int|float|bool)\b", kind)
        if not found:
            continue
        required = parameter.default is inspect.Parameter.empty
        options = {"required": True} if required else {"default": parameter.default}
        default = None if required else parameter.default
        if found[2] == "bool":
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = {"str": str, "int": int, "float": float}[found[2]]
            metavars = {"str": "PATH" if "Path" in kind else "NAME", "int": "N", "float": "X"}
            options["metavar"] = metavars[found[2]]
        if found[1]:
            options["nargs"] = "*"
            default = " ".join(f"'{item}'" if item == "" else str(item) for item in default or ())
        if default not in (None, "") and found[2] != "bool":
            text = f"{text} [default: {default}]"
        text = text.replace("``", "").replace("%", "%%")
        parser.add_argument(f"--{name}", help=text, **options)
    return parser


def _documented_arguments(function):
    """{name: (type, description)} from the section Arguments of a docstring."""
    doc = inspect.getdoc(function)
    section = doc.partition("Arguments\n---------\n")[2]
    section = re.split(r"\n\n\w+\n-{3,}\n", section)[0]
    arguments, names = {}, []
    for line in section.splitlines():
        if head := re.fullmatch(r"(\w+(?:, \w+)*) : (.+)", line):
            names = head[1].split(", ")
            arguments.update(dict.fromkeys(names, (head[2], "")))
        else:
            for name in names:
                kind, text = arguments[name]
                arguments[name] = (kind, f"{text} {line.strip()}".strip())
    return arguments
