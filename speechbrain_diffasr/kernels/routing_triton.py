"""The routing of `experts` as Triton kernels: who goes to which expert, and in which order.

Pairs of a token and one of its experts are sorted by expert. A tile is so many pairs of one expert
or fewer; how many tiles there are at most follows from the shapes alone.
"""

import torch
import triton
import triton.language as tl

# Pairs that a plan looks at together, scores that one program of `route` holds.
CHUNK = 2048
SCORES = 512


def route(scores, per_expert_scale, k):
    """`experts.route` on the device."""
    scores = scores.contiguous()
    count, num_experts = scores.shape
    weights = scores.new_empty(count, k, dtype=torch.float32)
    index = scores.new_empty(count, k, dtype=torch.int32)
    width = triton.next_power_of_2(num_experts)
    rows = max(1, SCORES // width)
    _route_kernel[(triton.cdiv(count, rows),)](
        scores,
        per_expert_scale,
        weights,
        index,
        count,
        E=num_experts,
        K=k,
        ROWS=rows,
        EXPERTS=width,
        PLACES=triton.next_power_of_2(k),
    )
    return weights, index


def plan_tiles(index, num_experts, tokens=128):
    """Sorts pairs of a token and one of its experts by expert, and cuts them into tiles.

    Arguments
    ---------
    index : torch.Tensor [N, K]
        int32, the experts of each token.
    num_experts : int
        E.
    tokens : int
        Pairs of a tile, at most. Default: 128.

    Returns
    -------
    pairs : torch.Tensor [N K]
        int32, n K + k in order of the experts.
    ends : torch.Tensor [E]
        int32, where each expert's pairs end.
    plan : torch.Tensor [3, T]
        int32: of each tile its expert, -1 if there is no such tile, its first pair, and the end of
        its expert's pairs.
    """
    count = index.numel()
    # Every tile but an expert's last is full.
    num_tiles = min(count, count // tokens + num_experts)
    pairs = index.new_empty(count)
    ends = index.new_empty(num_experts)
    plan = index.new_empty(3, num_tiles)
    _plan_kernel[(num_experts,)](
        index.contiguous(),
        pairs,
        ends,
        plan,
        count,
        num_tiles,
        E=num_experts,
        TOKENS=tokens,
        EXPERTS=triton.next_power_of_2(num_experts),
        CHUNK=CHUNK,
        num_warps=8,
    )
    return pairs, ends, plan


@triton.jit(do_not_specialize=["count"])
def _route_kernel(
    scores,
    per_expert_scale,
    weights,
    index,
    count,
    E: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,
    PLACES: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = row < count
    experts = tl.arange(0, EXPERTS)[None, :]
    at = scores + row * E + experts
    left = tl.load(at, mask=inside & (experts < E), other=float("-inf")).to(tl.float32)
    places = tl.arange(0, PLACES)[None, :]
    best = tl.full([ROWS, PLACES], float("-inf"), tl.float32)
    chosen = tl.zeros([ROWS, PLACES], tl.int32)
    for k in tl.static_range(K):
        value, expert = tl.max(left, axis=1, return_indices=True, keep_dims=True)
        best = tl.where(places == k, value, best)
        chosen = tl.where(places == k, expert, chosen)
        left = tl.where(experts == expert, float("-inf"), left)
    share = tl.exp(best - tl.max(best, axis=1, keep_dims=True))
    share /= tl.sum(share, axis=1, keep_dims=True)
    scale = tl.load(per_expert_scale + chosen).to(tl.float32)
    inside &= places < K
    tl.store(weights + row * K + places, share * scale, mask=inside)
    tl.store(index + row * K + places, chosen, mask=inside)


@triton.jit(do_not_specialize=["count", "num_tiles"])
def _plan_kernel(
    index,
    pairs,
    ends,
    plan,
    count,
    num_tiles,
    E: tl.constexpr,
    TOKENS: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    # Each program counts all experts for itself: that takes less time than another launch.
    expert = tl.program_id(0)
    numbers = tl.arange(0, EXPERTS)
    counts = tl.zeros([EXPERTS], tl.int32)
    for start in range(0, count, CHUNK):
        pair = start + tl.arange(0, CHUNK)
        chosen = tl.load(index + pair, mask=pair < count, other=0)
        counts += tl.histogram(chosen, EXPERTS, mask=pair < count)
    before = tl.sum(tl.where(numbers < expert, counts, 0), axis=0)
    end = before + tl.sum(tl.where(numbers == expert, counts, 0), axis=0)
    tl.store(ends + expert, end)

    place = before
    for start in range(0, count, CHUNK):
        pair = start + tl.arange(0, CHUNK)
        mine = (tl.load(index + pair, mask=pair < count, other=-1) == expert).to(tl.int32)
        tl.store(pairs + place - 1 + tl.cumsum(mine, axis=0), pair, mask=mine > 0)
        place += tl.sum(mine, axis=0)

    tiles = (counts + TOKENS - 1) // TOKENS
    first = tl.sum(tl.where(numbers < expert, tiles, 0), axis=0)
    own = tl.cdiv(end - before, TOKENS)
    for start in range(0, own, EXPERTS):
        tile = start + numbers
        mask = tile < own
        at = plan + first + tile
        tl.store(at, tl.zeros_like(tile) + expert, mask=mask)
        tl.store(at + num_tiles, before + tile * TOKENS, mask=mask)
        tl.store(at + 2 * num_tiles, tl.zeros_like(tile) + end, mask=mask)
    if expert == E - 1:
        for start in range(first + own, num_tiles, EXPERTS):
            tile = start + numbers
            tl.store(plan + tile, tl.zeros_like(tile) - 1, mask=tile < num_tiles)
