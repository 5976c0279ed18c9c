"""Words of a transcript with their times and confidence."""

import math
import unicodedata
from collections import Counter
from dataclasses import dataclass

import torch

from speechbrain_diffasr.decoders.align import align_tokens, frame_seconds
from speechbrain_diffasr.pauses import find_pauses, place_edges

# Scripts written without spaces, whose characters count as words: Thai, Lao, Burmese, Khmer,
# kana and Han.
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip


@dataclass(frozen=True)
class Word:
    """A word of a transcript.

    Arguments
    ---------
    text : str
        The word, with punctuation attached; in scripts without spaces, a character.
    start, end : float
        Seconds from the beginning of the audio.
    confidence : float
        From 0 to 1.
    space : bool
        Whether a space stands before it in the text.
    """

    text: str
    start: float
    end: float
    confidence: float
    space: bool


@dataclass(frozen=True)
class TokenWord:
    """A word and the tokens that spell it.

    Arguments
    ---------
    text : str
    space : bool
        Whether a space stands before it in the text.
    first, last : int
        Its tokens, both included.
    start_share, end_share : float
        Where in the first token it starts and where in the last it ends, from 0 to 1: a token may
        spell more than one word.
    """

    text: str
    space: bool
    first: int
    last: int
    start_share: float
    end_share: float


def join_words(words):
    """Joins words to the text that they are from.

    Arguments
    ---------
    words : list
        Of anything that has `text` and `space`.

    Returns
    -------
    text : str

    Example
    -------
    >>> join_words([Word("你", 0.0, 0.5, 0.9, False), Word("ok", 0.5, 1.0, 0.8, True)])
    '你 ok'
    """
    return "".join(" " * word.space + word.text for word in words)


def split_text(text):
    """Splits a text at spaces, and where a script has none, into characters.

    Combining marks and punctuation stay with the character before them, opening punctuation with
    the one behind.

    Arguments
    ---------
    text : str
        With single spaces.

    Returns
    -------
    spans : list of tuple of int
        Start and end of each word.

    Example
    -------
    >>> text = "क्या हाँ 我用iphone看，《3.5》"
    >>> [text[start:end] for start, end in split_text(text)]
    ['क्या', 'हाँ', '我', '用', 'iphone', '看，', '《3.5》']
    """
    spans = []
    begins, wordy, unspaced = True, False, False  # of the word that is being read
    for place, character in enumerate(text):
        if character == " ":
            begins = True
            continue
        category = unicodedata.category(character)
        is_wordy = category[0] in "LN"
        alone = any(low <= ord(character) <= high for low, high in _UNSPACED)
        divides = (is_wordy and (alone or unspaced)) or (category in ("Ps", "Pi") and unspaced)
        if begins or (wordy and divides):
            spans.append((place, place + 1))
            begins, wordy, unspaced = False, False, False
        spans[-1] = (spans[-1][0], place + 1)
        if is_wordy:
            wordy, unspaced = True, alone
    return spans


def split_words(tokens, decode):
    """Finds the words of a transcript and the tokens that spell them.

    A character belongs to the token with which it first appears when ever more tokens are
    decoded, so that any tokenizer will do: one that spells rare characters as bytes, or several
    words as one token.

    Arguments
    ---------
    tokens : list of int
    decode : callable
        Turns tokens into text with single spaces, as `Tokenizer.decode_ids`.

    Returns
    -------
    words : list of TokenWord
        Joined by `join_words` they are the text.

    Example
    -------
    >>> pieces = [" he", "ll", "o", " you two"]
    >>> words = split_words([0, 1, 2, 3], lambda row: "".join(pieces[i] for i in row).strip())
    >>> [(word.text, word.first, word.last) for word in words]
    [('hello', 0, 2), ('you', 3, 3), ('two', 3, 3)]
    >>> words[1].end_share, words[2].start_share
    (0.5, 0.5)
    """
    text = decode(tokens)
    owners, known = [], 0  # token of each character
    for place in range(len(tokens)):
        known = max(known, _common_prefix(decode(tokens[: place + 1]), text))
        owners += [place] * (known - len(owners))
    # Where in its token each character lies; spaces take no time.
    visible = [owner for owner, character in zip(owners, text, strict=True) if character != " "]
    counts = Counter(visible)
    shares, seen = [], dict.fromkeys(counts, 0)
    for owner, character in zip(owners, text, strict=True):
        total, before = max(1, counts[owner]), seen.get(owner, 0)
        shares.append((before / total, (before + 1) / total))
        if character != " ":
            seen[owner] += 1
    words, unused = [], 0
    for start, end in split_text(text):
        first, last = owners[start], owners[end - 1]
        # The first bytes of a character show nothing yet, nor does the space before it.
        while (
            first > unused
            and shares[start][0] == 0
            and not _is_mute(tokens[first - 1], tokens[first], decode)
        ):
            first -= 1
        start_share = shares[start][0] if first == owners[start] else 0.0
        words.append(
            TokenWord(
                text=text[start:end],
                space=start > 0 and text[start - 1] == " ",
                first=first,
                last=last,
                start_share=start_share,
                end_share=shares[end - 1][1],
            )
        )
        unused = last + 1
    return words


class WordAligner:
    """Gives the words of transcripts their times and confidence.

    Times come from a CTC alignment on the projector's frames (160 ms at full size, 80 ms in
    diffasr-tiny), through the output layer that the projector was trained with, and from the
    pauses of the audio; see `align_tokens` and `place_edges`.

    A token's probability is a geometric mean of two: what the denoiser gave it at its last step,
    and what CTC gives it at the best of its frames. A word is as sure as its least sure token.
    `benchmarks/timestamps.py` measures all of this.

    Arguments
    ---------
    encoder : torch.nn.Module
        With the parts `whisper` and `projector`.
    decoder : DiffusionSearcher
        Whose language model has the output layer, and whose prompt the tokenizer and the blank.
    gap_share : float
        Of the time between two words, the share that the first one takes. Default: 0.6.
    min_pause : float
        Seconds of silence between words that belong to neither. Default: 0.1.
    acoustic_share : float
        Weight of CTC in the confidence, from 0 (denoiser alone) to 1. Default: 0.5.
    temperature : float
        Divides log probabilities of words: over 1 if words are more often right than their
        confidence says. Default: 1.0.
    chunk_size : int
        Frames whose logits are in memory at once. Default: 256.

    Example
    -------
    >>> from pathlib import Path
    >>> from speechbrain_diffasr.inference import DiffusionASR, default_model
    >>> asr = DiffusionASR.from_hparams(default_model())
    >>> wav = asr.load_audio(Path(default_model()) / "samples" / "de_1.wav")
    >>> audio = asr.encode_batch(wav[None], torch.ones(1))
    >>> (found,) = asr.mods.decoder.search(audio, languages=["de"])
    >>> aligner = WordAligner(asr.mods.encoder, asr.mods.decoder)
    >>> (words,) = aligner([wav], audio, [found.tokens], [found.log_probs])
    >>> [word.text for word in words]
    ['ich', 'weiß', 'es', 'nicht', 'mehr']
    >>> 0 < words[1].start < words[1].end <= words[2].start < len(wav) / asr.sample_rate
    True
    """

    def __init__(
        self,
        encoder,
        decoder,
        gap_share=0.6,
        min_pause=0.1,
        acoustic_share=0.5,
        temperature=1.0,
        chunk_size=256,
    ):
        self.model = decoder.model
        self.tokenizer = decoder.prompt.tokenizer
        self.blank = self.tokenizer.token_id(decoder.prompt.slot_token)
        self.sample_rate = encoder.whisper.sample_rate
        self.frame = frame_seconds(encoder.whisper, encoder.projector)
        self.gap_share = gap_share
        self.min_pause = min_pause
        self.acoustic_share = acoustic_share
        self.temperature = temperature
        self.chunk_size = chunk_size

    def __call__(self, wavs, audio, tokens, log_probs=None):
        """Finds the words of a batch.

        Arguments
        ---------
        wavs : list of torch.Tensor
            Waveforms [T] at the model's sample rate, without padding.
        audio : torch.Tensor
            Projected audio, [B, T, D], from `DiffusionASR.encode_batch`.
        tokens : list of list of int
            Of each transcript.
        log_probs : list of torch.Tensor, optional
            What the denoiser gave the tokens of each canvas at its last step, in nats, [C].
            Default: unknown, such as of a given text; words are then as sure as CTC is.

        Returns
        -------
        words : list of list of Word
            Of each utterance; none for an empty transcript.
        """
        durations = [len(wav) / self.sample_rate for wav in wavs]
        lengths = [duration / self.frame for duration in durations]
        alignments = align_tokens(
            audio, self.model.head, tokens, lengths, self.blank, self.chunk_size
        )
        if log_probs is None:
            log_probs = [torch.tensor(alignment.log_probs) for alignment in alignments]
        return [
            self._words(wav, row, scores.tolist()[: len(row)], alignment)
            for wav, row, scores, alignment in zip(wavs, tokens, log_probs, alignments, strict=True)
        ]

    def edges(self, spans, wav):
        """Places the edges of an utterance's words.

        Arguments
        ---------
        spans : list of tuple of float
            Seconds between which the frames of each word lie.
        wav : torch.Tensor
            [T].

        Returns
        -------
        edges : list of tuple of float
            Start and end of each word in seconds.
        """
        pauses = find_pauses(wav, self.sample_rate, self.min_pause)
        duration = len(wav) / self.sample_rate
        return place_edges(spans, pauses, duration, self.frame, self.gap_share)

    def _words(self, wav, tokens, log_probs, alignment):
        """Words of one utterance."""
        pieces = split_words(tokens, self.tokenizer.decode_ids)
        if not pieces:
            return []
        starts = [self.frame * start for start in alignment.starts]
        ends = [self.frame * end for end in alignment.ends]

        def place(token, share):
            return starts[token] + share * (ends[token] - starts[token])

        spans = [
            (place(piece.first, piece.start_share), place(piece.last, piece.end_share))
            for piece in pieces
        ]
        edges = self.edges(spans, wav)
        sure = [
            (1 - self.acoustic_share) * denoiser + self.acoustic_share * acoustic
            for denoiser, acoustic in zip(log_probs, alignment.log_probs, strict=True)
        ]
        return [
            Word(
                text=piece.text,
                start=start,
                end=end,
                confidence=word_confidence(sure[piece.first : piece.last + 1], self.temperature),
                space=piece.space,
            )
            for piece, (start, end) in zip(pieces, edges, strict=True)
        ]


def word_confidence(log_probs, temperature=1.0):
    """How sure a word is: as its least sure token.

    Arguments
    ---------
    log_probs : list of float
        Of its tokens, in nats.
    temperature : float
        Divides them.

    Returns
    -------
    confidence : float
        From 0 to 1.

    Example
    -------
    >>> round(word_confidence([math.log(0.9), math.log(0.64)], temperature=2.0), 3)
    0.8
    """
    return math.exp(min(0.0, *log_probs) / temperature)


def _is_mute(token, following, decode):
    """Whether a token changes nothing in a text, as special tokens do."""
    return decode([following, token, following]) == decode([following, following])


def _common_prefix(one, other):
    """Number of characters that two texts have in common at their beginning."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
