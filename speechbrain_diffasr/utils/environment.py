"""The machine and the packages that a result was made with."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

from speechbrain_diffasr import __version__


def check_device(name: str | torch.device) -> None:
    """Sees whether a device is there, before anything is loaded.

    Arguments
    ---------
    name : str or torch.device

    Raises
    ------
    ValueError
        If it is not.

    Example
    -------
    >>> check_device("cpu")
    >>> check_device("abacus")
    Traceback (most recent call last):
    ValueError: 'abacus' is not a device of this machine; try cpu
    """
    try:
        # Only a round trip shows whether the device is there and computes.
        torch.ones(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"{str(name)!r} is not a device of this machine; try cpu") from None


PACKAGES = ("speechbrain_diffasr", "speechbrain", "transformers", "peft", "torch")


def versions():
    """Of Python and of the packages that decide what comes out.

    Returns
    -------
    versions : dict

    Example
    -------
    >>> versions()["torch"] == torch.__version__
    True
    """
    found = {"torch": torch.__version__, "speechbrain_diffasr": __version__}
    # From a checkout on the path, this package has no metadata: nothing may fail for that.
    found |= {name: importlib.metadata.version(name) for name in PACKAGES if name not in found}
    return {"python": platform.python_version(), **{name: found[name] for name in PACKAGES}}


def hardware(device):
    """Names what a model runs on.

    Arguments
    ---------
    device : str or torch.device

    Returns
    -------
    name : str
        Of the GPU; or of the processor, with the number of threads that torch uses.

    Example
    -------
    >>> "thread" in hardware("cpu")
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    # On Linux, platform knows the kind of processor only.
    if os.path.exists("/proc/cpuinfo"):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        name = model[1] if model else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread" + "s" * (threads > 1)
