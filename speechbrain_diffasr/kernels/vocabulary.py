"""What a denoising step reads off the vocabulary, without the logits of a whole batch."""

import torch
from torch.nn import functional as F

from speechbrain_diffasr.kernels.common import TILE, Predictions, rows_within, use_triton

LOGITS_BYTES_PLAIN = 2**24

# Differences of logits are cut off here, so that they can be multiplied by a probability of zero.
LOWEST = -1e30


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
    """Reads p = softmax(softcap * tanh(hidden @ head.T / softcap) / temperature).

    Tokens are sampled as by `sample`.

    Arguments
    ---------
    hidden : torch.Tensor [N, D]
        float32 or bfloat16.
    head : torch.Tensor [V, D]
        Vocabulary projection.
    softcap : float
        Bound of the logits; None for none.
    temperature : torch.Tensor [N]
        float32, above 0.
    uniforms : torch.Tensor [N]
        float32 in [0, 1): token v is sampled if it is the first for which the probabilities of
        tokens 0 to v sum up to more.
    embeddings : torch.Tensor [V, D], optional
        To compute expected embeddings of.
    rows_at_once : int, optional
        Rows whose logits exist at the same time. Default: 1 GiB of logits, 16 MiB in plain torch.
    top : int, optional
        Expected embeddings over so many of the most probable tokens only, the first of equal ones.
        Default: over all.

    Returns
    -------
    predictions : Predictions
        Of [N]; `soft_embedding` is [N, D] of the type of `embeddings`, None without them.

    Example
    -------
    >>> predictions = read_vocabulary(
    ...     torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]), softcap=None,
    ...     temperature=torch.tensor([0.5]), uniforms=torch.tensor([0.1]),
    ...     embeddings=torch.tensor([[0.0, 10.0], [1.0, 0.0]]),
    ... )
    >>> predictions.tokens, predictions.proposals
    (tensor([1]), tensor([0]))
    >>> predictions.log_probs.exp(), predictions.soft_embedding
    (tensor([0.8808]), tensor([[0.8808, 1.1920]]))
    """
    arguments = hidden, head, softcap, temperature, uniforms, embeddings, rows_at_once, top
    if use_triton(hidden):
        from speechbrain_diffasr.kernels import vocabulary_triton

        return vocabulary_triton.read_vocabulary(*arguments)
    return read_vocabulary_plain(*arguments)


def read_vocabulary_plain(
    hidden,
    head,
    softcap,
    temperature,
    uniforms,
    embeddings=None,
    rows_at_once=None,
    top=None,
):
    """`read_vocabulary` in plain torch."""
    rows_at_once = rows_at_once or rows_within(LOGITS_BYTES_PLAIN, head)
    blocks = zip(*(x.split(rows_at_once) for x in (hidden, temperature, uniforms)), strict=True)
    readings = [
        _read(F.linear(rows, head), softcap, temperature, uniforms, embeddings, top)
        for rows, temperature, uniforms in blocks
    ]
    return Predictions(
        *(None if parts[0] is None else torch.cat(parts) for parts in zip(*readings, strict=True))
    )


def read_logits(logits, temperature, uniforms):
    """Reads p = softmax(logits / temperature), from logits that are all there.

    Arguments
    ---------
    logits : torch.Tensor
        [B, C, V].
    temperature : torch.Tensor
        Divides the logits of each utterance, [B].
    uniforms : torch.Tensor
        What tokens are sampled by, in [0, 1), [B, C].

    Returns
    -------
    predictions : Predictions
        [B, C], without soft embeddings.

    Example
    -------
    >>> logits = torch.tensor([[[0.1, 0.2, 0.7]]]).log()
    >>> predictions = read_logits(logits, torch.tensor([1.0]), torch.tensor([[0.25]]))
    >>> predictions.tokens, predictions.proposals
    (tensor([[2]]), tensor([[1]]))
    >>> predictions.log_probs.exp()
    tensor([[0.7000]])
    """
    batch, length, size = logits.shape
    temperature = temperature[:, None].expand(batch, length).reshape(-1)
    parts = _read(logits.reshape(-1, size), None, temperature, uniforms.reshape(-1))
    return Predictions(*(None if part is None else part.view(batch, length) for part in parts))


def sample(weights, uniforms):
    """Samples by the inverse of the distribution function, on two levels.

    That takes one random number for each position, instead of one for each token of the vocabulary
    as Gumbel noise would.

    Arguments
    ---------
    weights : torch.Tensor
        Probabilities or multiples of them, [N, V].
    uniforms : torch.Tensor
        In [0, 1), [N].

    Returns
    -------
    tokens : torch.Tensor
        [N]; none that has a probability of zero.

    Example
    -------
    >>> sample(torch.tensor([[1.0, 0.0, 3.0]] * 3), torch.tensor([0.0, 0.2, 0.3]))
    tensor([0, 0, 2])
    """
    count, size = weights.shape
    tiles = F.pad(weights, (0, -size % TILE)).view(count, -1, TILE)
    masses = tiles.sum(dim=-1)
    tile, rest = _first_beyond(masses, uniforms * masses.sum(dim=-1))
    rows = torch.arange(count, device=weights.device)
    position, _ = _first_beyond(tiles[rows, tile], rest)
    return tile * TILE + position


def _first_beyond(masses, target):
    """Where running sums of masses [N, M] first exceed target [N], and what is left of it there.

    Where by rounding they never do, it is the last mass that is not zero.
    """
    sums = masses.cumsum(dim=-1)
    numbers = torch.arange(masses.shape[1], device=masses.device)
    last = torch.where(masses > 0, numbers, 0).amax(dim=-1, keepdim=True)
    beyond = (sums > target[:, None]) & (masses > 0)
    place = torch.where(beyond, numbers, last).amin(dim=-1)
    return place, target - (sums - masses).gather(1, place[:, None])[:, 0]


def _read(logits, softcap, temperature, uniforms, embeddings=None, top=None):
    """The fields of a `Predictions`, from logits [N, V] without a softcap."""
    tokens = logits.argmax(dim=-1, keepdim=True)
    scaled = logits.float()
    if softcap is not None:
        scaled = (scaled / softcap).tanh_().mul_(softcap)
    scaled = scaled / temperature[:, None]
    scaled -= scaled.gather(1, tokens)
    weights = scaled.exp()  # relative to the most probable token's
    total = weights.sum(dim=-1)
    log_total = total.log()
    entropy = log_total - scaled.clamp_(min=LOWEST).mul_(weights).sum(dim=-1) / total
    proposals = sample(weights, uniforms)
    soft_embedding = None
    if embeddings is not None:
        if top is not None:
            weights = _only_top(weights, top)
            total = weights.sum(dim=-1)
        soft_embedding = (weights.to(embeddings.dtype) @ embeddings / total[:, None]).to(
            embeddings.dtype
        )
    return tokens[:, 0], -log_total, entropy, proposals, soft_embedding


def _only_top(weights, count):
    """Zeroes all but so many of the largest weights of each row, the first of equal ones."""
    count = min(count, weights.shape[1])
    least = weights.topk(count).values[:, -1:]
    larger, equal = weights > least, weights == least
    room = count - larger.sum(dim=-1, keepdim=True)
    return torch.where(larger | (equal & (equal.cumsum(dim=-1) <= room)), weights, 0.0)
