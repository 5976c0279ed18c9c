"""Triton kernels that read the vocabulary."""

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from speechbrain_diffasr.kernels.common import LOGITS_BYTES, TILE, Predictions, rows_within

# Logits that a warp holds.
ELEMENTS_PER_WARP = 1024
# The most probable tokens are looked for among so many neighbours of each other first.
NEIGHBOURS = 64
MAX_TOP = 256
# Columns of embeddings that one program adds up, and embeddings that it loads together.
COLUMNS = 512
AT_ONCE = 8


def embed_top(logits, softcap, temperature, neighbours, embeddings, top, soft_embedding):
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
    soft_embedding : torch.Tensor [N, D]
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
        tokens,
        weights,
        embeddings,
        soft_embedding,
        D=width,
        TOP=top,
        AT_ONCE=AT_ONCE,
        COLUMNS=columns,
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
    soft_embedding,
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
    tl.store(soft_embedding + row * D + column, total, mask=inside)


# Tiles that one program reads.
GROUP = 8
# Where logits over temperature are bounded by MAX_BOUND, their exponentials over exp(REFERENCE) are
# normal numbers in float32, and sums of 2**18 of them are finite. Elsewhere the highest of each row
# is looked for first.
MAX_BOUND = tl.constexpr(76.0)
REFERENCE = tl.constexpr(10.0)
# Logits that one program looks for the highest of.
SPAN = 2**14


@torch.no_grad()
def read_vocabulary(
    hidden,
    head,
    softcap,
    temperature,
    uniforms,
    embeddings=None,
    rows_at_once=None,
    top=None,
):
    """`vocabulary.read_vocabulary` on the device.

    Raises
    ------
    ValueError
        If `top` is too large.
    """
    if top is not None and embeddings is not None and top >= len(embeddings):
        top = None
    if top is not None and top > MAX_TOP:
        raise ValueError(f"top: {top}; at most {MAX_TOP} of the most probable tokens, or None")
    count = len(hidden)
    rows = rows_at_once or rows_within(LOGITS_BYTES, head)
    rows = triton.cdiv(count, triton.cdiv(count, rows))  # blocks of about the same size
    predictions = Predictions(
        tokens=torch.empty(count, dtype=torch.long, device=hidden.device),
        log_probs=hidden.new_empty(count, dtype=torch.float32),
        entropy=hidden.new_empty(count, dtype=torch.float32),
        proposals=torch.empty(count, dtype=torch.long, device=hidden.device),
        soft_embedding=None
        if embeddings is None
        else embeddings.new_empty(count, embeddings.shape[1]),
    )
    softcap = None if softcap is None else float(softcap)
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        logits = F.linear(hidden[block], head)
        _read(
            logits,
            softcap,
            temperature[block],
            uniforms[block],
            embeddings,
            top,
            predictions,
            block,
        )
        del logits  # before the next ones are there
    return predictions


def _read(logits, softcap, temperature, uniforms, embeddings, top, predictions, block):
    """Fills rows `block` of `reading` from logits [R, V], which it may overwrite."""
    count, size = logits.shape
    num_tiles = triton.cdiv(size, TILE)
    group = min(GROUP, triton.next_power_of_2(num_tiles))
    temperature, uniforms = temperature.contiguous(), uniforms.contiguous()
    whole = embeddings is not None and top is None
    part = embeddings is not None and top is not None

    def empty(*shape, dtype=torch.float32):
        return logits.new_empty(count, *shape, dtype=dtype)

    highest = None
    if whole:
        highest = empty(triton.cdiv(size, SPAN))
        _highest_kernel[(count * highest.shape[1],)](
            logits, softcap, temperature, highest, V=size, SPANS=highest.shape[1], SPAN=SPAN
        )
    tiles = empty(3, num_tiles)
    places = empty(num_tiles, dtype=torch.int32)
    neighbours = empty(triton.cdiv(size, NEIGHBOURS), dtype=logits.dtype) if part else None
    groups = triton.cdiv(num_tiles, group)
    _tiles_kernel[(count * groups,)](
        logits,
        softcap,
        temperature,
        highest,
        tiles,
        places,
        neighbours,
        V=size,
        TILE=TILE,
        GROUP=group,
        GROUPS=groups,
        SPANS=triton.cdiv(size, SPAN),
        NEIGHBOURS=NEIGHBOURS,
        num_warps=group * TILE // ELEMENTS_PER_WARP,
    )
    factor = empty() if whole else None
    _join_kernel[(count,)](
        logits,
        softcap,
        temperature,
        uniforms,
        tiles,
        places,
        predictions.tokens[block],
        predictions.log_probs[block],
        predictions.entropy[block],
        predictions.proposals[block],
        factor,
        V=size,
        TILE=TILE,
        TILES=num_tiles,
        PADDED=triton.next_power_of_2(num_tiles),
    )
    if whole:
        torch.mul(logits @ embeddings, factor[:, None], out=predictions.soft_embedding[block])
    elif part:
        embed_top(
            logits,
            softcap,
            temperature,
            neighbours,
            embeddings,
            top,
            predictions.soft_embedding[block],
        )


@triton.jit
def _is_bounded(softcap, temperature):
    if softcap is None:
        return False
    else:
        return softcap <= MAX_BOUND * temperature


@triton.jit
def _highest_kernel(
    logits,
    softcap,
    temperature,
    highest,
    V: tl.constexpr,
    SPANS: tl.constexpr,
    SPAN: tl.constexpr,
):
    row = (tl.program_id(0) // SPANS).to(tl.int64)
    span = tl.program_id(0) % SPANS
    if _is_bounded(softcap, tl.load(temperature + row)):
        return
    column = span * SPAN + tl.arange(0, SPAN)
    values = tl.load(logits + row * V + column, mask=column < V, other=float("-inf"))
    tl.store(highest + row * SPANS + span, tl.max(values.to(tl.float32), axis=0))


@triton.jit
def _tiles_kernel(
    logits,
    softcap,
    temperature,
    highest,
    tiles,
    places,
    neighbours,
    V: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    SPANS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
):
    row = (tl.program_id(0) // GROUPS).to(tl.int64)
    group = tl.program_id(0) % GROUPS
    tile = group * GROUP + tl.arange(0, GROUP)
    column = tile[:, None] * TILE + tl.arange(0, TILE)[None, :]
    at = logits + row * V + column
    inside = column < V
    values = tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
    divisor = tl.load(temperature + row)
    best, place = tl.max(values, axis=1, return_indices=True)
    below = difference(values, best[:, None], softcap, divisor)
    if V % (GROUP * TILE) != 0:
        below = tl.where(inside, below, -1e30)
    weight = tl.exp(below)

    count: tl.constexpr = (V + TILE - 1) // TILE
    real = tile < count
    tl.store(places + row * count + tile, place, mask=real)
    at_tile = tiles + row * (3 * count) + tile
    tl.store(at_tile, best, mask=real)
    tl.store(at_tile + count, tl.sum(weight, axis=1), mask=real)
    tl.store(at_tile + 2 * count, tl.sum(weight * below, axis=1), mask=real)
    if highest is not None:
        if _is_bounded(softcap, divisor):
            shift = difference(best, 0.0, softcap, divisor) - REFERENCE
        else:
            shift = difference(best, _max_of(highest + row * SPANS, SPANS), softcap, divisor)
        tl.store(at, weight * tl.exp(shift)[:, None], mask=inside)
    if neighbours is not None:
        values = tl.reshape(values, (GROUP * TILE // NEIGHBOURS, NEIGHBOURS))
        number = group * (GROUP * TILE // NEIGHBOURS) + tl.arange(0, GROUP * TILE // NEIGHBOURS)
        count_neighbours: tl.constexpr = (V + NEIGHBOURS - 1) // NEIGHBOURS
        tl.store(
            neighbours + row * count_neighbours + number,
            tl.max(values, axis=1),
            mask=number < count_neighbours,
        )


@triton.jit
def _max_of(values, COUNT: tl.constexpr):
    PADDED: tl.constexpr = triton.next_power_of_2(COUNT)
    number = tl.arange(0, PADDED)
    return tl.max(tl.load(values + number, mask=number < COUNT, other=float("-inf")), axis=0)


@triton.jit
def _first_beyond(masses, target, number, OTHERWISE):
    """Where running sums of masses first exceed a target; running sums need not rise steadily."""
    beyond = (tl.cumsum(masses, axis=0) > target) & (masses > 0)
    first = tl.min(tl.where(beyond, number, number.shape[0]), axis=0)
    return tl.where(first < number.shape[0], first, OTHERWISE)


@triton.jit
def _join_kernel(
    logits,
    softcap,
    temperature,
    uniforms,
    tiles,
    places,
    tokens,
    log_probs,
    entropy,
    proposals,
    factor,
    V: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    divisor = tl.load(temperature + row)
    tile = tl.arange(0, PADDED)
    real = tile < TILES
    at_tile = tiles + row * (3 * TILES) + tile
    best_of_tile = tl.load(at_tile, mask=real, other=float("-inf"))
    best, best_tile = tl.max(best_of_tile, axis=0, return_indices=True)
    below = tl.where(real, difference(best_of_tile, best, softcap, divisor), -1e30)
    share = tl.exp(below)
    mass = tl.load(at_tile + TILES, mask=real, other=0.0) * share
    moment = tl.load(at_tile + 2 * TILES, mask=real, other=0.0) * share + mass * below
    total = tl.sum(mass, axis=0)
    log_total = tl.log(total)
    tl.store(log_probs + row, -log_total)
    tl.store(entropy + row, log_total - tl.sum(moment, axis=0) / total)
    place = tl.load(places + row * TILES + best_tile)
    tl.store(tokens + row, (best_tile * TILE + place).to(tl.int64))

    target = tl.load(uniforms + row) * total
    last = tl.max(tl.where(mass > 0, tile, 0), axis=0)
    chosen = _first_beyond(mass, target, tile, last)
    sums = tl.cumsum(mass, axis=0)
    before = tl.sum(tl.where(tile == chosen, sums - mass, 0.0), axis=0)
    share_of_tile = (target - before) / tl.sum(tl.where(tile == chosen, mass, 0.0), axis=0)
    position = tl.arange(0, TILE)
    column = chosen * TILE + position
    inside = column < V
    weight = tl.load(logits + row * V + column, mask=inside, other=0.0).to(tl.float32)
    if factor is None:  # the logits are still there
        highest = tl.sum(tl.where(tile == chosen, best_of_tile, 0.0), axis=0)
        weight = tl.exp(difference(weight, highest, softcap, divisor))
        weight = tl.where(inside, weight, 0.0)
    else:
        written = total
        if _is_bounded(softcap, divisor):
            written *= tl.exp(difference(best, 0.0, softcap, divisor) - REFERENCE)
        tl.store(factor + row, 1 / written)
    # Rounding may leave none; then it is the tile's most probable token.
    otherwise = tl.load(places + row * TILES + chosen)
    target = share_of_tile * tl.sum(weight, axis=0)
    proposal = chosen * TILE + _first_beyond(weight, target, position, otherwise)
    tl.store(proposals + row, proposal.to(tl.int64))
