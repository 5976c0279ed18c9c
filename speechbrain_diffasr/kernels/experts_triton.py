"""Triton kernels for a mixture of experts: routing, tiles, products."""

import os
from dataclasses import dataclass

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
        counts += tl.histogram(chosen, EXPERTS)
    # What stands after the last pair was read as expert 0: the histogram of torch 2.7's Triton has
    # no mask.
    counts -= tl.where(numbers == 0, tl.cdiv(count, CHUNK) * CHUNK - count, 0)
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


# Triton's interpreter cannot run assembly.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@dataclass(frozen=True)
class Product:
    """How one of the two products is cut into programs.

    Arguments
    ---------
    rows : int
        Rows of weights; of the first product, so many of gate and so many of up.
    depth : int
        Columns of weights that are loaded together.
    stages : int
        Loads under way.
    warps : int
    """

    rows: int
    depth: int
    stages: int
    warps: int


@dataclass(frozen=True)
class Tiles:
    """How both products are cut into programs.

    Arguments
    ---------
    tokens : int
        Tokens of one expert that one program takes, at most.
    gate_up : Product
        The first product.
    down : Product
        The second one.
    """

    tokens: int
    gate_up: Product
    down: Product


# Up to a mean number of tokens for each expert, how the products are cut; by type of weights, or
# of inputs if those are float32. Few tokens: weights have to stream in, with many loads under way.
# Many: large products.
TILES = {
    torch.bfloat16: [
        (16, Tiles(16, Product(64, 128, 3, 4), Product(128, 64, 4, 4))),
        (24, Tiles(32, Product(64, 64, 5, 4), Product(64, 64, 6, 4))),
        (48, Tiles(64, Product(128, 64, 4, 8), Product(128, 64, 4, 8))),
        (96, Tiles(64, Product(64, 64, 4, 4), Product(128, 64, 4, 4))),
        (None, Tiles(128, Product(128, 64, 4, 8), Product(256, 64, 4, 8))),
    ],
    torch.float8_e4m3fn: [
        (24, Tiles(16, Product(64, 128, 4, 4), Product(128, 64, 5, 4))),
        (96, Tiles(64, Product(64, 64, 4, 4), Product(128, 64, 4, 4))),
        (None, Tiles(128, Product(128, 64, 4, 8), Product(128, 64, 4, 8))),
    ],
    torch.float32: [
        (64, Tiles(16, Product(32, 32, 3, 4), Product(64, 32, 3, 4))),
        (None, Tiles(64, Product(32, 32, 3, 4), Product(64, 32, 3, 4))),
    ],
}


def run_experts(x, gate_up, down, index, weights, gate_up_scale=None, down_scale=None, tiles=None):
    """`experts.run_experts` on the device, cut into `tiles` or as `TILES` says."""
    num_experts, size, width = down.shape
    mean = index.numel() / num_experts
    if tiles is None:
        table = TILES[torch.float32 if x.dtype == torch.float32 else gate_up.dtype]
        tiles = next(tiles for limit, tiles in table if limit is None or mean <= limit)
    x, gate_up, down = x.contiguous(), gate_up.contiguous(), down.contiguous()
    pairs, _, plan = plan_tiles(index, num_experts, tiles.tokens)
    gated = x.new_empty(len(pairs), width)
    outputs = x.new_empty(*index.shape, size)
    count = plan.shape[1]
    first, second = tiles.gate_up, tiles.down
    _gate_up_kernel[(triton.cdiv(width, first.rows), count)](
        x,
        gate_up,
        gate_up_scale,
        pairs,
        plan,
        gated,
        count,
        D=size,
        F=width,
        K=index.shape[1],
        TOKENS=tiles.tokens,
        ROWS=first.rows,
        DEPTH=first.depth,
        num_stages=first.stages,
        num_warps=first.warps,
    )
    _down_kernel[(triton.cdiv(size, second.rows), count)](
        gated,
        down,
        down_scale,
        weights,
        pairs,
        plan,
        outputs,
        count,
        D=size,
        F=width,
        TOKENS=tiles.tokens,
        ROWS=second.rows,
        DEPTH=second.depth,
        num_stages=second.stages,
        num_warps=second.warps,
    )
    return outputs


@triton.jit
def _load(pointers, columns, size: tl.constexpr, depth: tl.constexpr, inside):
    """Loads rows of a matrix; without a mask wherever there need be none."""
    if size % depth != 0:
        if inside is None:
            return tl.load(pointers, mask=columns < size, other=0.0)
        else:
            return tl.load(pointers, mask=inside & (columns < size), other=0.0)
    elif inside is None:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def _widen(weight, dtype: tl.constexpr):
    # One condition in another: the Triton of torch 2.7 cannot join them.
    if INTERPRETED:
        return weight.to(dtype)
    elif weight.dtype == tl.float8e4nv:
        if dtype == tl.bfloat16:
            # The device's own conversion, through float16, takes longer than loading. With the bits
            # of exponent and mantissa where bfloat16 has them a value is 2**-120 of itself.
            return tl.inline_asm_elementwise(
                """
                {
                .reg .b32 bits, sign, scale;
                mov.b32 scale, 0x7b807b80;
                prmt.b32 bits, $1, 0, 0x1404;
                and.b32 sign, bits, 0x80008000;
                shr.u32 bits, bits, 4;
                and.b32 bits, bits, 0x07f007f0;
                or.b32 bits, bits, sign;
                mul.rn.bf16x2 $0, bits, scale;
                }
                """,
                "=r,r",
                [weight.to(tl.int8, bitcast=True)],
                dtype=tl.bfloat16,
                is_pure=True,
                pack=2,
            )
        else:
            return weight.to(dtype)
    else:
        return weight.to(dtype)


@triton.jit(do_not_specialize=["num_tiles"])
def _gate_up_kernel(
    x,
    gate_up,
    scale,
    pairs,
    plan,
    gated,
    num_tiles,
    D: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tile = tl.program_id(1)
    expert = tl.load(plan + tile).to(tl.int64)
    if expert < 0:
        return
    place = tl.load(plan + num_tiles + tile) + tl.arange(0, TOKENS)
    inside = place < tl.load(plan + 2 * num_tiles + tile)
    token = tl.load(pairs + place, mask=inside, other=0) // K
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # What is computed for rows beyond the last is not stored.
    row_read = tl.minimum(row, F - 1) if F % ROWS != 0 else row
    column = tl.arange(0, DEPTH)
    x_at = x + token.to(tl.int64)[:, None] * D + column[None, :]
    gate_at = gate_up + expert * (2 * F * D) + row_read[:, None] * D + column[None, :]
    up_at = gate_at + F * D
    gate = tl.zeros([ROWS, TOKENS], tl.float32)
    up = tl.zeros([ROWS, TOKENS], tl.float32)
    for start in range(0, D, DEPTH):
        columns = start + column[None, :]
        # Weights first: where the inputs lie has to be loaded too.
        gate_weight = _load(gate_at + start, columns, D, DEPTH, None)
        up_weight = _load(up_at + start, columns, D, DEPTH, None)
        inputs = tl.trans(_load(x_at + start, columns, D, DEPTH, inside[:, None]))
        gate_weight = _widen(gate_weight, inputs.dtype)
        gate = tl.dot(gate_weight, inputs, gate, input_precision="ieee")
        up_weight = _widen(up_weight, inputs.dtype)
        up = tl.dot(up_weight, inputs, up, input_precision="ieee")
    if scale is not None:
        gate *= tl.load(scale + expert * 2 * F + row_read)[:, None]
        up *= tl.load(scale + expert * 2 * F + F + row_read)[:, None]
    dtype = gated.dtype.element_ty
    gate = gate.to(dtype).to(tl.float32)
    # (1 + tanh(u)) / 2 = sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3)
    active = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    values = active.to(dtype).to(tl.float32) * up.to(dtype).to(tl.float32)
    at = gated + place.to(tl.int64)[:, None] * F + row[None, :]
    mask = inside[:, None] & (row < F)[None, :] if F % ROWS != 0 else inside[:, None]
    tl.store(at, tl.trans(values.to(dtype)), mask=mask)


@triton.jit(do_not_specialize=["num_tiles"])
def _down_kernel(
    gated,
    down,
    scale,
    weights,
    pairs,
    plan,
    outputs,
    num_tiles,
    D: tl.constexpr,
    F: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tile = tl.program_id(1)
    expert = tl.load(plan + tile).to(tl.int64)
    if expert < 0:
        return
    place = tl.load(plan + num_tiles + tile) + tl.arange(0, TOKENS)
    inside = place < tl.load(plan + 2 * num_tiles + tile)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_read = tl.minimum(row, D - 1) if D % ROWS != 0 else row
    column = tl.arange(0, DEPTH)
    gated_at = gated + place.to(tl.int64)[:, None] * F + column[None, :]
    down_at = down + expert * (D * F) + row_read[:, None] * F + column[None, :]
    output = tl.zeros([ROWS, TOKENS], tl.float32)
    for start in range(0, F, DEPTH):
        columns = start + column[None, :]
        weight = _load(down_at + start, columns, F, DEPTH, None)
        inputs = tl.trans(_load(gated_at + start, columns, F, DEPTH, inside[:, None]))
        output = tl.dot(_widen(weight, inputs.dtype), inputs, output, input_precision="ieee")
    if scale is not None:
        output *= tl.load(scale + expert * D + row_read)[:, None]
    pair = tl.load(pairs + place, mask=inside, other=0)
    weight_of_pair = tl.load(weights + pair, mask=inside, other=0.0)
    dtype = outputs.dtype.element_ty
    output = output.to(dtype).to(tl.float32) * weight_of_pair[None, :]
    at = outputs + pair.to(tl.int64)[:, None] * D + row[None, :]
    mask = inside[:, None] & (row < D)[None, :] if D % ROWS != 0 else inside[:, None]
    tl.store(at, tl.trans(output.to(dtype)), mask=mask)
