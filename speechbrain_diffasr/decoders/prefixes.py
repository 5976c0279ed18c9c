"""What CTC finds most likely, alone or with n-grams: a beam of prefixes over its frames."""

import heapq
import math
from dataclasses import dataclass

import torch

# Nats under which a token is not tried in a frame, unless it is the best of its frame.
TOKEN_FLOOR = -8.0
TOKENS_PER_FRAME = 24


@dataclass(frozen=True)
class Taste:
    """What is usually said, for a search to prefer.

    Arguments
    ---------
    ngram : TokenNGram
    language : str
        One of its languages.
    weight : float
        Of its log probabilities, beside CTC's.
    bonus : float
        Nats for each token, against its taste for short texts.
    """

    ngram: object
    language: str
    weight: float
    bonus: float


@torch.no_grad()
def search_prefixes(log_probs, blank, count, taste=None):
    """Searches the most likely readings, frame by frame.

    Prefix beam search (Hannun et al., https://arxiv.org/abs/1408.2873): all paths that read the
    same count together.

    Arguments
    ---------
    log_probs : torch.Tensor
        Of CTC, [T, V]; minus infinity for what is not to be read.
    blank : int
        Index of the blank.
    count : int
        Prefixes that are kept, and readings that are returned at most.
    taste : Taste, optional
        Counts as its `weight` says. Default: CTC alone.

    Returns
    -------
    readings : list of list of int
        The most likely one first.

    Example
    -------
    >>> probs = torch.tensor([[0.1, 0.6, 0.3], [0.9, 0.05, 0.05], [0.4, 0.2, 0.4]])
    >>> search_prefixes(probs.log(), blank=0, count=3)
    [[1], [1, 2], [2]]
    """
    frames = log_probs.float().cpu()
    top = frames.topk(min(TOKENS_PER_FRAME, frames.shape[1]), dim=1)
    silences = frames[:, blank].tolist()
    # By prefix: logarithms of all paths that end in its last token's blank and in that token.
    beam = {(): (0.0, -math.inf)}
    tastes = {(): 0.0}
    for values, indices, silence in zip(
        top.values.tolist(), top.indices.tolist(), silences, strict=True
    ):
        heard = [
            (token, value)
            for rank, (token, value) in enumerate(zip(indices, values, strict=True))
            if token != blank and value > (TOKEN_FLOOR if rank else -math.inf)
        ]
        if taste is not None:
            _judge(tastes, beam, [token for token, _ in heard], taste)
        new = {}
        for prefix, (in_blank, in_token) in beam.items():
            both = _add(in_blank, in_token)
            _put(new, prefix, both + silence, -math.inf)
            last = prefix[-1] if prefix else None
            for token, value in heard:
                if token == last:
                    _put(new, prefix, -math.inf, in_token + value)
                _put(
                    new, (*prefix, token), -math.inf, value + (in_blank if token == last else both)
                )

        scores = {prefix: _add(*parts) + tastes.get(prefix, 0.0) for prefix, parts in new.items()}
        beam = {prefix: new[prefix] for prefix in heapq.nlargest(count, scores, key=scores.get)}
        if taste is not None:
            tastes = {prefix: tastes[prefix] for prefix in beam}

    scores = {prefix: _add(*parts) + tastes.get(prefix, 0.0) for prefix, parts in beam.items()}
    if taste is not None:
        order, end = taste.ngram.order, taste.ngram.end
        contexts = [_context(prefix, order, end) for prefix in beam]
        ends = taste.ngram.log_probs(taste.language, contexts, [end] * len(beam))
        for prefix, more in zip(beam, ends.tolist(), strict=True):
            scores[prefix] += taste.weight * more
    return [list(prefix) for prefix in sorted(scores, key=scores.get, reverse=True)]


def _judge(tastes, beam, tokens, taste):
    """Enters what longer prefixes are worth by their taste."""
    pairs = [
        (prefix, token) for prefix in beam for token in tokens if (*prefix, token) not in tastes
    ]
    if not pairs:
        return
    order, end = taste.ngram.order, taste.ngram.end
    contexts = {prefix: _context(prefix, order, end) for prefix in beam}
    log_probs = taste.ngram.log_probs(
        taste.language, [contexts[prefix] for prefix, _ in pairs], [token for _, token in pairs]
    )
    worth = (taste.weight * log_probs + taste.bonus).tolist()
    for (prefix, token), more in zip(pairs, worth, strict=True):
        tastes[*prefix, token] = tastes[prefix] + more


def _context(prefix, order, end):
    """The tokens before the next one."""
    return ((end,) * (order - 1) + prefix)[len(prefix) :]


def _put(beam, prefix, in_blank, in_token):
    """Adds paths to a prefix."""
    if in_blank == in_token == -math.inf:
        return
    old = beam.get(prefix)
    if old is not None:
        in_blank, in_token = _add(old[0], in_blank), _add(old[1], in_token)
    beam[prefix] = in_blank, in_token


def _add(one, other):
    """The logarithm of a sum."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
