"""An n-gram over tokens, and the search that lets it choose among CTC's readings."""

import heapq
import math
from collections import defaultdict

DISCOUNT = 0.75


class NGram:
    """Interpolated Kneser-Ney with one discount (Ney, Essen and Kneser, 1994).

    Arguments
    ---------
    lines : iterable of list of int
        Tokens of each.
    end : int
        The token behind each line.
    order : int
        Tokens of the longest context, and one. Default: 4.

    Example
    -------
    >>> model = NGram([[1, 2, 3], [1, 2, 4], [5, 2, 3]], end=0, order=3)
    >>> model.log_prob((1, 2), 3) > model.log_prob((1, 2), 5)
    True
    >>> tokens = range(6)
    >>> round(sum(math.exp(model.log_prob((1, 2), token)) for token in tokens), 6)
    1.0
    """

    def __init__(self, lines, end, order=4):
        self.end, self.order = end, order
        counts = [defaultdict(lambda: defaultdict(int)) for _ in range(order)]
        for line in lines:
            padded = (*[end] * (order - 1), *line, end)
            for place in range(order - 1, len(padded)):
                counts[-1][padded[place - order + 1 : place]][padded[place]] += 1
        # Below the longest, what counts is behind how many different tokens something stands.
        for size in range(order - 1, 0, -1):
            for context, followers in counts[size].items():
                for token in followers:
                    counts[size - 1][context[1:]][token] += 1
        self.counts = counts
        self.totals = [
            {context: sum(followers.values()) for context, followers in level.items()}
            for level in counts
        ]
        self.vocabulary = len(counts[0][()])

    def log_prob(self, context, token):
        """Of a token behind others.

        Arguments
        ---------
        context : tuple of int
            The last `order - 1` tokens, those before a line among them: the end token.
        token : int

        Returns
        -------
        log_prob : float
            Natural logarithm; a token that was never seen has that of one in twice as many.
        """
        probability = 1 / self.vocabulary if token in self.counts[0][()] else 0.0
        for size in range(self.order):
            part = context[len(context) - size :]
            followers = self.counts[size].get(part)
            if followers is None:
                break
            total = self.totals[size][part]
            seen = max(followers.get(token, 0) - DISCOUNT, 0.0) / total
            probability = seen + DISCOUNT * len(followers) / total * probability
        return math.log(probability or 0.5 / self.vocabulary)


def search(log_probs, blank, model, weight, bonus, beam, tokens_per_frame):
    """Prefix beam search over CTC with an n-gram (Hannun et al., https://arxiv.org/abs/1408.2873).

    Arguments
    ---------
    log_probs : torch.Tensor
        [T, V].
    blank : int
    model : NGram
    weight : float
        Of its logarithms.
    bonus : float
        For each token, against its taste for short lines.
    beam : int
        Prefixes that are kept.
    tokens_per_frame : int
        The most probable ones, which are tried.

    Returns
    -------
    tokens : list of int
    """
    start = (model.end,) * (model.order - 1)
    # By prefix: logarithms that it ends in blank and that it ends in its last token; its score.
    beams = {(): (0.0, -math.inf, 0.0)}
    top = log_probs.topk(min(tokens_per_frame, log_probs.shape[1]), dim=-1)
    blanks = log_probs[:, blank].tolist()
    frames = zip(top.values.tolist(), top.indices.tolist(), blanks, strict=True)
    for values, indices, silence in frames:
        new = {}

        def add(prefix, in_blank, in_token, taste, new=new):
            old = new.get(prefix, (-math.inf, -math.inf, taste))
            new[prefix] = (_add(old[0], in_blank), _add(old[1], in_token), taste)

        for prefix, (in_blank, in_token, taste) in beams.items():
            both = _add(in_blank, in_token)
            add(prefix, both + silence, -math.inf, taste)
            for value, token in zip(values, indices, strict=True):
                if token == blank:
                    continue
                repeats = bool(prefix) and prefix[-1] == token
                if repeats:
                    add(prefix, -math.inf, in_token + value, taste)
                longer = (*prefix, token)
                context = (*start, *prefix)[-(model.order - 1) :]
                more = taste + weight * model.log_prob(context, token) + bonus
                add(longer, -math.inf, (in_blank if repeats else both) + value, more)
        best = heapq.nlargest(beam, new.items(), key=lambda item: _add(*item[1][:2]) + item[1][2])
        beams = dict(best)

    def final(item):
        prefix, (in_blank, in_token, taste) = item
        context = (*start, *prefix)[-(model.order - 1) :]
        return _add(in_blank, in_token) + taste + weight * model.log_prob(context, model.end)

    return list(max(beams.items(), key=final)[0])


def _add(one, other):
    """The logarithm of a sum."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
