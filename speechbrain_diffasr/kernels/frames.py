"""What CTC reads off the vocabulary in the frames of utterances, in two passes over the logits."""

import torch

from speechbrain_diffasr.kernels.common import use_triton


def read_frames(logits, softcap, frames):
    """Normalizes the logits of frames, and finds where in an utterance each token is likeliest.

    Arguments
    ---------
    logits : torch.Tensor
        Products with the output layer, without a softcap, float32 or bfloat16 [B, T, V].
    softcap : float or None
        Bound of the logits: softcap * tanh(logits / softcap).
    frames : torch.Tensor
        Frames of each utterance, [B].

    Returns
    -------
    norms : torch.Tensor
        What is subtracted from the bounded logits to make log probabilities, float32 [B, T].
    highest : torch.Tensor
        The highest log probability of each token in the frames of each utterance, float32 [B, V].

    Example
    -------
    >>> logits = torch.tensor([[[0.1, 0.9], [0.6, 0.4], [0.9, 0.1]]]).log()
    >>> norms, highest = read_frames(logits, None, torch.tensor([2]))
    >>> highest.exp()
    tensor([[0.6000, 0.9000]])
    """
    if use_triton(logits):
        from speechbrain_diffasr.kernels import frames_triton

        return frames_triton.read_frames(logits, softcap, frames)
    return read_frames_plain(logits, softcap, frames)


def read_frames_plain(logits, softcap, frames):
    """`read_frames` in plain torch."""
    bounded = bound(logits, softcap)
    norms = bounded.logsumexp(dim=-1)
    inside = torch.arange(logits.shape[1], device=logits.device) < frames[:, None]
    outside = norms.masked_fill(~inside, torch.inf)
    return norms, (bounded - outside[..., None]).amax(dim=1)


def bound(logits, softcap):
    """Logits in float32, within their bound.

    Arguments
    ---------
    logits : torch.Tensor
    softcap : float or None

    Returns
    -------
    logits : torch.Tensor

    Example
    -------
    >>> bound(torch.tensor([1.0, 1000.0]), 30.0)
    tensor([ 0.9996, 30.0000])
    """
    logits = logits.float()
    return logits if softcap is None else (logits / softcap).tanh() * softcap
