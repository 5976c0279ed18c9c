"""`align_positions` as one kernel: an utterance is a program, which walks over its frames."""

import torch
import triton
import triton.language as tl


def align_positions(emitted, held, blank, lengths, frames):
    """See `speechbrain_diffasr.kernels.alignment.align_positions`."""
    batch, count, width = emitted.shape
    begins = torch.zeros_like(emitted)
    # Of each frame: paths that end in a position before it, and in the blank behind it.
    history = emitted.new_empty(2, batch, count, width)
    firsts = emitted.new_empty(batch, count)
    padded = triton.next_power_of_2(width)
    _align_kernel[(batch,)](
        emitted.contiguous(),
        held.contiguous(),
        blank.contiguous(),
        lengths.contiguous(),
        frames,
        history[0],
        history[1],
        firsts,
        begins,
        T=count,
        C=width,
        PADDED=padded,
        num_warps=4 if padded > 64 else 1,
    )
    return begins


@triton.jit
def _align_kernel(
    emitted,
    held,
    blank,
    lengths,
    frames,
    history_heard,
    history_behind,
    firsts,
    begins,
    T: tl.constexpr,
    C: tl.constexpr,
    PADDED: tl.constexpr,
):
    TINY: tl.constexpr = 1e-30
    row = tl.program_id(0).to(tl.int64)
    position = tl.arange(0, PADDED)
    inside = position < C
    one_before = tl.maximum(position - 1, 0)
    one_behind = tl.minimum(position + 1, PADDED - 1)
    count = tl.load(frames + row).to(tl.int32)

    heard = tl.zeros((PADDED,), tl.float32)
    behind = tl.zeros((PADDED,), tl.float32)
    before = tl.sum(tl.where(position == 0, 1.0, 0.0), axis=0)
    for frame in range(0, count):
        place = (row * T + frame) * C + position
        tl.store(history_heard + place, heard, mask=inside)
        tl.store(history_behind + place, behind, mask=inside)
        tl.store(firsts + row * T + frame, before)
        silence = tl.load(blank + row * T + frame)
        start = tl.load(emitted + place, mask=inside, other=0.0)
        stay = tl.load(held + place, mask=inside, other=0.0)
        sums = heard + behind
        entering = tl.where(position == 0, before, tl.gather(sums, one_before, 0))
        heard_now = start * entering + stay * heard
        total = tl.sum(heard_now + silence * sums, axis=0) + silence * before
        scale = 1 / tl.maximum(total, TINY)
        heard = heard_now * scale
        behind = silence * sums * scale
        before = silence * before * scale

    to_come = tl.load(lengths + row * (C + 1) + 1 + position, mask=inside, other=0.0)
    after = to_come
    at_first = tl.load(lengths + row * (C + 1))
    for step in range(0, count):
        frame = count - 1 - step
        place = (row * T + frame) * C + position
        heard = tl.load(history_heard + place, mask=inside, other=0.0)
        behind = tl.load(history_behind + place, mask=inside, other=0.0)
        before = tl.load(firsts + row * T + frame)
        silence = tl.load(blank + row * T + frame)
        start = tl.load(emitted + place, mask=inside, other=0.0)
        stay = tl.load(held + place, mask=inside, other=0.0)
        sums = heard + behind
        begun = start * to_come
        entering = tl.where(position == 0, before, tl.gather(sums, one_before, 0))
        entered = entering * begun
        kept = stay * to_come
        total = tl.sum(entered + heard * kept + silence * sums * after, axis=0)
        total += silence * before * at_first
        tl.store(begins + place, entered / tl.maximum(total, TINY), mask=inside)
        next_begun = tl.where(position + 1 < C, tl.gather(begun, one_behind, 0), 0.0)
        after_now = silence * after + next_begun
        at_first_now = silence * at_first + tl.sum(tl.where(position == 0, begun, 0.0), axis=0)
        to_come_now = after_now + kept
        highest = tl.maximum(tl.max(to_come_now, axis=0), at_first_now)
        scale = 1 / tl.maximum(highest, TINY)
        to_come = to_come_now * scale
        after = after_now * scale
        at_first = at_first_now * scale
