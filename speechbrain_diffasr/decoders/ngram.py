"""N-grams over a model's own tokens: what is usually said, learned from text in seconds."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

DISCOUNT = 0.75


class TokenNGram:
    """Interpolated Kneser-Ney n-grams with one discount, for each of several languages.

    With c(h, w) for how often a token follows a context, and below the longest context for how many
    different tokens stand before both, p(w | h) = max(c(h, w) - d, 0) / c(h) + γ(h) · p(w | h'),
    where h' is h without its first token (Ney, Essen and Kneser, 1994,
    https://doi.org/10.1006/csla.1994.1001). What rare n-grams would have had is left to γ, so that
    probabilities add up to one however many are dropped.

    Arguments
    ---------
    order : int
        Tokens of the longest context, and one. Default: 4.
    discount : float
        Default: 0.75.

    Example
    -------
    >>> ngram = TokenNGram(order=3)
    >>> ngram.count({"en": [[1, 2, 3], [1, 2, 4], [5, 2, 3]]}, vocab_size=6, end=0)
    >>> seen, unseen = ngram.log_probs("en", [(1, 2), (1, 2)], [3, 5])
    >>> bool(seen > unseen)
    True
    >>> round(float(np.exp(ngram.log_probs("en", [(1, 2)] * 6, range(6))).sum()), 3)
    1.0
    """

    def __init__(self, order=4, discount=DISCOUNT):
        self.order, self.discount = order, discount
        self.languages, self.vocab_size, self.end = [], 0, 0
        # Of each order: n-grams as sorted numbers with the first summand, and contexts with γ.
        self.levels = []

    def count(self, lines, vocab_size, end, least=None):
        """Learns from lines of text.

        Arguments
        ---------
        lines : dict
            By language code, lists of tokens.
        vocab_size : int
        end : int
            The token before and behind each line.
        least : list of int, optional
            Of each order from the lowest, how often an n-gram must occur to be kept. Default: 1.
        """
        self.languages, self.vocab_size, self.end = list(lines), vocab_size, end
        least = least or [1] * self.order
        bits = (self.order * np.log2(vocab_size) + np.log2(max(len(lines), 1))).item()
        if bits >= 63:
            raise ValueError(f"order: {self.order} tokens of {vocab_size} do not fit into 64 bits")
        found = []
        for number, rows in enumerate(lines.values()):
            padding = [end] * (self.order - 1)
            flat = np.array([t for row in rows for t in (*padding, *row, end)], dtype=np.int64)
            keys = np.full(max(0, len(flat) - self.order + 1), number, dtype=np.int64)
            for place in range(self.order):
                keys = keys * vocab_size + flat[place : place + len(keys)]
            # Those that reach over a line's end: behind an end token, anything but padding.
            lens = np.array([len(row) + self.order for row in rows], dtype=np.int64)
            first = np.repeat(np.cumsum(lens) - lens, lens)
            inside = np.arange(len(flat)) - first <= np.repeat(lens, lens) - self.order
            found.append(keys[inside[: len(keys)]])
        keys, counts = np.unique(np.concatenate(found), return_counts=True)
        levels = []
        for size in range(self.order, 0, -1):
            levels.append(self._level(keys, counts, least[size - 1]))
            # Below, what counts is before how many different tokens something stands.
            scale = vocab_size ** (size - 1)
            shorter = keys // (scale * vocab_size) * scale + keys % scale
            keys, counts = np.unique(shorter, return_counts=True)
        self.levels = levels[::-1]

    def _level(self, keys, counts, least):
        """What is stored of n-grams of one order."""
        contexts, number = np.unique(keys // self.vocab_size, return_inverse=True)
        total = np.bincount(number, weights=counts)
        share = np.maximum(counts - self.discount, 0) / total[number]
        keep = counts >= least
        rest = 1 - np.bincount(number[keep], weights=share[keep], minlength=len(contexts))
        has_any = np.bincount(number[keep], minlength=len(contexts)) > 0
        return keys[keep], share[keep], contexts[has_any], rest[has_any]

    def log_probs(self, language, contexts, tokens):
        """Of tokens behind others.

        Arguments
        ---------
        language : str
        contexts : array_like
            The last `order - 1` tokens before each, those before a line among them: the end token,
            [N, order - 1].
        tokens : array_like
            [N].

        Returns
        -------
        log_probs : numpy.ndarray
            Natural logarithms, [N].
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        contexts = np.asarray(contexts, dtype=np.int64).reshape(len(tokens), self.order - 1)
        number = self.languages.index(language)
        probs = np.full(len(tokens), 1.0 / self.vocab_size)
        for size, (keys, share, kept, rest) in enumerate(self.levels):
            context = np.full(len(tokens), number, dtype=np.int64)
            for place in range(self.order - 1 - size, self.order - 1):
                context = context * self.vocab_size + contexts[:, place]
            gamma = _look_up(kept, rest, context, 1.0)
            probs = gamma * probs + _look_up(keys, share, context * self.vocab_size + tokens, 0.0)
        return np.log(probs)

    def score(self, language, readings):
        """Log probabilities of whole lines with their ends.

        Arguments
        ---------
        language : str
        readings : list of list of int

        Returns
        -------
        scores : list of float
        """
        places = np.cumsum([0, *(len(tokens) + 1 for tokens in readings)])
        contexts, tokens = [], []
        for reading in readings:
            row = (*[self.end] * (self.order - 1), *reading, self.end)
            tokens += row[self.order - 1 :]
            contexts += [row[place : place + self.order - 1] for place in range(len(reading) + 1)]
        log_probs = self.log_probs(language, contexts, tokens)
        return [float(log_probs[begin:stop].sum()) for begin, stop in pairwise(places)]

    def guess_language(self, reading):
        """The language that a reading is likeliest in.

        Arguments
        ---------
        reading : list of int

        Returns
        -------
        language : str
        """
        return max(self.languages, key=lambda language: self.score(language, [reading])[0])

    def save(self, path):
        """Writes it as safetensors."""
        tensors = {}
        for size, (keys, share, kept, rest) in enumerate(self.levels, 1):
            # Each n-gram by its last token: its context is one of those that are stored.
            contexts, tokens = np.divmod(keys, self.vocab_size)
            numbers = np.bincount(np.searchsorted(kept, contexts), minlength=len(kept))
            small = np.int16 if self.vocab_size <= np.iinfo(np.int16).max else np.int32
            tensors[f"{size}.tokens"] = torch.from_numpy(tokens.astype(small))
            tensors[f"{size}.shares"] = torch.from_numpy(share).half()
            tensors[f"{size}.contexts"] = torch.from_numpy(kept)
            tensors[f"{size}.numbers"] = torch.from_numpy(numbers.astype(small))
            tensors[f"{size}.rests"] = torch.from_numpy(rest).half()
        about = {"languages": " ".join(self.languages), "vocab_size": str(self.vocab_size)}
        save_file(tensors, path, metadata={**about, "end": str(self.end)})
        Path(path).chmod(0o644)  # safetensors writes for the owner only

    def load(self, path):
        """Reads what `save` wrote."""
        with safe_open(path, "np") as file:
            about = file.metadata()
            self.languages = about["languages"].split()
            self.vocab_size, self.end = int(about["vocab_size"]), int(about["end"])
            names = "tokens", "shares", "contexts", "numbers", "rests"
            self.order = len(file.keys()) // len(names)
            self.levels = []
            for size in range(1, self.order + 1):
                tokens, share, kept, numbers, rest = (
                    file.get_tensor(f"{size}.{name}") for name in names
                )
                keys = np.repeat(kept, numbers) * self.vocab_size + tokens
                self.levels.append((keys, share, kept, rest))


def _look_up(keys, values, wanted, default):
    """The values of keys, which are sorted; a default where there is none."""
    if not len(keys):
        return np.full(len(wanted), default)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place].astype(np.float64), default)
