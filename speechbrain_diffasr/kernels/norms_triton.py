"""The functions of `norms` as Triton kernels: one launch each, one program for each row."""

import torch
import triton
import triton.language as tl

from speechbrain_diffasr.kernels.common import MAX_NEXT_WEIGHTS

# Elements that one thread takes of a row: 32 bytes of bfloat16, two loads of full width.
ELEMENTS_PER_THREAD = 16
THREADS_PER_WARP = 32
MAX_WARPS = 8
# Columns of gated_gelu, and elements of split_heads, that one program takes.
TILE = 1024


def norm(x, weight, eps):
    """`norms.norm` on the device."""
    x = x.contiguous()
    normed = torch.empty_like(x)
    _norm_kernel[(x.shape[0],)](x, weight, normed, eps, **_row(x.shape[1]))
    return normed


def add_norm(x, residual, weight, next_weights, eps):
    """`norms.add_norm` on the device."""
    x, residual = x.contiguous(), residual.contiguous()
    y = torch.empty_like(x)
    normed = [torch.empty_like(x) for _ in next_weights]
    missing = [None] * (MAX_NEXT_WEIGHTS - len(normed))
    _add_norm_kernel[(x.shape[0],)](
        x, residual, weight, y, *next_weights, *missing, *normed, *missing, eps, **_row(x.shape[1])
    )
    return y, normed


def combine_norm(
    dense,
    expert_rows,
    residual,
    dense_weight,
    expert_weight,
    weight,
    scalar,
    next_weight,
    eps,
):
    """`norms.combine_norm` on the device."""
    dense, expert_rows, residual = (x.contiguous() for x in (dense, expert_rows, residual))
    y, normed = torch.empty_like(dense), torch.empty_like(dense)
    _combine_norm_kernel[(dense.shape[0],)](
        dense,
        expert_rows,
        residual,
        dense_weight,
        expert_weight,
        weight,
        scalar,
        next_weight,
        y,
        normed,
        eps,
        K=expert_rows.shape[1],
        **_row(dense.shape[1]),
    )
    return y, normed


def gated_gelu(x):
    """`norms.gated_gelu` on the device."""
    x = x.contiguous()
    count, size = x.shape[0], x.shape[1] // 2
    gated = x.new_empty(count, size)
    block = min(TILE, triton.next_power_of_2(size))
    grid = (count, triton.cdiv(size, block))
    _gated_gelu_kernel[grid](x, gated, F=size, BLOCK=block, num_warps=_warps(block))
    return gated


def split_heads(qkv, q_weight, k_weight, cos, sin, keys, values, rows, start, num_heads, eps):
    """`norms.split_heads` on the device."""
    qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
    batch, length, width = qkv.shape
    num_kv_heads, size = keys.shape[1], keys.shape[3]
    if keys.stride() != values.stride() or keys.stride(3) != 1:
        raise ValueError("keys, values: the buffers differ in strides, or heads are not contiguous")
    tile = _heads_per_program(num_heads, num_kv_heads, size)
    q = qkv.new_empty(batch, length, num_heads, size)
    grid = (batch * length, width // size // tile)
    half = triton.next_power_of_2(size // 2)
    _split_heads_kernel[grid](
        qkv,
        q_weight,
        k_weight,
        cos,
        sin,
        keys,
        values,
        rows,
        q,
        start,
        length,
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        eps,
        D=size,
        H=num_heads,
        KV=num_kv_heads,
        HAS_V=width == (num_heads + 2 * num_kv_heads) * size,
        HEADS=tile,
        HALF=half,
        num_warps=_warps(2 * half * tile),
    )
    return q


def _row(size):
    """Constants of a kernel in which one program takes a row of this size."""
    block = triton.next_power_of_2(size)
    return {"D": size, "BLOCK": block, "num_warps": _warps(block)}


def _warps(elements):
    return min(MAX_WARPS, max(1, elements // (ELEMENTS_PER_THREAD * THREADS_PER_WARP)))


def _heads_per_program(num_heads, num_kv_heads, size):
    """Heads of one kind that one program takes: as many as fill a tile, a power of two."""
    heads = 1
    while 2 * heads * size <= TILE and num_heads % (2 * heads) == num_kv_heads % (2 * heads) == 0:
        heads *= 2
    return heads


@triton.jit
def _load_row(x, row, columns, D: tl.constexpr):
    return tl.load(x + row * D + columns, mask=columns < D, other=0.0).to(tl.float32)


@triton.jit
def _load_weight(weight, columns, D: tl.constexpr):
    if weight is None:
        return 1.0
    else:
        return tl.load(weight + columns, mask=columns < D, other=0.0).to(tl.float32)


@triton.jit
def _normalize(x, eps, D: tl.constexpr):
    return x * tl.rsqrt(tl.sum(x * x, axis=0) / D + eps)


@triton.jit
def _round(x, pointer):
    return x.to(pointer.dtype.element_ty).to(tl.float32)


@triton.jit
def _norm_kernel(x, weight, normed, eps, D: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    scale = _load_weight(weight, columns, D)
    values = _normalize(_load_row(x, row, columns, D), eps, D)
    tl.store(normed + row * D + columns, values * scale, mask=columns < D)


@triton.jit
def _add_norm_kernel(
    x,
    residual,
    weight,
    y,
    next_weight_0,
    next_weight_1,
    next_weight_2,
    normed_0,
    normed_1,
    normed_2,
    eps,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    # All loads first: none of them then waits for a sum over the row.
    values = _load_row(x, row, columns, D)
    before = _load_row(residual, row, columns, D)
    scale = _load_weight(weight, columns, D)
    scale_0 = _load_weight(next_weight_0, columns, D)
    scale_1 = _load_weight(next_weight_1, columns, D)
    scale_2 = _load_weight(next_weight_2, columns, D)

    added = _round(before + _round(_normalize(values, eps, D) * scale, y), y)
    tl.store(y + row * D + columns, added, mask=inside)
    if normed_0 is not None:
        values = _normalize(added, eps, D)
        tl.store(normed_0 + row * D + columns, values * scale_0, mask=inside)
        if normed_1 is not None:
            tl.store(normed_1 + row * D + columns, values * scale_1, mask=inside)
        if normed_2 is not None:
            tl.store(normed_2 + row * D + columns, values * scale_2, mask=inside)


@triton.jit
def _combine_norm_kernel(
    dense,
    expert_rows,
    residual,
    dense_weight,
    expert_weight,
    weight,
    scalar,
    next_weight,
    y,
    normed,
    eps,
    K: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    experts = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(K):
        experts += _load_row(expert_rows, row * K + k, columns, D)
    values = _load_row(dense, row, columns, D)
    before = _load_row(residual, row, columns, D)
    dense_scale = _load_weight(dense_weight, columns, D)
    expert_scale = _load_weight(expert_weight, columns, D)
    scale = _load_weight(weight, columns, D)
    next_scale = _load_weight(next_weight, columns, D)
    layer_scale = tl.load(scalar).to(tl.float32)

    values = _round(_normalize(values, eps, D) * dense_scale, y)
    experts = _round(_normalize(_round(experts, y), eps, D) * expert_scale, y)
    both = _round(values + experts, y)
    added = _round(before + _round(_normalize(both, eps, D) * scale, y), y)
    added = _round(added * layer_scale, y)
    tl.store(y + row * D + columns, added, mask=inside)
    tl.store(normed + row * D + columns, _normalize(added, eps, D) * next_scale, mask=inside)


@triton.jit
def _gated_gelu_kernel(x, gated, F: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < F
    gate = tl.load(x + row * 2 * F + columns, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x + row * 2 * F + F + columns, mask=inside, other=0.0).to(tl.float32)
    # (1 + tanh(u)) / 2 = sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3)
    twice = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    tl.store(
        gated + row * F + columns, _round(gate * tl.sigmoid(twice), gated) * value, mask=inside
    )


@triton.jit
def _norm_rotate(left, right, inverse, weight, cos, sin, columns, D: tl.constexpr):
    """Norms and rotates the two halves of heads [HEADS, HALF]."""
    inside = columns < D // 2
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    left = _round(left * inverse * scale, cos)
    scale = tl.load(weight + D // 2 + columns, mask=inside, other=0.0).to(tl.float32)
    right = _round(right * inverse * scale, cos)
    cos_left = tl.load(cos + columns, mask=inside, other=0.0).to(tl.float32)
    sin_left = tl.load(sin + columns, mask=inside, other=0.0).to(tl.float32)
    cos_right = tl.load(cos + D // 2 + columns, mask=inside, other=0.0).to(tl.float32)
    sin_right = tl.load(sin + D // 2 + columns, mask=inside, other=0.0).to(tl.float32)
    return (
        _round(left * cos_left, cos) - _round(right * sin_left, cos),
        _round(right * cos_right, cos) + _round(left * sin_right, cos),
    )


@triton.jit(do_not_specialize=["start", "length"])
def _split_heads_kernel(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    keys,
    values,
    rows,
    q,
    start,
    length,
    row_stride,
    head_stride,
    position_stride,
    eps,
    D: tl.constexpr,
    H: tl.constexpr,
    KV: tl.constexpr,
    HAS_V: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]  # of the projections
    columns = tl.arange(0, HALF)[None, :]
    inside = columns < D // 2
    heads_of_token = H + 2 * KV if HAS_V else H + KV
    source = qkv + (token * heads_of_token + head) * D + columns
    left = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(source + D // 2, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(left * left + right * right, axis=1, keep_dims=True) / D
    inverse = tl.rsqrt(mean + eps)

    # All heads of a program are of one kind: HEADS divides H and KV.
    first_head = tl.program_id(1) * HEADS
    cos += token * D
    sin += token * D
    if first_head < H:
        left, right = _norm_rotate(left, right, inverse, q_weight, cos, sin, columns, D)
        target = q + (token * H + head) * D + columns
        tl.store(target, left, mask=inside)
        tl.store(target + D // 2, right, mask=inside)
    else:
        row = tl.load(rows + token // length)
        place = row * row_stride + (start + token % length) * position_stride + columns
        if first_head < H + KV:
            if not HAS_V:
                target = values + place + (head - H) * head_stride
                tl.store(target, left * inverse, mask=inside)
                tl.store(target + D // 2, right * inverse, mask=inside)
            left, right = _norm_rotate(left, right, inverse, k_weight, cos, sin, columns, D)
            target = keys + place + (head - H) * head_stride
            tl.store(target, left, mask=inside)
            tl.store(target + D // 2, right, mask=inside)
        else:
            target = values + place + (head - H - KV) * head_stride
            tl.store(target, left * inverse, mask=inside)
            tl.store(target + D // 2, right * inverse, mask=inside)
