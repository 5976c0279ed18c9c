"""Times and confidence of words."""

import math
from collections import Counter
from dataclasses import dataclass

import torch

from speechbrain_diffasr.decoders.ctc import align_tokens, frame_seconds
from speechbrain_diffasr.segmentation.levels import find_pauses
from speechbrain_diffasr.text.spacing import split_text
from speechbrain_diffasr.transcripts.types import Word

SHORTEST_WORD = 0.04  # s that a word keeps beside a pause
LONGEST_REACH = 0.4  # s that a word may last before and behind its frames
# What gives the tokens of a transcript their probabilities, by the settings of the decoder. Where a
# text is chosen among several it is the causal language model; else the denoiser, joined with CTC
# or alone, at its last step.
SOURCES = "ranked", "joint", "denoiser"
LEAST_CHANCE = 1e-300  # that is told from none


def place_edges(spans, pauses, duration, frame, gap_share=0.6):
    """Decides from the frames of words and from the pauses where words start and end.

    CTC marks words, but not their edges. Between the frames of two words lies

    - a pause, if the audio has one there: the first word ends where it starts, the second starts
      where it ends. It may reach over the frames of the second, since a token may be recognized
      before it is spoken, and by half a frame into those of the first;
    - otherwise an edge that divides the gap, since speech goes on: by a share of it, so that the
      edge lies between frames. In a long gap both words end or start within 0.4 s.

    Arguments
    ---------
    spans : list of tuple of float
        Seconds between which the frames of each word lie, in order.
    pauses : list of tuple of float
        From `find_pauses`.
    duration : float
        Of the audio in seconds.
    frame : float
        Seconds of a frame.
    gap_share : float
        How much of a gap goes to the word before it. Default: 0.6.

    Returns
    -------
    edges : list of tuple of float
        Start and end of each word in seconds: rising, within the audio.

    Example
    -------
    >>> spans = [(0.0, 0.1), (0.5, 0.6), (1.2, 1.3)]
    >>> edges = place_edges(spans, [(0.0, 0.05), (0.7, 1.1), (1.5, 2.0)], 2.0, 0.1)
    >>> [(round(start, 2), round(end, 2)) for start, end in edges]
    [(0.05, 0.36), (0.36, 0.7), (1.1, 1.5)]
    """
    if not spans:
        return []
    onsets, offsets = [start for start, _ in spans], [end for _, end in spans]
    # Until the next word begins, or the audio ends, a late word may start.
    limits = [*onsets[1:], duration]
    early = [
        (start, end)
        for start, end in pauses
        if start <= onsets[0] and end <= limits[0] - SHORTEST_WORD
    ]
    begin = early[-1][1] if early else max(0.0, onsets[0] - LONGEST_REACH)
    edges = []
    for index, limit in enumerate(limits):
        # A word that starts behind its frames lasts at least for one, if there is room.
        offset = min(max(offsets[index], begin + frame), max(limit, offsets[index]))
        is_last = index == len(spans) - 1
        latest = duration if is_last else limits[index + 1] - SHORTEST_WORD
        fitting = [
            (start, end)
            for start, end in pauses
            if start >= begin + SHORTEST_WORD
            and offset - frame / 2 < end <= latest
            and start < limit
        ]
        if fitting:
            # Behind the last word its own sound ends with the first pause.
            pause = fitting[0] if is_last else max(fitting, key=lambda p: p[1] - p[0])
            end, following = pause
        elif is_last:
            end = following = min(duration, offset + LONGEST_REACH)
        else:
            gap = limit - offset
            end = offset + min(gap_share * gap, LONGEST_REACH)
            following = max(end, limit - LONGEST_REACH)
            following = end if following - end < SHORTEST_WORD else following
        edges.append((begin, max(begin, end)))
        begin = max(begin, following)
    return edges


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
    for index in range(len(tokens)):
        known = max(known, _common_prefix(decode(tokens[: index + 1]), text))
        owners += [index] * (known - len(owners))
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

    A token's probability is a geometric mean of two: what decoding gave it, by one of `SOURCES`,
    and what CTC gives it at the best of its frames. A word is as sure as its least sure token,
    which `word_confidence` calibrates. `benchmarks/timestamps.py` measures all of this, and
    `benchmarks/confidence.py` fits the calibration.

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
        confidence says; a recognizer takes `word_temperature` of its hyperparams.yaml, if that is
        there. Default: 1.0.
    calibration : dict, optional
        For some of `SOURCES` the three numbers of `word_confidence`, in place of a temperature:
        what is sure in one is less so in another. A recognizer takes `word_calibration` of its
        hyperparams.yaml, if that is there. Default: none.
    chunk_size : int
        Frames whose logits are in memory at once. Default: 256.

    Example
    -------
    >>> from pathlib import Path
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> wav = asr.load_audio(Path(shipped_model("diffasr-tiny")) / "samples" / "de_1.wav")
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
        calibration=None,
        chunk_size=256,
    ):
        self.decoder = decoder
        self.model = decoder.model
        self.tokenizer = decoder.prompt.tokenizer
        self.blank = self.tokenizer.token_id(decoder.prompt.slot_token)
        self.sample_rate = encoder.whisper.sample_rate
        self.frame = frame_seconds(encoder.whisper, encoder.projector)
        self.gap_share = gap_share
        self.min_pause = min_pause
        self.acoustic_share = acoustic_share
        self.temperature = temperature
        self.calibration = check_calibration(calibration)
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

    @property
    def source(self):
        """What gave tokens their probabilities, as the decoder is set: one of `SOURCES`."""
        several = self.decoder.candidates > 1 and self.decoder.choose == "likelihood"
        if self.decoder.readings or several:
            return "ranked"
        return "joint" if self.decoder.ctc_weight else "denoiser"

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
        calibration = self.calibration.get(self.source)
        return [
            Word(
                text=piece.text,
                start=start,
                end=end,
                confidence=word_confidence(
                    sure[piece.first : piece.last + 1], self.temperature, calibration
                ),
                space=piece.space,
            )
            for piece, (start, end) in zip(pieces, edges, strict=True)
        ]


def check_calibration(calibration):
    """Checks that confidence can be calibrated so, and that the order of words is kept.

    Arguments
    ---------
    calibration : dict or None
        As `WordAligner` takes it.

    Returns
    -------
    calibration : dict
        Empty for None.

    Raises
    ------
    ValueError
        If a source is unknown, or its numbers are not three, or weights are below 0.
    """
    calibration = {} if calibration is None else calibration
    if not isinstance(calibration, dict) or not calibration.keys() <= set(SOURCES):
        raise ValueError(f"word_calibration: {calibration!r}; expected some of {SOURCES}")
    for source, numbers in calibration.items():
        if len(numbers) != 3 or min(numbers[:2]) < 0:
            raise ValueError(
                f"word_calibration: {source}: {numbers!r}; expected two weights and a bias"
            )
    return calibration


def word_confidence(log_probs, temperature=1.0, calibration=None):
    """How sure a word is: as its least sure token, calibrated.

    One number divides the log probability: temperature scaling (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599). Three numbers a, b and c make the log odds
    a log(p) - b log(1 - p) + c: beta calibration (Kull et al. 2017,
    https://proceedings.mlr.press/v54/kull17a.html), which with a = b is Platt's sigmoid of log odds
    (1999, "Probabilistic outputs for support vector machines"). Neither lets a word get ahead of
    another.

    Arguments
    ---------
    log_probs : list of float
        Of its tokens, in nats.
    temperature : float
        Divides them. Default: 1.0.
    calibration : sequence of float, optional
        The three numbers, instead; the first two are 0 or more. Default: none.

    Returns
    -------
    confidence : float
        From 0 to 1.

    Example
    -------
    >>> tokens = [math.log(0.9), math.log(0.64)]
    >>> round(word_confidence(tokens, temperature=2.0), 3)
    0.8
    >>> round(word_confidence(tokens, calibration=(0.5, 0.5, math.log(1.5))), 3)
    0.667
    """
    log_prob = min(0.0, *log_probs)
    if calibration is None:
        return math.exp(log_prob / temperature)
    sure, doubtful, bias = calibration
    # Of being wrong: exact where a word is nearly certain. Certainty either way is finite.
    wrong = max(-math.expm1(log_prob), LEAST_CHANCE)
    score = sure * max(log_prob, math.log(LEAST_CHANCE)) - doubtful * math.log(wrong) + bias
    return math.exp(min(0.0, score)) / (1 + math.exp(-abs(score)))


def _is_mute(token, following, decode):
    """Whether a token changes nothing in a text, as special tokens do."""
    return decode([following, token, following]) == decode([following, following])


def _common_prefix(one, other):
    """Number of characters that two texts have in common at their beginning."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
