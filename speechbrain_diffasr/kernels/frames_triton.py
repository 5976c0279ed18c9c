"""`read_frames` as two kernels: a pass over the logits for each."""

import torch
import triton
import triton.language as tl

# Logits that a program reads at once.
SPAN = 4096
TOKENS = 256


def read_frames(logits, softcap, frames):
    """See `speechbrain_diffasr.kernels.frames.read_frames`."""
    batch, count, size = logits.shape
    logits = logits.contiguous()
    norms = torch.empty(batch, count, dtype=torch.float32, device=logits.device)
    highest = torch.empty(batch, size, dtype=torch.float32, device=logits.device)
    cap = 0.0 if softcap is None else float(softcap)
    span = min(SPAN, triton.next_power_of_2(size))
    _norms_kernel[(batch * count,)](logits, norms, cap, V=size, SPAN=span, num_warps=8)
    tokens = min(TOKENS, triton.next_power_of_2(size))
    _highest_kernel[(batch, triton.cdiv(size, tokens))](
        logits, norms, frames, highest, cap, T=count, V=size, TOKENS=tokens, num_warps=2
    )
    return norms, highest


@triton.jit
def _bounded(values, cap):
    # tanh by the exponential function of what is negative, which cannot overflow.
    scaled = values / tl.where(cap > 0, cap, 1.0)
    small = tl.exp(-2 * tl.abs(scaled))
    tanh = (1 - small) / (1 + small)
    return tl.where(cap > 0, cap * tl.where(scaled < 0, -tanh, tanh), values)


@triton.jit
def _norms_kernel(logits, norms, cap, V: tl.constexpr, SPAN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SPAN)
    best = tl.full((SPAN,), -1e30, tl.float32)
    total = tl.zeros((SPAN,), tl.float32)
    for start in range(0, V, SPAN):
        inside = start + column < V
        values = tl.load(logits + row * V + start + column, mask=inside, other=0.0)
        values = tl.where(inside, _bounded(values.to(tl.float32), cap), -1e30)
        higher = tl.maximum(best, values)
        total = total * tl.exp(best - higher) + tl.where(inside, tl.exp(values - higher), 0.0)
        best = higher
    highest = tl.max(best, axis=0)
    tl.store(norms + row, highest + tl.log(tl.sum(total * tl.exp(best - highest), axis=0)))


@triton.jit
def _highest_kernel(
    logits, norms, frames, highest, cap, T: tl.constexpr, V: tl.constexpr, TOKENS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = column < V
    best = tl.full((TOKENS,), float("-inf"), tl.float32)
    for frame in range(0, tl.load(frames + row).to(tl.int32)):
        place = row * T + frame
        values = tl.load(logits + place * V + column, mask=inside, other=0.0)
        best = tl.maximum(best, _bounded(values.to(tl.float32), cap) - tl.load(norms + place))
    tl.store(highest + row * V + column, best, mask=inside)
