"""Grouped attention over buffers of keys and values as one Triton kernel.

Softmax runs online over blocks of keys in float32, as in FlashAttention
(https://arxiv.org/abs/2205.14135). The query heads that share a key head share a tile of queries,
so that each block of keys is read once for all of them.
"""

import torch
import triton
import triton.language as tl

# tl.dot takes no smaller tiles.
MIN_BLOCK = 16
# Streaming multiprocessors of an H200: with fewer programs some of them idle.
NUM_PROCESSORS = 132
# BLOCK_M, BLOCK_N, num_warps and num_stages, by the largest BLOCK_D that they are for. The sums
# [BLOCK_M, BLOCK_D] lie in registers, the queries and num_stages blocks of keys and of values in
# shared memory: compiled for sm_90 at the model's sizes, at most 24 bytes spill and
# 192 of 227 KiB are taken.
LARGE_BLOCK_M = 128
BLOCKS_FEW = {128: (64, 64, 4, 3), 256: (64, 32, 4, 3), 512: (64, 32, 8, 2)}
BLOCKS_MANY = {
    128: (LARGE_BLOCK_M, 64, 8, 3),
    256: (LARGE_BLOCK_M, 64, 8, 2),
    512: (64, 32, 8, 2),
}
# Products in float32 do without the tensor cores, and keep their operands in registers.
BLOCKS_FLOAT32 = {128: (32, 32, 4, 2), 512: (16, 32, 8, 1)}
LOG2_E = tl.constexpr(1.4426950408889634)


def attend(q, keys, values, rows, prompt_lengths, first, canvas_lengths):
    """`attention.attend` on the device."""
    return _launch(q, keys, values, rows, prompt_lengths, canvas_lengths, first, causal=False)


def attend_causal(q, keys, values, rows, start):
    """`attention.attend_causal` on the device."""
    return _launch(q, keys, values, rows, None, None, start, causal=True)


def _launch(q, keys, values, rows, prompt_lengths, canvas_lengths, first, causal):
    q = q.contiguous()
    batch, length, num_heads, size = q.shape
    num_kv_heads = keys.shape[1]
    if keys.stride() != values.stride() or keys.stride(3) != 1:
        raise ValueError("keys, values: the buffers differ in strides, or heads are not contiguous")
    group = num_heads // num_kv_heads
    attended = torch.empty_like(q)
    options = blocks(q.dtype, size, length * group, num_kv_heads * batch)
    grid = (triton.cdiv(length * group, options["BLOCK_M"]), num_kv_heads, batch)
    _attend_kernel[grid](
        q,
        keys,
        values,
        rows,
        prompt_lengths,
        canvas_lengths,
        attended,
        first,
        length,
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        KV=num_kv_heads,
        G=group,
        D=size,
        CAUSAL=causal,
        **options,
    )
    return attended


def blocks(dtype, size, num_queries, num_key_heads):
    """Chooses the tiles of the kernel, so that they fit registers and shared memory of sm_90.

    Arguments
    ---------
    dtype : torch.dtype
        Of queries, keys and values.
    size : int
        Width of a head, d.
    num_queries : int
        That one key head serves: S H / KV.
    num_key_heads : int
        Of all utterances: B KV.

    Returns
    -------
    options : dict
        Keyword arguments of the kernel: BLOCK_M queries, BLOCK_N keys, BLOCK_D (the width of a head
        rounded up), num_warps and num_stages.

    Raises
    ------
    ValueError
        If heads are too wide.

    Example
    -------
    >>> blocks(torch.bfloat16, 256, num_queries=128, num_key_heads=8)["BLOCK_D"]
    256
    """
    block_d = max(MIN_BLOCK, triton.next_power_of_2(size))
    num_programs = num_key_heads * triton.cdiv(num_queries, LARGE_BLOCK_M)
    if dtype == torch.float32:
        table = BLOCKS_FLOAT32
    elif num_queries > LARGE_BLOCK_M // 2 and num_programs >= NUM_PROCESSORS:
        table = BLOCKS_MANY
    else:
        table = BLOCKS_FEW
    fitting = [width for width in table if width >= block_d]
    if not fitting:
        raise ValueError(f"q: heads of width {size}; the kernel takes at most {max(table)}")
    names = "BLOCK_M", "BLOCK_N", "num_warps", "num_stages"
    return {"BLOCK_D": block_d, **dict(zip(names, table[min(fitting)], strict=True))}


@triton.jit(do_not_specialize=["first", "length"])
def _attend_kernel(
    q,
    keys,
    values,
    rows,
    prompt_lengths,
    canvas_lengths,
    attended,
    first,
    length,
    row_stride,
    head_stride,
    position_stride,
    KV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    head = tl.program_id(1)
    utterance = tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    token = query // G
    columns = tl.arange(0, BLOCK_D)
    # Rows of [B, S, H, d], in which the G heads of a key head are neighbours.
    places = ((utterance * length + token) * KV + head) * G + query % G
    places = places[:, None] * D + columns[None, :]
    inside = (token < length)[:, None] & (columns < D)[None, :]
    queries = tl.load(q + places, mask=inside, other=0.0)

    start = tl.load(rows + utterance).to(tl.int64) * row_stride + head * head_stride
    keys += start
    values += start
    if CAUSAL:
        # Of the last query of this tile, which sees most.
        last = tl.minimum((tl.program_id(0) * BLOCK_M + BLOCK_M - 1) // G, length - 1)
        prompt_end = first + last + 1
        canvas_end = 0
        num_prompt_blocks = tl.cdiv(prompt_end, BLOCK_N)
        num_blocks = num_prompt_blocks
    else:
        prompt_end = tl.load(prompt_lengths + utterance).to(tl.int32)
        canvas_end = first + tl.load(canvas_lengths + utterance).to(tl.int32)
        num_prompt_blocks = tl.cdiv(prompt_end, BLOCK_N)
        num_blocks = num_prompt_blocks + tl.cdiv(canvas_end - first, BLOCK_N)

    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for block in range(num_blocks):
        # Blocks between the end of the prompt and the canvas are never read.
        in_prompt = block < num_prompt_blocks
        begin = tl.where(in_prompt, block * BLOCK_N, first + (block - num_prompt_blocks) * BLOCK_N)
        end = tl.where(in_prompt, prompt_end, canvas_end)
        position = begin + tl.arange(0, BLOCK_N)
        offsets = position[:, None] * position_stride + columns[None, :]
        stored = (position < end)[:, None] & (columns < D)[None, :]
        key = tl.load(keys + offsets, mask=stored, other=0.0)
        score = tl.dot(queries, key.T, input_precision="ieee") * LOG2_E
        if CAUSAL:
            visible = position[None, :] <= (first + token)[:, None]
        else:
            visible = (position < end)[None, :]
        score = tl.where(visible, score, float("-inf"))
        larger = tl.maximum(largest, tl.max(score, axis=1))
        correction = tl.exp2(largest - larger)
        weight = tl.exp2(score - larger[:, None])
        total = total * correction + tl.sum(weight, axis=1)
        value = tl.load(values + offsets, mask=stored, other=0.0)
        weighted = weighted * correction[:, None]
        weighted = tl.dot(weight.to(value.dtype), value, weighted, input_precision="ieee")
        largest = larger
    # The sum of a query that sees nothing is 0, and so is what it gets.
    weighted = weighted / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(attended + places, weighted, mask=inside)
