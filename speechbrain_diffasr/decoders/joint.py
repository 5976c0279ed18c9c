"""The denoiser and CTC together: what both make of each position of a canvas, at every step.

A denoiser says what stands at each position of a canvas, CTC what sounds in each frame. Which frame
a position belongs to is not known: all alignments of the canvas with the frames are summed up, as
in CTC itself, and leave a distribution over tokens at each position that takes both into account.
Others join framewise CTC and labelwise diffusion at each step by making candidates of both
(Naveriani et al., https://arxiv.org/abs/2604.14001); here the sum is exact but for repeated tokens,
and its cost does not grow with the vocabulary.
"""

import math
from dataclasses import dataclass, fields
from itertools import groupby

import torch
from torch.nn.functional import pad

from speechbrain_diffasr.decoders.canvas import Guess
from speechbrain_diffasr.kernels.alignment import TINY, align_positions
from speechbrain_diffasr.kernels.common import LOGITS_BYTES, Predictions, rows_within
from speechbrain_diffasr.kernels.frames import bound, read_frames
from speechbrain_diffasr.kernels.vocabulary import LOGITS_BYTES_PLAIN

# What CTC gives to a token that is not among its evidence, and no less to any other: noise of a
# frame must not outweigh all others together.
FLOOR = math.log(1e-7)
# How sure the denoiser may be of where a text ends, either way, with the same reason.
END_FLOOR = 1e-6


@dataclass(frozen=True)
class Evidence:
    """What CTC hears in utterances: in each frame, the tokens that may be said anywhere in them.

    Arguments
    ---------
    tokens : torch.Tensor
        The likeliest tokens of each utterance, none a blank or an end of text, [B, M].
    log_probs : torch.Tensor
        Of them in each frame, after a softmax over the whole vocabulary, float32 [B, T, M].
    blank : torch.Tensor
        Log probability of a blank, [B, T].
    frames : torch.Tensor
        Frames of each utterance, [B].
    """

    tokens: torch.Tensor
    log_probs: torch.Tensor
    blank: torch.Tensor
    frames: torch.Tensor

    def __getitem__(self, rows):
        return Evidence(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __setitem__(self, rows, other):
        self.tokens[rows], self.frames[rows] = other.tokens, other.frames
        count = other.blank.shape[1]  # what is behind the frames is not looked at
        self.log_probs[rows, :count], self.blank[rows, :count] = other.log_probs, other.blank

    @classmethod
    def stack(cls, parts):
        """The evidence of several as one, which need not have as many frames."""
        frames = max(part.blank.shape[1] for part in parts)
        more = [frames - part.blank.shape[1] for part in parts]
        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat(
                [pad(part.log_probs, (0, 0, 0, n)) for part, n in zip(parts, more, strict=True)]
            ),
            torch.cat([pad(part.blank, (0, n)) for part, n in zip(parts, more, strict=True)]),
            torch.cat([part.frames for part in parts]),
        )

    def read(self):
        """What is read of it greedily.

        Returns
        -------
        readings : list of Guess
            Of each utterance; a token is as sure as in the best of its frames.

        Example
        -------
        >>> probs = torch.tensor([[[0.6, 0.1], [0.5, 0.2], [0.1, 0.2], [0.1, 0.9]]])
        >>> silence = torch.tensor([[0.3, 0.3, 0.7, 0.0]])
        >>> evidence = Evidence(
        ...     torch.tensor([[7, 8]]), probs.log(), silence.log(), torch.tensor([4])
        ... )
        >>> evidence.read()[0].tokens, [round(sure, 1) for sure in evidence.read()[0].confidences]
        ([7, 8], [0.6, 0.9])
        """
        best = self.log_probs.max(dim=-1)
        spoken = best.values > self.blank
        tokens = self.tokens.gather(1, best.indices).masked_fill(~spoken, -1)
        table = zip(tokens.tolist(), best.values.exp().tolist(), self.frames.tolist(), strict=True)
        readings = []
        for row, sure, frames in table:
            found, confidences = [], []
            for token, places in groupby(range(frames), key=row.__getitem__):
                if token >= 0:
                    found.append(token)
                    confidences.append(max(sure[place] for place in places))
            readings.append(Guess(found, confidences))
        return readings


@dataclass(frozen=True)
class JointSettings:
    """How denoiser and CTC are joined.

    Arguments
    ---------
    weight : float
        Power of CTC's probabilities.
    count : int
        M, tokens of CTC's that are looked at.
    frames : int
        T, of a whole window.
    end : int
        End-of-text token.
    """

    weight: float
    count: int
    frames: int
    end: int

    def silence(self, rows, device):
        """Evidence of a single blank frame, for so many utterances: room for what others hear."""
        shape = rows, self.frames, self.count
        blank = torch.zeros(rows, self.frames, device=device)
        return Evidence(
            tokens=torch.zeros(rows, self.count, dtype=torch.long, device=device),
            log_probs=torch.full(shape, FLOOR, device=device),
            blank=blank,
            frames=torch.ones(rows, dtype=torch.long, device=device),
        )


@torch.no_grad()
def hear(audio, head, blank, end, frames, count, allowed=None, keywords=None):
    """Reads off the output layer what CTC hears.

    Arguments
    ---------
    audio : torch.Tensor
        Projected audio, [B, T, D]. It is multiplied in the precision of the output layer.
    head : Head
        The output layer that CTC was trained through.
    blank, end : int
        Indices of the blank and of the end of text.
    frames : torch.Tensor
        Frames of each utterance, [B].
    count : int
        M, tokens that are kept of each utterance: those that are likeliest in some frame.
    allowed : torch.Tensor, optional
        Tokens that may be read, bool [B, V]. Default: all.
    keywords : Keywords, optional
        Words to expect, which are then heard sooner. Default: none.

    Returns
    -------
    evidence : Evidence

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> heard = torch.tensor([[0, 3, 3, 0, 2]])  # the most probable token of each frame
    >>> audio = torch.nn.functional.one_hot(heard, 5).float()
    >>> evidence = hear(audio, Head(9 * torch.eye(5)), 0, 1, torch.tensor([4]), count=2)
    >>> evidence.tokens.tolist(), [round(x) for x in evidence.log_probs[0, :4, 0].exp().tolist()]
    ([[3, 2]], [0, 1, 1, 0])
    """
    batch, num_frames, _ = audio.shape
    count = most = min(count, len(head.weight) - 2)
    wanted = [] if keywords is None else keywords.ids()
    if keywords is not None:
        most = min(count + len(wanted), len(head.weight) - 2)
    softcap = head.softcap
    # Of an utterance by itself or of several: the product rounds alike in any number of rows.
    size = LOGITS_BYTES if audio.is_cuda else LOGITS_BYTES_PLAIN
    group = max(1, rows_within(size, head.weight) // num_frames)
    parts = []
    for start in range(0, batch, group):
        rows = audio[start : start + group].to(head.weight.dtype)
        logits = (rows.flatten(0, 1) @ head.weight.T).unflatten(0, rows.shape[:2])  # [b, T, V]
        norms, highest = read_frames(logits, softcap, frames[start : start + group])
        highest[:, wanted] = torch.inf
        if allowed is not None:
            highest.masked_fill_(~allowed[start : start + group], -torch.inf)
        highest[:, [blank, end]] = -torch.inf
        best = highest.topk(most, dim=-1)
        columns = torch.nn.functional.pad(best.indices, (0, 1), value=blank)  # [b, M + 1]
        kept = logits.gather(2, columns[:, None].expand(-1, num_frames, -1))
        kept = bound(kept, softcap) - norms[..., None]
        # Tokens that may not be read fill up what is left where others are too few.
        log_probs = kept[..., :-1].masked_fill(best.values[:, None] == -torch.inf, -torch.inf)
        parts.append((best.indices, log_probs, kept[..., -1]))
    evidence = Evidence(*map(torch.cat, zip(*parts, strict=True)), frames)
    return evidence if keywords is None else _expect(evidence, keywords, count)


def _expect(evidence, keywords, count):
    """The evidence in which keywords are heard sooner, of as many tokens as without them."""
    rows = []
    for row, frames in enumerate(evidence.frames.tolist()):
        one = evidence[row : row + 1]
        log_probs, blank = keywords.boost(
            one.log_probs[0, :frames], one.tokens[0].tolist(), one.blank[0, :frames]
        )
        best = log_probs.amax(dim=0).topk(count).indices
        rows.append(
            Evidence(one.tokens[:, best], log_probs[None, :, best], blank[None], one.frames)
        )
    return Evidence.stack(rows)


def join(predictions, token_probs, end_probs, evidence, weight, lengths, uniforms, end):
    """What denoiser and CTC make of each position together.

    With q the denoiser's distribution at a position i, p that of CTC in a frame t, and the sum over
    all alignments of canvas and frames, of which a is one,

        r_i(v) ~ sum_a prod_t p_t(a_t)^weight prod_j q_j(a's token at j) [a has v at i].

    The text ends where q says: a canvas whose first end-of-text token is at i has i tokens that are
    heard, and r_i(end) is the probability that no more than i are.

    Arguments
    ---------
    predictions : Predictions
        The denoiser's, [B, C].
    token_probs : torch.Tensor
        Its probabilities of the evidence's tokens, float32 [B, C, M].
    end_probs : torch.Tensor
        Of the end of text, [B, C].
    evidence : Evidence
    weight : float
        Power of CTC's probabilities.
    lengths : torch.Tensor
        Tokens that each canvas has, [B].
    uniforms : torch.Tensor
        What tokens are sampled by, [B, C].
    end : int
        The end-of-text token.

    Returns
    -------
    predictions : Predictions
        Of both, [B, C]. What the evidence lacks is, all together, the denoiser's most probable
        token; its own uncertainty adds to the entropy as far as it counts.
    probs : torch.Tensor
        Of the evidence's tokens, of that token, and of the end, [B, C, M + 2].
    tokens : torch.Tensor
        Which tokens these are, [B, C, M + 2].

    Example
    -------
    >>> half = torch.full((1, 2), 0.5)
    >>> unsure = Predictions(torch.tensor([[7, 1]]), half.log(), half, torch.tensor([[7, 1]]))
    >>> token_probs = torch.tensor([[[0.4, 0.1], [0.0, 0.0]]])  # of 5 and of 6
    >>> end_probs = torch.tensor([[0.0, 1.0]])
    >>> heard = torch.tensor([[[0.01, 0.9], [0.1, 0.01]]])  # 6, then a blank
    >>> evidence = Evidence(
    ...     *(torch.tensor([[5, 6]]), heard.log(), torch.tensor([[0.09, 0.89]]).log()),
    ...     frames=torch.tensor([2]),
    ... )
    >>> both, _, _ = join(
    ...     unsure, token_probs, end_probs, evidence, 1.0, torch.tensor([2]), half, end=1
    ... )
    >>> both.tokens, both.log_probs.exp().round(decimals=2)
    (tensor([[6, 1]]), tensor([[0.9200, 1.0000]]))
    """
    width, count = token_probs.shape[1:]
    device = token_probs.device
    inside = torch.arange(width, device=device) < lengths[:, None]  # [B, C]
    heard = (weight * evidence.log_probs.clamp(min=FLOOR)).exp()  # [B, T, M]
    silence = (weight * evidence.blank.clamp(min=FLOOR)).exp()
    unheard = math.exp(weight * FLOOR)
    others = (1 - token_probs.sum(dim=-1) - end_probs).clamp(min=TINY)  # [B, C]
    emitted = torch.baddbmm((unheard * others)[:, None], heard, token_probs.transpose(1, 2))
    emitted = (emitted * inside[:, None]).clamp(min=TINY)  # [B, T, C]
    # A token that is held over frames is counted once by the denoiser: given that it was said in
    # the frame before, it is one that both frames hear.
    twice = torch.zeros_like(emitted)
    torch.bmm(heard[:, :-1] * heard[:, 1:], token_probs.transpose(1, 2), out=twice[:, 1:])
    twice[:, 1:] /= emitted[:, :-1]
    held = twice * inside[:, None]
    ends = torch.where(inside, end_probs.clamp(END_FLOOR, 1 - END_FLOOR), 0.0)
    last = torch.arange(width + 1, device=device) == lengths[:, None]
    # A canvas that is full ends nowhere, and is then made longer.
    ends = pad(ends, (0, 1)).masked_fill(last, 1.0)
    begins = align_positions(emitted, held, silence, ends, evidence.frames)

    shares = (begins / emitted).transpose(1, 2)  # [B, C, T]
    spoken = token_probs * (shares @ heard)
    rest = others * unheard * shares.sum(dim=-1)
    ended = 1 - begins.sum(dim=1)
    probs = torch.cat([spoken, rest[..., None], ended[..., None]], dim=-1).clamp(min=0)
    probs = probs / probs.sum(dim=-1, keepdim=True).clamp(min=TINY)
    entropy = -torch.special.xlogy(probs, probs).sum(dim=-1)
    entropy = entropy + probs[..., count] * predictions.entropy
    last_two = torch.stack([predictions.tokens, torch.full_like(predictions.tokens, end)], dim=-1)
    tokens = torch.cat([evidence.tokens[:, None].expand(-1, width, -1), last_two], dim=-1)
    best = probs.max(dim=-1, keepdim=True)
    sums = probs.cumsum(dim=-1)
    drawn = (sums <= uniforms[..., None] * sums[..., -1:]).sum(dim=-1, keepdim=True)
    joined = Predictions(
        tokens=tokens.gather(2, best.indices)[..., 0],
        log_probs=best.values[..., 0].clamp(min=TINY).log(),
        entropy=entropy,
        proposals=tokens.gather(2, drawn.clamp(max=count + 1))[..., 0],
    )
    return joined, probs, tokens


def probs_of(hidden, head, softcap, tokens, predictions, temperature):
    """Probabilities of some tokens at each position, from hidden states and what was read off them.

    Arguments
    ---------
    hidden : torch.Tensor
        What the output layer takes, [B, C, D].
    head : torch.Tensor
        Output embeddings, [V, D].
    softcap : float or None
        Of the logits.
    tokens : torch.Tensor
        [B, M].
    predictions : Predictions
        Of the same hidden states, [B, C].
    temperature : torch.Tensor
        Divides the logits, [B].

    Returns
    -------
    probs : torch.Tensor
        float32 [B, C, M].

    Example
    -------
    >>> from speechbrain_diffasr.kernels.vocabulary import read_logits
    >>> hidden, head, ones = torch.rand(1, 2, 3), torch.rand(9, 3), torch.ones(1)
    >>> predictions = read_logits(hidden @ head.T, ones, torch.rand(1, 2))
    >>> found = probs_of(hidden, head, None, torch.tensor([[4, 7]]), predictions, ones)
    >>> torch.allclose(found, (hidden @ head.T).softmax(dim=-1)[..., [4, 7]], atol=1e-5)
    True
    """
    logits = torch.bmm(hidden, head[tokens].transpose(1, 2)).float()  # [B, C, M]
    highest = (hidden * head[predictions.tokens]).float().sum(dim=-1, keepdim=True)
    if softcap is not None:
        logits, highest = (softcap * torch.tanh(part / softcap) for part in (logits, highest))
    below = (logits - highest) / temperature[:, None, None]
    return (below + predictions.log_probs[..., None]).clamp(max=0).exp()
