"""What the tests of kernels share: where they run, and how far from the definition they may be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_for_numpy_2_4(tensor, *scope):
        """NumPy 2.4 refuses int([n]): https://github.com/triton-lang/triton/issues/9171"""
        patch_tensor(tensor, *scope)
        # The scope, which newer Tritons have, takes the attribute back later.
        set_attr = scope[0].set_attr if scope else setattr
        set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_for_numpy_2_4

# float32 is float32: SpeechBrain, once imported, lets products on a GPU round to TF32.
torch.backends.cuda.matmul.allow_tf32 = False

# (device, type, norm of the error relative to the norm of the result)
FLOAT32 = ("cpu", torch.float32, 1e-5)
BFLOAT16 = ("cpu", torch.bfloat16, 1e-2)
SETTINGS = [
    pytest.param(FLOAT32, id="cpu-float32"),
    pytest.param(
        BFLOAT16,
        id="cpu-bfloat16",
        marks=pytest.mark.skipif(INTERPRETED, reason="Triton interprets bfloat16 wrongly"),
    ),
    pytest.param(("cuda", torch.float32, 1e-5), id="cuda-float32", marks=pytest.mark.gpu),
    pytest.param(("cuda", torch.bfloat16, 1e-2), id="cuda-bfloat16", marks=pytest.mark.gpu),
]


def run_interpreted(file):
    """Runs the tests of a file in a process of its own, where kernels are interpreted.

    Arguments
    ---------
    file : str or Path
        Of tests, which imports this module.
    """
    # Which way kernels run is settled when Triton is imported.
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", file]
    done = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def relative_error(actual, expected):
    """Norm of the difference over the norm of `expected`, which is in float64."""
    assert expected.dtype == torch.float64
    assert actual.shape == expected.shape
    return ((actual.double() - expected).norm() / expected.norm()).item()


def assert_as_good_as(plain, actual, expected):
    """Holds what a kernel gave in bfloat16 against float64 and against plain torch."""
    error, plain_error = relative_error(actual, expected), relative_error(plain, expected)
    assert error <= 1e-2
    assert error <= 2 * plain_error
