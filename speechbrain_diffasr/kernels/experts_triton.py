"""The products of `experts` as Triton kernels.

Each program multiplies a tile of tokens of one expert; programs of tiles that do not exist leave at
once. Weights stand on the left of the products, where the tensor cores ask for 64 rows, so that
tiles of 16 tokens waste nothing.
"""

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from speechbrain_diffasr.kernels.routing_triton import plan_tiles

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
    if weight.dtype == tl.float8e4nv and dtype == tl.bfloat16 and not INTERPRETED:
        # The device's own conversion, through float16, takes longer than loading. With the bits of
        # exponent and mantissa where bfloat16 has them a value is 2**-120 of itself.
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
