"""What CTC reads from the projector's frames through the language model's output layer."""

import torch


def greedy_tokens(logits, blank):
    """The most probable token of each frame, repetitions and blanks dropped.

    Arguments
    ---------
    logits : torch.Tensor
        [B, T, V].
    blank : int
        Index of the blank.

    Returns
    -------
    tokens : list of list of int
        Of each utterance.

    Example
    -------
    >>> best = torch.tensor([[0, 3, 3, 0, 3, 2]])
    >>> greedy_tokens(torch.nn.functional.one_hot(best, 4).float(), blank=0)
    [[3, 3, 2]]
    """
    best = logits.argmax(dim=-1)  # [B, T]
    new = torch.ones_like(best, dtype=torch.bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    keep = new & (best != blank)
    return [row[mask].tolist() for row, mask in zip(best, keep, strict=True)]
