"""Words to expect, such as names and terms, which raise what CTC hears of them.

CTC word spotting (Andrusenko et al., https://arxiv.org/abs/2406.07096): the best path of each word
over any stretch of frames is compared with the greedy path over the same frames, and takes its
place where it is little worse. The paper merges the words into a finished text; here the frames
themselves are changed, so that whatever reads them afterwards reads the words.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from speechbrain_diffasr.text.spacing import needs_space
from speechbrain_diffasr.text.spelling import normalize_text
from speechbrain_diffasr.utils.errors import DiffASRError

# The time and memory of spotting grow with their number: 10,000 words take about 50 MiB for 15 s.
MOST_KEYWORDS = 10_000
SPACE = "▁"  # the space before a word, as SentencePiece and Metaspace write it
WIDE = "字"  # of a script without spaces
STAY, STEP, SKIP, ENTER = range(4)  # where the best path to a state comes from


@dataclass(frozen=True)
class Hit:
    """A keyword that was spotted.

    Arguments
    ---------
    word : str
    start, end : int
        Frames that its path takes, the last one exclusive.
    score : float
        Nats by which its path, with the bonus, is better than the greedy one.
    path : tuple of (int or None)
        Token of each of these frames, None for the blank.
    """

    word: str
    start: int
    end: int
    score: float
    path: tuple


class Keywords:
    """Spots words in the frames of CTC, and makes them the most probable there.

    A path of a word has its tokens in their order, each in one or more frames, with any number of
    blanks behind each. Its score is the sum over its frames of

        log p(token) - max log p        of the frame, over all tokens and the blank,

    plus `bonus` for each token of the word. It is a hit if its score is positive, and the best
    frames of its tokens have a mean log probability of `floor` or more. Behind it the greedy path
    must go on with a new word or end: otherwise the word would be read with the rest of another
    one at its end. Of hits that share frames the one with the better score stays.

    Arguments
    ---------
    words : list of str
        As they are named in hits; one may occur several times, with other tokens.
    tokens : list of list of int
        Of each.
    starts_word : torch.Tensor
        Tokens that begin with a space, bool [V].
    bonus : float
        Nats for each token; 0 spots nothing. Default: 2.5.
    floor : float
        Least mean log probability of the tokens of a word, in nats, against short words that are
        heard everywhere: a bonus may outweigh any evidence, the floor may not. Default: -3.
    lift : float
        Nats by which the token of a hit is made more probable than all others of its frame,
        so that n-grams do not turn it away again. Default: 4.

    Raises
    ------
    ValueError
        If a word has no tokens, there are too many words, or a number is out of its range.

    Example
    -------
    >>> starts_word = torch.tensor([True, False, True, False])  # ▁s, un, ▁a, on
    >>> keywords = Keywords(["son"], [[0, 3]], starts_word, bonus=2.0, floor=-3.0, lift=1.0)
    >>> columns = [0, 1, 3]
    >>> probs = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]])
    >>> log_probs, blanks = probs[:, :3].log(), probs[:, 3].log()
    >>> (hit,) = keywords.spot(log_probs, columns, blanks)
    >>> hit.word, hit.start, hit.end, hit.path, round(hit.score, 3)
    ('son', 0, 2, (0, 3), 2.901)
    >>> boosted, _ = keywords.boost(log_probs, columns, blanks)
    >>> [columns[best] for best in boosted[:2].argmax(dim=1)]
    [0, 3]
    """

    def __init__(self, words, tokens, starts_word, bonus=2.5, floor=-3.0, lift=4.0):
        if len(words) > MOST_KEYWORDS:
            raise ValueError(f"{len(words)} keywords; at most {MOST_KEYWORDS} can be expected")
        for word, row in zip(words, tokens, strict=True):
            if not row:
                raise ValueError(f"keyword {word!r} has no tokens")
        if bonus < 0 or lift < 0 or floor > 0:
            raise ValueError(
                f"keywords: bonus {bonus} and lift {lift} must be 0 or more, "
                f"floor {floor} 0 or less"
            )
        self.words, self.tokens = list(words), [list(row) for row in tokens]
        self.starts_word = starts_word.cpu()
        self.bonus, self.floor, self.lift = bonus, floor, lift
        # Scripts without spaces have no words that could be cut.
        self._cut_before = torch.tensor([not needs_space(WIDE, word) for word in self.words])
        self._cut_behind = torch.tensor([not needs_space(word, WIDE) for word in self.words])

    @classmethod
    def from_words(cls, words, tokenizer, vocab_size, bonus=2.5, language=None, **options):
        """Spells words as the tokenizer does.

        Arguments
        ---------
        words : iterable of str
            Words or phrases, spelled as texts of the training are (`normalize_text`). Empty ones
            and those that occur twice are left out.
        tokenizer : Tokenizer
        vocab_size : int
        bonus : float
            Nats for each token. Default: 2.5.
        language : str, optional
            Whose rules of spelling hold. Default: those of all languages.
        **options : dict
            `floor` and `lift`.

        Returns
        -------
        keywords : Keywords

        Raises
        ------
        ValueError
            If the tokenizer does not know a letter, or there are too many words.

        Example
        -------
        >>> from speechbrain_diffasr import DiffusionASR, shipped_model
        >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
        >>> keywords = Keywords.from_words(["Sheriff", "", "sheriff!"], asr.tokenizer, 3072)
        >>> keywords.words
        ['sheriff']
        >>> asr.tokenizer.decode_ids(keywords.tokens[0])
        'sheriff'
        """
        spelled = dict.fromkeys(normalize_text(word, language) for word in words)
        spelled.pop("", None)
        backend = tokenizer.backend
        pieces = backend.convert_ids_to_tokens(list(range(vocab_size)))
        names, tokens = [], []
        for word in spelled:
            # Tokenizers that write no space at the beginning of a text have two spellings.
            ways = [tokenizer.encode_text(word), tokenizer.encode_text(f" {word}")]
            for way in ways[:2]:
                _check_letters(word, way, tokenizer, pieces)
                if pieces[way[0]] == SPACE and not needs_space(WIDE, word):
                    ways.append(way[1:])  # there is none inside of a Chinese text
            ways = list(dict.fromkeys(map(tuple, ways)))
            names += [word] * len(ways)
            tokens += map(list, ways)
        starts_word = torch.tensor([bool(piece) and piece.startswith(SPACE) for piece in pieces])
        return cls(names, tokens, starts_word, bonus, **options)

    def ids(self):
        """Tokens that the evidence must have columns of.

        Returns
        -------
        ids : list of int
            Sorted.
        """
        return sorted({token for row in self.tokens for token in row})

    @torch.no_grad()
    def spot(self, log_probs, columns, blank_log_probs):
        """Finds the keywords in an utterance.

        Arguments
        ---------
        log_probs : torch.Tensor
            Of CTC after a softmax over the whole vocabulary, of some tokens, [T, M]: all of
            `ids()`, and the most probable one of each frame.
        columns : list of int or torch.Tensor
            Which tokens, [M].
        blank_log_probs : torch.Tensor
            [T].

        Returns
        -------
        hits : list of Hit
            In the order of their frames, of which no two share any.

        Raises
        ------
        ValueError
            If a keyword's token has no column.
        """
        columns = torch.as_tensor(columns).tolist()
        places = {token: place for place, token in enumerate(columns)}
        missing = [token for token in self.ids() if token not in places]
        if missing:
            raise ValueError(f"columns: token {missing[0]} of a keyword is not among them")
        if not self.tokens or not len(log_probs):
            return []
        scores = torch.cat([log_probs, blank_log_probs[:, None]], dim=1).float().cpu()
        graph = _Graph(self.tokens, places, blank=len(columns))
        may_enter, may_end = self._edges(scores, columns)
        found = graph.search(scores, may_enter)

        lens = graph.lens.float()
        worth = found.scores + self.bonus * lens  # [T, N]
        heard = found.heard / lens >= self.floor
        ends, rows = ((worth > 0) & heard & may_end).nonzero().unbind(dim=1)
        starts = found.starts[ends, rows]
        values = (part.tolist() for part in (worth[ends, rows], ends, starts, rows))
        # With the tokens at the end: the order in which keywords are listed changes nothing.
        order = sorted(
            zip(*values, strict=True),
            key=lambda hit: (-hit[0], hit[1], hit[2], self.tokens[hit[3]]),
        )
        hits, taken = [], [False] * len(scores)
        for score, last, start, row in order:
            if any(taken[start : last + 1]):
                continue
            taken[start : last + 1] = [True] * (last + 1 - start)
            path = found.trace(row, last, start)
            tokens = self.tokens[row]
            path = tuple(None if state % 2 else tokens[state // 2] for state in path)
            hits.append(Hit(self.words[row], start, last + 1, score, path))
        return sorted(hits, key=lambda hit: hit.start)

    def boost(self, log_probs, columns, blank_log_probs):
        """Makes the keywords that are spotted the most probable at their frames.

        The token of a hit's path, or the blank, gets a log probability that is `lift` above that of
        the best other, if it has not more already; then the frame is made to sum to one again.

        Arguments
        ---------
        log_probs, columns, blank_log_probs
            As `spot` has them.

        Returns
        -------
        log_probs : torch.Tensor
            [T, M]; what was given, if no keyword was spotted.
        blank_log_probs : torch.Tensor
            [T]; the same.
        """
        columns = torch.as_tensor(columns).tolist()
        hits = self.spot(log_probs, columns, blank_log_probs)
        if not hits:
            return log_probs, blank_log_probs
        places = {token: place for place, token in enumerate(columns)} | {None: len(columns)}
        frames, tokens = [], []
        for hit in hits:
            frames += range(hit.start, hit.end)
            tokens += [places[token] for token in hit.path]
        both = torch.cat([log_probs, blank_log_probs[:, None]], dim=1)
        frames = torch.tensor(frames, device=both.device)
        tokens = torch.tensor(tokens, device=both.device)[:, None]
        rows = both[frames].float()
        old = rows.gather(1, tokens)
        others = rows.scatter(1, tokens, -torch.inf).amax(dim=1, keepdim=True)
        new = torch.maximum(old, others + self.lift)
        # What the frame sums to now: 1 - p(old) + p(new). The rest is there without its columns.
        total = torch.log1p((new.exp() - old.exp()).clamp(min=0.0))
        both[frames] = (rows.scatter(1, tokens, new) - total).to(both.dtype)
        return both[:, :-1], both[:, -1]

    def _edges(self, scores, columns):
        """Frames in which each keyword may begin and end, bool [T, N] each."""
        best = scores.argmax(dim=1)
        is_token = best != len(columns)
        is_word = torch.cat([self.starts_word[torch.tensor(columns)], torch.tensor([True])])[best]
        # Whether a frame, or those behind it, is heard as the middle of a word: what is said next.
        goes_on = [False]
        for token, word in zip(is_token.tolist()[::-1], is_word.tolist()[::-1], strict=True):
            goes_on.append(not word if token else goes_on[-1])
        ends = ~torch.tensor(goes_on[-2::-1])  # of what follows on each frame
        begun = is_token.cumsum(dim=0) - is_token.long() > 0
        first = self.starts_word[torch.tensor([row[0] for row in self.tokens])]
        may_enter = ~begun[:, None] | first | self._cut_before
        return may_enter, ends[:, None] | self._cut_behind


class _Graph:
    """Words as rows of states: token, blank behind it, next token, and so on; padded, [N, S]."""

    def __init__(self, tokens, places, blank):
        self.lens = torch.tensor([len(row) for row in tokens])
        width = 2 * int(self.lens.max())
        self.labels = torch.full((len(tokens), width), blank)
        self.open = torch.zeros(len(tokens), width, dtype=torch.bool)  # to the states that exist
        self.skips = torch.zeros(len(tokens), width, dtype=torch.bool)
        for number, row in enumerate(tokens):
            self.labels[number, : 2 * len(row) : 2] = torch.tensor([places[one] for one in row])
            self.open[number, : 2 * len(row)] = True
            # Between two equal tokens there has to be a blank.
            others = [one != before for before, one in pairwise(row)]
            self.skips[number, 2 : 2 * len(row) : 2] = torch.tensor(others, dtype=torch.bool)

    def search(self, scores, may_enter):
        """Best paths [T, N] to the end of each word in each frame; scores are [T, M + 1]."""
        count, width = self.labels.shape
        relative = scores - scores.amax(dim=1, keepdim=True)
        total = torch.full((count, width), -torch.inf)
        starts = torch.zeros(count, width, dtype=torch.long)
        # Log probability of the last token in its best frame, and of those before it together.
        best, before = torch.zeros(count, width), torch.zeros(count, width)
        is_token = torch.arange(width) % 2 == 0
        ends = 2 * self.lens[:, None] - torch.tensor([2, 1])  # the last token and its blank
        rows = torch.arange(count)
        found = _Found([], [], [], [])
        for time, frame in enumerate(scores):
            values = frame[self.labels]
            ways = torch.stack(
                [
                    total,
                    _shift(total, 1, -torch.inf),
                    _shift(total, 2, -torch.inf).masked_fill(~self.skips, -torch.inf),
                    torch.full_like(total, -torch.inf),
                ]
            )
            ways[ENTER, :, 0] = torch.where(may_enter[time], 0.0, -torch.inf)
            # Of equal ones the first: a path goes on rather than to begin again.
            total, came = ways.max(dim=0)
            total = (total + relative[time][self.labels]).masked_fill(~self.open, -torch.inf)

            def follow(tensor, came=came):
                moved = torch.stack([tensor, _shift(tensor, 1, 0), _shift(tensor, 2, 0), tensor])
                return moved.gather(0, came[None])[0]

            moved, entered = (came == STEP) | (came == SKIP), came == ENTER
            starts = torch.where(entered, time, follow(starts))
            last, older = follow(best), follow(before)
            new = is_token & (moved | entered)
            before = torch.where(new, (older + last).masked_fill(entered, 0.0), older)
            best = torch.where(new, values, torch.where(is_token, last.maximum(values), last))
            end = ends.gather(1, total.gather(1, ends).argmax(dim=1, keepdim=True))[:, 0]
            found.scores.append(total[rows, end])
            found.starts.append(starts[rows, end])
            found.heard.append((before + best)[rows, end])
            found.back.append((came.to(torch.uint8), end))
        return _Found(*map(torch.stack, (found.scores, found.starts, found.heard)), found.back)


@dataclass(frozen=True)
class _Found:
    """What the search found: `scores`, first frames and summed log probabilities, [T, N] each."""

    scores: torch.Tensor
    starts: torch.Tensor
    heard: torch.Tensor
    back: list

    def trace(self, row, last, start):
        """States of a path, from its end to its beginning and then turned around."""
        state = int(self.back[last][1][row])
        states = []
        for time in range(last, start - 1, -1):
            states.append(state)
            way = int(self.back[time][0][row, state])
            state -= {STEP: 1, SKIP: 2}.get(way, 0)
        return states[::-1]


def _shift(tensor, places, fill):
    """Moves states [N, S] so that each finds what lay so many before it."""
    return torch.nn.functional.pad(tensor, (places, 0), value=fill)[:, : tensor.shape[1]]


def _check_letters(word, tokens, tokenizer, pieces):
    """Refuses what the model has no tokens for: it cannot have learned to write it."""
    known = tokenizer.decode_ids(tokens) == word
    if known and not any(piece.startswith("<0x") for piece in map(pieces.__getitem__, tokens)):
        return
    unknown = [
        letter
        for letter in word
        if any(pieces[one].startswith("<0x") for one in tokenizer.encode_text(letter))
        or tokenizer.decode_ids(tokenizer.encode_text(letter)) != letter.strip()
    ]
    what = f"the letter {unknown[0]!r}" if unknown else "some of its letters"
    raise ValueError(
        f"keyword {word!r}: the model's tokenizer does not know {what}; spell the word with "
        "letters of the model's languages, as it sounds, or leave it out"
    )


def read_keywords(path):
    """Reads words to expect from a file.

    Arguments
    ---------
    path : str or Path
        UTF-8 text, a word or phrase on each line; empty lines, and what begins with #, are passed
        over.

    Returns
    -------
    words : list of str
        As they are written.

    Raises
    ------
    DiffASRError
        If it is missing, is no text, or has too many words or none.

    Example
    -------
    >>> path = getfixture("tmp_path") / "names.txt"
    >>> _ = path.write_text("# friends\\nSiobhan\\n\\nNew York\\n")
    >>> read_keywords(path)
    ['Siobhan', 'New York']
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DiffASRError.of(path, "no such file; give a text file with a word a line") from None
    except OSError as error:
        raise DiffASRError.of(path, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DiffASRError.of(
            path, f"not UTF-8 text (byte {error.start}); save it as text in UTF-8, a word a line"
        ) from None
    if "\0" in text:
        raise DiffASRError.of(path, "not text; save it as text in UTF-8, a word a line")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    if not words:
        raise DiffASRError.of(path, "no keywords in it; write a word or phrase on each line")
    if len(words) > MOST_KEYWORDS:
        raise DiffASRError.of(
            path, f"{len(words)} keywords; keep the {MOST_KEYWORDS} that matter, or fewer"
        )
    return words
