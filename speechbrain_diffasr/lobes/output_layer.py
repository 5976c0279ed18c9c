"""Log probabilities of some tokens, through an output layer whose logits never exist all at once.

It multiplies by the output layer a chunk of rows at a time, keeps only the log probabilities that
are asked for, and multiplies again in the backward pass.
"""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable


class Head(NamedTuple):
    """The output layer of a language model, as the losses see it.

    Arguments
    ---------
    weight : torch.Tensor
        Output embeddings [V, D]; no bias.
    softcap : float or None
        Logits are ``softcap * tanh(hidden @ weight.T / softcap)``, 30 for
        DiffusionGemma. None leaves them as they are.

    Example
    -------
    >>> Head(torch.rand(11, 4), softcap=30.0).weight.shape
    torch.Size([11, 4])
    """

    weight: torch.Tensor
    softcap: float | None = None


def token_log_probs(hidden, weight, ids, keep, softcap, chunk_size):
    """Log probabilities of some tokens through an output layer, in chunks of its logits.

    Arguments
    ---------
    hidden : torch.Tensor
        What the output layer takes, [N, D].
    weight : torch.Tensor
        Of the output layer, [V, D].
    ids : torch.Tensor
        Tokens that are asked for at each place, [N, K].
    keep : torch.Tensor
        Places that count, [N]; elsewhere the result is zero.
    softcap : float or None
        Of the logits.
    chunk_size : int
        Places whose logits are in memory at once.

    Returns
    -------
    log_probs : torch.Tensor
        After a softmax over the whole vocabulary, [N, K].

    Example
    -------
    >>> hidden, keep = torch.zeros(2, 3), torch.tensor([True, False])
    >>> token_log_probs(hidden, torch.ones(4, 3), torch.tensor([[1], [2]]), keep, None, 8).exp()
    tensor([[0.2500],
            [1.0000]])
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        hidden = hidden.to(torch.get_autocast_dtype(device))
    weight = weight.to(hidden.dtype)
    drop = ~keep[:, None]
    if _needs_fixed_shapes(hidden):
        hidden, ids = hidden.masked_fill(drop, 0), ids.masked_fill(drop, 0)
        log_probs = _TokenLogProbs.apply(hidden, weight, ids, softcap, chunk_size)
        return log_probs.masked_fill(drop, 0.0)
    kept = keep.nonzero().squeeze(1)
    log_probs = _TokenLogProbs.apply(hidden[kept], weight, ids[kept], softcap, chunk_size)
    return log_probs.new_zeros(ids.shape).index_put((kept,), log_probs)


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities [N, K] of K given tokens per row, of a softmax over all V."""

    @staticmethod
    def forward(ctx, hidden, weight, ids, softcap, chunk_size):
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        log_probs = torch.empty(ids.shape, dtype=dtype, device=hidden.device)
        norms = torch.empty((ids.shape[0], 1), dtype=dtype, device=hidden.device)
        for start in range(0, ids.shape[0], chunk_size):
            rows = slice(start, start + chunk_size)
            logits = head_logits(hidden[rows], weight, softcap, dtype)
            norms[rows] = logits.logsumexp(dim=-1, keepdim=True)
            # Both terms come from the same product: in bf16 another one would round
            # differently, by up to 0.1 nat, and probabilities would exceed one.
            log_probs[rows] = logits.gather(-1, ids[rows]) - norms[rows]
        ctx.save_for_backward(hidden, weight, ids, norms)
        ctx.softcap, ctx.chunk_size = softcap, chunk_size
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, ids, norms = ctx.saved_tensors
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        # Summed over chunks in float32: bf16 would lose the small contributions.
        grad_weight = torch.zeros_like(weight, dtype=norms.dtype) if for_weight else None
        for start in range(0, ids.shape[0], ctx.chunk_size):
            rows = slice(start, start + ctx.chunk_size)
            logits = head_logits(hidden[rows], weight, ctx.softcap, norms.dtype)
            grad_logits = (logits - norms[rows]).exp_()
            grad_logits.mul_(-grad[rows].sum(dim=-1, keepdim=True))
            grad_logits.scatter_add_(-1, ids[rows], grad[rows])
            if ctx.softcap is not None:
                # tanh' = 1 - tanh²; in place, as the logits are not needed again
                grad_logits.mul_(logits.div_(ctx.softcap).square_().neg_().add_(1))
            grad_logits = grad_logits.to(hidden.dtype)
            if for_hidden:
                grad_hidden[rows] = grad_logits @ weight
            if for_weight:
                grad_weight += grad_logits.T @ hidden[rows]
        if for_weight:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None


def head_logits(hidden, weight, softcap, dtype=torch.float32):
    """What an output layer makes of some hidden states.

    Arguments
    ---------
    hidden : torch.Tensor
        [N, D].
    weight : torch.Tensor
        Of the output layer, [V, D].
    softcap : float or None
        Of the logits.
    dtype : torch.dtype
        Of the logits; the product itself is in that of hidden. Default: float32.

    Returns
    -------
    logits : torch.Tensor
        [N, V]; not for a backward pass.
    """
    logits = (hidden @ weight.T).to(dtype)
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def _needs_fixed_shapes(tensor):
    """Whether leaving rows out would break a graph that is being traced or captured."""
    if torch.compiler.is_compiling():
        return True
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
