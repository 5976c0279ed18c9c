"""Weights at rest in 8 bits: half the size of float16, and float again as soon as they are read."""

import torch

SCALE = ".scale"  # behind the name of a matrix, for the factors of its rows
LEVELS = 127
# Vectors are small and matter most; they stay in float16.
MIN_DIMENSIONS = 2


def to_eight_bits(weights):
    """Rounds each row of each matrix to 255 levels.

    Symmetric and by output channel, so that one large weight coarsens its own row only.

    Arguments
    ---------
    weights : dict
        Tensors by name.

    Returns
    -------
    weights : dict
        Matrices as int8 with float32 factors [rows, 1, …] beside them, other floating-point tensors
        as float16, the rest as it is.

    Example
    -------
    >>> stored = to_eight_bits({"w": torch.tensor([[1.0, -0.5], [0.0, 0.0]]), "b": torch.ones(2)})
    >>> sorted(stored), stored["w"].tolist()
    (['b', 'w', 'w.scale'], [[127, -64], [0, 0]])
    >>> from_eight_bits(stored)["w"][0, 0].item()
    1.0
    """
    stored = {}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            stored[name] = weight
        elif weight.dim() < MIN_DIMENSIONS:
            stored[name] = weight.half()
        else:
            rows = weight.detach().float()
            scale = rows.abs().amax(dim=tuple(range(1, rows.dim())), keepdim=True) / LEVELS
            levels = (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)).round()
            stored[name], stored[name + SCALE] = levels.to(torch.int8), scale
    return stored


def from_eight_bits(weights):
    """What `to_eight_bits` was given, as near as it is kept; other weights as they are.

    Arguments
    ---------
    weights : dict
        Tensors by name.

    Returns
    -------
    weights : dict
        Without int8 matrices and their factors.
    """
    names = [name for name in weights if name + SCALE in weights]
    restored = {name: weights[name].float() * weights[name + SCALE] for name in names}
    factors = {name + SCALE for name in names}
    return {
        name: restored.get(name, weight) for name, weight in weights.items() if name not in factors
    }
