"""The functions of `vocabulary` as Triton kernels.

Logits come out of torch's matrix product and are read once, tile by tile. A kernel then joins the
tiles of each row. For expected embeddings over the whole vocabulary the first kernel overwrites the
logits with unnormalised probabilities, which a second matrix product multiplies.
"""

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from speechbrain_diffasr.kernels.vocabulary import LOGITS_BYTES, TILE, Reading, rows_within
from speechbrain_diffasr.kernels.vocabulary_top_triton import (
    ELEMENTS_PER_WARP,
    MAX_TOP,
    NEIGHBOURS,
    difference,
    embed_top,
)

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
    reading = Reading(
        tokens=torch.empty(count, dtype=torch.long, device=hidden.device),
        log_probs=hidden.new_empty(count, dtype=torch.float32),
        entropy=hidden.new_empty(count, dtype=torch.float32),
        proposals=torch.empty(count, dtype=torch.long, device=hidden.device),
        soft=None if embeddings is None else embeddings.new_empty(count, embeddings.shape[1]),
    )
    softcap = None if softcap is None else float(softcap)
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        logits = F.linear(hidden[block], head)
        _read(logits, softcap, temperature[block], uniforms[block], embeddings, top, reading, block)
        del logits  # before the next ones are there
    return reading


def _read(logits, softcap, temperature, uniforms, embeddings, top, reading, block):
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
        reading.tokens[block],
        reading.log_probs[block],
        reading.entropy[block],
        reading.proposals[block],
        factor,
        V=size,
        TILE=TILE,
        TILES=num_tiles,
        PADDED=triton.next_power_of_2(num_tiles),
    )
    if whole:
        torch.mul(logits @ embeddings, factor[:, None], out=reading.soft[block])
    elif part:
        embed_top(logits, softcap, temperature, neighbours, embeddings, top, reading.soft[block])


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
