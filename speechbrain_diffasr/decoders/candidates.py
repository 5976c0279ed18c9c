"""Other readings of an utterance, and which of them its models find most likely together.

A denoised canvas is one reading. CTC's prefix beam gives others, near to the sounds, and with
n-grams to what is usually said; the language model, whose causal half was trained to write the
transcript behind the prompt, knows which of them anybody would say. Their log-likelihoods are added
up, as in joint decoding by CTC and attention (Watanabe et al.,
https://doi.org/10.1109/JSTSP.2017.2763455), over whole texts at once.
"""

import unicodedata
from dataclasses import dataclass

import torch
from torchaudio.functional import edit_distance

from speechbrain_diffasr.decoders.canvas import fill_canvas
from speechbrain_diffasr.decoders.prefixes import Taste, search_prefixes
from speechbrain_diffasr.lobes.output_layer import head_logits, token_log_probs
from speechbrain_diffasr.text.spacing import split_text

# Of CTC in the search, which has no other evidence.
LEAST_WEIGHT = 0.1


@dataclass(frozen=True)
class Candidate:
    """A reading and what the models say of it.

    Arguments
    ---------
    tokens : list of int
    score : float
        What candidates are ordered by: nats, or minus the errors that are expected of it.
    ctc : float, optional
        Its log-likelihood by CTC; minus infinity if the frames are too few for it.
    ngram : float, optional
        By n-grams; 0 without any.
    log_probs : torch.Tensor
        Log probability by the language model of each token and of the end behind them, [U + 1]; of
        a canvas that was elected, of each of its tokens, [C].
    """

    tokens: list
    score: float
    ctc: float | None = None
    ngram: float | None = None
    log_probs: torch.Tensor | None = None


def find_letters(pieces, scripts):
    """Which pieces a language can be written with.

    Arguments
    ---------
    pieces : list of str
        Of a tokenizer; None for a token that it does not have.
    scripts : list of str
        First words of the Unicode names of the language's letters.

    Returns
    -------
    allowed : torch.Tensor
        True for pieces that have no letters but these, if any, bool [V].

    Example
    -------
    >>> find_letters(["▁the", "7", "ह", "ि", "हे a", None], ["LATIN"]).tolist()
    [True, True, False, False, False, False]
    """

    def is_foreign(character):
        is_letter = unicodedata.category(character)[0] in "LM"  # or a vowel sign or an accent
        script = unicodedata.name(character, "").split(" ")[0]
        return is_letter and script not in (*scripts, "COMBINING")

    return torch.tensor([piece is not None and not any(map(is_foreign, piece)) for piece in pieces])


@torch.no_grad()
def score_ctc(log_probs, readings, blank):
    """Log-likelihood of readings by CTC.

    Arguments
    ---------
    log_probs : torch.Tensor
        [T, V].
    readings : list of list of int
    blank : int
        Index of the blank; a reading that has it cannot be.

    Returns
    -------
    scores : list of float
        Minus infinity where the frames are too few.

    Example
    -------
    >>> log_probs = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25]]).log()
    >>> [round(score, 4) for score in score_ctc(log_probs, [[1], [1, 2], [1, 1], []], blank=0)]
    [-0.47, -2.0794, -inf, -2.0794]
    """
    lens = torch.tensor([len(tokens) for tokens in readings])
    losses = torch.nn.functional.ctc_loss(
        log_probs.float().cpu()[:, None].expand(-1, len(readings), -1),
        fill_canvas(readings, max(1, int(lens.max())), blank),
        torch.full((len(readings),), len(log_probs)),
        lens,
        blank=blank,
        reduction="none",
    )
    impossible = torch.tensor([blank in tokens for tokens in readings])
    return (-losses).masked_fill(impossible, -torch.inf).tolist()


@torch.no_grad()
def score_text(model, prompt, readings, end, chunk_size):
    """Log probabilities of readings behind a prompt, by the causal half of a language model.

    Arguments
    ---------
    model : DiffusionGemma
    prompt : torch.Tensor
        Embeddings of the prompt with its audio, [1, T, D]; it is read once.
    readings : list of list of int
    end : int
        The token behind each.
    chunk_size : int
        Rows of logits in memory at once.

    Returns
    -------
    log_probs : list of torch.Tensor
        Of the tokens of each and of its end, float32 [U + 1].
    """
    width = 1 + max(map(len, readings))
    tokens = fill_canvas(readings, width, end, prompt.device)  # [N, L]
    hidden = model.follow(prompt, tokens)
    lens = torch.tensor([len(tokens) + 1 for tokens in readings], device=prompt.device)
    keep = torch.arange(width, device=prompt.device) < lens[:, None]
    weight, softcap = model.head.weight, model.head.softcap
    flat = hidden.reshape(-1, hidden.shape[-1])
    log_probs = token_log_probs(
        flat, weight, tokens.reshape(-1, 1), keep.reshape(-1), softcap, chunk_size
    )
    log_probs = log_probs.view(len(readings), width).float().cpu()
    return [row[: len(tokens) + 1] for row, tokens in zip(log_probs, readings, strict=True)]


def expected_errors(texts):
    """How many word errors each text has on average, if any of them may be what was said.

    The text with the fewest is that of least Bayes risk, as in ROVER and its kin (Goel and Byrne,
    https://doi.org/10.1006/csla.2000.0138); characters count as words where a script has no spaces.

    Arguments
    ---------
    texts : list of str

    Returns
    -------
    errors : list of float

    Example
    -------
    >>> expected_errors(["so it is", "so is it", "so it is", "so"])
    [1.0, 1.5, 1.0, 1.5]
    """
    words = [[text[start:stop] for start, stop in split_text(text)] for text in texts]
    table = [[edit_distance(one, other) for other in words] for one in words]
    return [sum(row) / len(row) for row in table]


class CandidateRanker:
    """Orders readings of an utterance by what its models say of them.

    The score of a text is w · log p_CTC + (1 - w) · log p_causal + v · log p_ngram + b · tokens.

    Arguments
    ---------
    model : DiffusionGemma
    blank : int
        Token of a slot in which nothing is said.
    end : int
        End-of-text token.
    count : int
        Readings of CTC that are tried beside those that are given; 0 for none.
    ctc_weight : float
        w, of CTC's log-likelihood; the language model's has one minus it.
    ngram : TokenNGram, optional
        What is usually said. Default: none.
    ngram_weight : float
        v. Default: 0.
    token_bonus : float
        b, in nats, against the taste of n-grams for short texts. Default: 0.
    chunk_size : int
        Rows of logits in memory at once. Default: 256.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> model, tokenizer = asr.mods.decoder.model, asr.tokenizer
    >>> rank = CandidateRanker(model, tokenizer.token_id("<|audio|>"), tokenizer.eos_id, 4, 0.5)
    >>> audio = asr.encode_batch(torch.rand(1, 16000), torch.ones(1))[0]
    >>> first, *others = rank(audio[:13], model.embed(torch.tensor([[2, 3]])), [[300, 301]])
    >>> first.score >= max(one.score for one in others)
    True
    """

    def __init__(
        self,
        model,
        blank,
        end,
        count,
        ctc_weight,
        ngram=None,
        ngram_weight=0.0,
        token_bonus=0.0,
        chunk_size=256,
    ):
        self.model, self.blank, self.end = model, blank, end
        self.count, self.ctc_weight, self.chunk_size = count, ctc_weight, chunk_size
        self.ngram = ngram if ngram_weight else None
        self.ngram_weight, self.token_bonus = ngram_weight, token_bonus

    def __call__(self, audio, prompt, readings, allowed=None, language=None, keywords=None):
        """Finds other readings and orders them all.

        Arguments
        ---------
        audio : torch.Tensor
            Projected audio of an utterance, [T, D], without the silence behind it.
        prompt : torch.Tensor
            Embeddings of its prompt, [1, P, D].
        readings : list of list of int
            Denoised canvases.
        allowed : torch.Tensor, optional
            Tokens that CTC may read, the blank among them, bool [V]. Default: all.
        language : str, optional
            Of the n-grams. Default: the one that CTC's reading is likeliest in. In a language that
            they do not have they say nothing, and tokens have no bonus.
        keywords : Keywords, optional
            Words to expect, which CTC then hears sooner. Default: none.

        Returns
        -------
        candidates : list of Candidate
            The most likely one first.
        """
        head = self.model.head
        rows = audio.to(head.weight.dtype).split(self.chunk_size)
        log_probs = torch.cat(
            [head_logits(row, head.weight, head.softcap).log_softmax(dim=-1) for row in rows]
        )
        if keywords is not None:
            log_probs = self._expect(log_probs, keywords)
        heard = log_probs
        if allowed is not None:
            heard = heard.masked_fill(~allowed.to(heard.device), -torch.inf)
        taste = self._taste(heard, language)
        found = list(readings)
        if self.count:
            found += search_prefixes(heard, self.blank, self.count, taste)
        found = list(dict.fromkeys(map(tuple, found)))
        usual, bonus = [0.0] * len(found), 0.0
        if taste is not None:
            usual, bonus = self.ngram.score(taste.language, found), self.token_bonus
        candidates = [
            Candidate(
                list(tokens),
                self._weigh(ctc, float(text.sum()), ngram) + bonus * len(tokens),
                ctc,
                ngram,
                text,
            )
            for tokens, ctc, text, ngram in zip(
                found,
                score_ctc(log_probs, found, self.blank),
                score_text(self.model, prompt, found, self.end, self.chunk_size),
                usual,
                strict=True,
            )
        ]
        return sorted(candidates, key=lambda one: one.score, reverse=True)

    def _expect(self, log_probs, keywords):
        """What CTC hears, keywords sooner."""
        others = [token for token in range(log_probs.shape[1]) if token != self.blank]
        some, silence = keywords.boost(log_probs[:, others], others, log_probs[:, self.blank])
        boosted = log_probs.clone()
        boosted[:, others], boosted[:, self.blank] = some, silence
        return boosted

    def _taste(self, log_probs, language):
        """What the search is to prefer, in nats of CTC's."""
        if self.ngram is None:
            return None
        if language is None:
            (reading, *_) = search_prefixes(log_probs, self.blank, 1)
            language = self.ngram.guess_language(reading)
        if language not in self.ngram.languages:
            return None
        scale = max(self.ctc_weight, LEAST_WEIGHT)
        return Taste(self.ngram, language, self.ngram_weight / scale, self.token_bonus / scale)

    def _weigh(self, ctc, text, ngram):
        """The sum; what CTC does not count cannot be impossible by it."""
        heard = self.ctc_weight * ctc if self.ctc_weight else 0.0
        read = (1 - self.ctc_weight) * text
        return heard + read + self.ngram_weight * ngram
