"""Expected embeddings over the most probable tokens, as Triton kernels.

Among neighbours of each other, those k groups whose highest logits are the highest hold the k
highest logits: only they are looked through.
"""

import torch
import triton
import triton.language as tl

# Logits that a warp holds.
ELEMENTS_PER_WARP = 1024
# The most probable tokens are looked for among so many neighbours of each other first.
NEIGHBOURS = 64
MAX_TOP = 256
# Columns of embeddings that one program adds up, and embeddings that it loads together.
COLUMNS = 512
AT_ONCE = 8


def embed_top(logits, softcap, temperature, neighbours, embeddings, top, soft):
    """Expected embeddings over the most probable tokens of each row.

    Arguments
    ---------
    logits : torch.Tensor [N, V]
        Without a softcap.
    softcap : float
        Bound of the logits; None for none.
    temperature : torch.Tensor [N]
    neighbours : torch.Tensor [N, ceil(V / NEIGHBOURS)]
        The highest logit of each group of neighbours.
    embeddings : torch.Tensor [V, D]
    top : int
        Number of tokens, less than V and at most `MAX_TOP`.
    soft : torch.Tensor [N, D]
        Is filled.
    """
    count, size = logits.shape
    bits = 8 * logits.element_size()
    keep = min(top, neighbours.shape[1])
    kept = neighbours.new_empty(count, keep, dtype=torch.int32)
    tokens = neighbours.new_empty(count, top, dtype=torch.int32)
    weights = neighbours.new_empty(count, top, dtype=torch.float32)
    _keep_kernel[(count,)](
        neighbours,
        kept,
        COUNT=neighbours.shape[1],
        PADDED=triton.next_power_of_2(neighbours.shape[1]),
        KEEP=keep,
        BITS=bits,
    )
    padded = triton.next_power_of_2(keep)
    _top_kernel[(count,)](
        logits,
        softcap,
        temperature,
        kept,
        tokens,
        weights,
        V=size,
        KEEP=keep,
        PADDED=padded,
        NEIGHBOURS=NEIGHBOURS,
        TOP=top,
        BITS=bits,
        num_warps=min(16, max(4, padded * NEIGHBOURS // ELEMENTS_PER_WARP)),
    )
    width = embeddings.shape[1]
    columns = min(COLUMNS, triton.next_power_of_2(width))
    _embed_kernel[(count, triton.cdiv(width, columns))](
        tokens, weights, embeddings, soft, D=width, TOP=top, AT_ONCE=AT_ONCE, COLUMNS=columns
    )


@triton.jit
def difference(logits, other, softcap, temperature):
    """How much larger logits are than another, both with the softcap, over the temperature.

    It is 0 of equal logits. To subtract quotients of the temperature would not do: the compiler
    fuses the division with the subtraction, and then rounds one quotient only.
    """
    if softcap is None:
        return (logits - other) / temperature
    else:
        # tanh(x) = 1 - 2 / (1 + exp(2 x))
        share = 1 / (1 + tl.exp(other * (2 / softcap)))
        return (share - 1 / (1 + tl.exp(logits * (2 / softcap)))) * (2 * softcap / temperature)


@triton.jit
def _choose(values, COUNT: tl.constexpr, BITS: tl.constexpr):
    """Which are the `COUNT` highest of values of so many bits, the first of equal ones."""
    keys = values.to(tl.float32).to(tl.uint32, bitcast=True)
    # Floats as unsigned integers of the same order.
    keys = tl.where(keys >= 0x80000000, keys ^ 0xFFFFFFFF, keys | 0x80000000) >> (32 - BITS)
    least = tl.sum(keys * 0, axis=0)
    for i in tl.static_range(BITS):
        higher = least | (1 << (BITS - 1 - i))
        least = tl.where(tl.sum((keys >= higher).to(tl.int32), axis=0) >= COUNT, higher, least)
    above = keys > least
    equal = keys == least
    room = COUNT - tl.sum(above.to(tl.int32), axis=0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= room))


@triton.jit
def _keep_kernel(
    neighbours,
    kept,
    COUNT: tl.constexpr,
    PADDED: tl.constexpr,
    KEEP: tl.constexpr,
    BITS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, PADDED)
    at = neighbours + row * COUNT + number
    chosen = _choose(tl.load(at, mask=number < COUNT, other=float("-inf")), KEEP, BITS)
    place = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    tl.store(kept + row * KEEP + place, number, mask=chosen)


@triton.jit
def _top_kernel(
    logits,
    softcap,
    temperature,
    kept,
    tokens,
    weights,
    V: tl.constexpr,
    KEEP: tl.constexpr,
    PADDED: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    TOP: tl.constexpr,
    BITS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    candidate = tl.arange(0, PADDED * NEIGHBOURS)
    real = candidate // NEIGHBOURS < KEEP
    number = tl.load(kept + row * KEEP + candidate // NEIGHBOURS, mask=real, other=0)
    column = number * NEIGHBOURS + candidate % NEIGHBOURS
    values = tl.load(logits + row * V + column, mask=real & (column < V), other=float("-inf"))
    chosen = _choose(values, TOP, BITS)
    divisor = tl.load(temperature + row)
    values = values.to(tl.float32)
    best = tl.max(values, axis=0)
    weight = tl.where(chosen, tl.exp(difference(values, best, softcap, divisor)), 0.0)
    place = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    tl.store(tokens + row * TOP + place, column, mask=chosen)
    tl.store(weights + row * TOP + place, weight / tl.sum(weight, axis=0), mask=chosen)


@triton.jit
def _embed_kernel(
    tokens,
    weights,
    embeddings,
    soft,
    D: tl.constexpr,
    TOP: tl.constexpr,
    AT_ONCE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = column < D
    total = tl.zeros([AT_ONCE, COLUMNS], tl.float32)
    for start in range(0, TOP, AT_ONCE):
        i = start + tl.arange(0, AT_ONCE)[:, None]
        weight = tl.load(weights + row * TOP + i, mask=i < TOP, other=0.0)
        token = tl.load(tokens + row * TOP + i, mask=i < TOP, other=0).to(tl.int64)
        vector = tl.load(embeddings + token * D + column, mask=(i < TOP) & inside, other=0.0)
        total += weight * vector.to(tl.float32)
    total = tl.sum(total, axis=0, keep_dims=True)
    tl.store(soft + row * D + column, total, mask=inside)
