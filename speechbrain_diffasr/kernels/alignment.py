"""Where the positions of a canvas lie among the frames of CTC: forward and backward sums."""

import torch
from torch.nn.functional import pad

from speechbrain_diffasr.kernels.common import use_triton

# Sums are divided by themselves at every frame; none that counts is under this.
TINY = 1e-30


def align_positions(emitted, held, blank, lengths, frames):
    """Posterior of the frame at which each position of a canvas begins to be heard.

    All alignments count: a position is heard in one frame or more, blanks lie between, and as many
    positions as a length says are heard, in their order. These are the forward and backward
    variables of CTC (https://www.cs.toronto.edu/~graves/icml_2006.pdf) with a distribution over
    tokens at each position, of which neighbours may be equal without a blank between them.

    Arguments
    ---------
    emitted : torch.Tensor
        Likelihood of a frame in which a position begins to be heard, float32 [B, T, C].
    held : torch.Tensor
        Of a frame in which it goes on, [B, T, C].
    blank : torch.Tensor
        Of a frame in which nothing is, [B, T].
    lengths : torch.Tensor
        Weight of 0 to C positions in all, [B, C + 1].
    frames : torch.Tensor
        Frames of each utterance, [B], 1 or more.

    Returns
    -------
    begins : torch.Tensor
        [B, T, C]; summed over the frames, the probability that a position is heard at all.

    Example
    -------
    >>> emitted = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]])
    >>> lengths = torch.tensor([[0.0, 0.0, 1.0]])  # two positions, for certain
    >>> align_positions(emitted, 0 * emitted, torch.ones(1, 2), lengths, torch.tensor([2]))
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    arguments = emitted, held, blank, lengths, frames
    if use_triton(emitted):
        from speechbrain_diffasr.kernels import alignment_triton

        return alignment_triton.align_positions(*arguments)
    return align_positions_plain(*arguments)


def align_positions_plain(emitted, held, blank, lengths, frames):
    """`align_positions` in plain torch."""
    batch, count, _ = emitted.shape
    if not emitted.is_cuda:
        count = int(frames.max())
    # Paths that end in each position, in the blank behind it, and in the blank before all.
    heard = torch.zeros_like(emitted[:, 0])
    behind, before = heard, heard.new_ones(batch, 1)
    history = []
    for frame in range(count):
        history.append((heard, behind, before))
        silence = blank[:, frame, None]
        sums = heard + behind
        entering = torch.cat([before, sums[:, :-1]], dim=1)
        heard_now = emitted[:, frame] * entering + held[:, frame] * heard
        total = heard_now.sum(dim=1, keepdim=True) + silence * (
            sums.sum(dim=1, keepdim=True) + before
        )
        going = (frame < frames)[:, None]
        scale = 1 / total.clamp(min=TINY)
        heard = torch.where(going, heard_now * scale, heard)
        behind = torch.where(going, silence * sums * scale, behind)
        before = torch.where(going, silence * before * scale, before)

    begins = torch.zeros_like(emitted)
    # What is still to come, behind each position, its blank, and the blank before all.
    to_come = after = lengths[:, 1:]
    at_first = lengths[:, :1]
    for frame in reversed(range(count)):
        heard, behind, before = history[frame]
        silence = blank[:, frame, None]
        sums = heard + behind
        begun = emitted[:, frame] * to_come
        entered = torch.cat([before, sums[:, :-1]], dim=1) * begun
        kept = held[:, frame] * to_come
        total = (entered + heard * kept + silence * sums * after).sum(dim=1, keepdim=True)
        total = total + silence * before * at_first
        going = (frame < frames)[:, None]
        begins[:, frame] = torch.where(going, entered / total.clamp(min=TINY), 0.0)
        after_now = silence * after + pad(begun[:, 1:], (0, 1))
        first_now = silence * at_first + begun[:, :1]
        to_come_now = after_now + kept
        # What is behind some position is as large as what is to come at the first, or larger.
        scale = 1 / torch.maximum(to_come_now.amax(dim=1, keepdim=True), first_now).clamp(min=TINY)
        to_come = torch.where(going, to_come_now * scale, to_come)
        after = torch.where(going, after_now * scale, after)
        at_first = torch.where(going, first_now * scale, at_first)
    return begins
