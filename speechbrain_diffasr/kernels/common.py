"""What kernels and their plain twins share."""

import importlib.util
import os
from dataclasses import dataclass

import torch


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

MAX_NEXT_WEIGHTS = 3

# Tokens whose probabilities are summed up together when one is sampled: first such a tile is
# chosen, then a token in it, so that a kernel need not keep running sums of the whole vocabulary.
TILE = 1024

# Rows are read in blocks whose logits fill so many bytes at most; on CPU the fewer.
LOGITS_BYTES = 2**30


@dataclass(frozen=True)
class Predictions:
    """Predictions for the positions of canvases.

    Arguments
    ---------
    tokens : torch.Tensor
        Most probable token of each position, the lowest where several are.
    log_probs : torch.Tensor
        Its log probability.
    entropy : torch.Tensor
        Of the prediction, in nats.
    proposals : torch.Tensor
        Tokens that were sampled.
    soft_embedding : torch.Tensor or None
        Expected embedding of the prediction.
    """

    tokens: torch.Tensor
    log_probs: torch.Tensor
    entropy: torch.Tensor
    proposals: torch.Tensor
    soft_embedding: torch.Tensor | None = None

    def view(self, *shape):
        """The same by another shape, but for the embeddings."""
        parts = self.tokens, self.log_probs, self.entropy, self.proposals
        return Predictions(*(part.view(*shape) for part in parts), self.soft_embedding)


def rows_within(size, head):
    """Rows of logits that fit into so many bytes, at least one.

    Arguments
    ---------
    size : int
        Bytes.
    head : torch.Tensor [V, D]
        Of whose type logits are.

    Returns
    -------
    rows : int

    Example
    -------
    >>> rows_within(2**20, torch.zeros(1024, 8))
    256
    """
    return max(1, size // (len(head) * head.element_size()))
