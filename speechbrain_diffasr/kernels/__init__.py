"""Fused kernels of DiffusionGemma's layers, each with a twin in plain torch.

On a CUDA device the kernels are Triton's; everywhere else, and in tests as the reference, the twins
(suffix `_plain`) run. None of them waits for the device or reads values of tensors on the host, so
that a whole denoising step can be captured in a CUDA graph.
"""

import importlib.util
import os


def use_triton(tensor):
    """Tells whether a function runs its Triton kernel on a tensor, or its twin in plain torch.

    Arguments
    ---------
    tensor : torch.Tensor
        An input of the function.

    Returns
    -------
    use_triton : bool
        True for tensors of a CUDA device where Triton is installed, and for all tensors where the
        environment says TRITON_INTERPRET=1: then kernels run in Triton's interpreter.

    Example
    -------
    >>> import torch
    >>> getfixture("monkeypatch").delenv("TRITON_INTERPRET", raising=False)
    >>> use_triton(torch.zeros(1))
    False
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    return tensor.is_cuda and HAS_TRITON


# Triton comes with torch on Linux only.
HAS_TRITON = importlib.util.find_spec("triton") is not None
