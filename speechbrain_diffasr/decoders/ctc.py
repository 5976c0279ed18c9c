"""CTC: what the projected audio says by itself, and when each token of a text was said."""

import math
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torchaudio.functional import forced_align, merge_tokens

from speechbrain_diffasr.lobes.output_layer import head_logits, token_log_probs
from speechbrain_diffasr.lobes.whisper import MEL_FRAMES_PER_FRAME


@dataclass(frozen=True)
class Alignment:
    """Where the tokens of an utterance lie among its frames.

    A frame is what the projector makes of 160 ms of audio at full size, of 80 ms in diffasr-tiny.
    CTC marks where a token is recognized, often in a single frame, and not how long it lasts.

    Arguments
    ---------
    starts, ends : list of float
        Frames between which each token lies: whole numbers, unless the audio ends within the
        frame or the tokens are spread.
    log_probs : list of float
        Log probability of each token at the best of its frames, in nats.
    forced : bool
        False if CTC has no path, so that the tokens are spread evenly.
    """

    starts: list
    ends: list
    log_probs: list
    forced: bool


def frame_seconds(whisper, projector):
    """Seconds from one projected frame to the next.

    Arguments
    ---------
    whisper : WhisperEncoder
    projector : ConvProjector

    Returns
    -------
    seconds : float
        0.16 at full size, 0.08 in diffasr-tiny.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> encoder = DiffusionASR.from_hparams(shipped_model("diffasr-tiny")).mods.encoder
    >>> frame_seconds(encoder.whisper, encoder.projector)
    0.08
    """
    stride = MEL_FRAMES_PER_FRAME * 2 ** len(projector.convs)
    return stride * whisper.hop / whisper.sample_rate


@torch.no_grad()
def align_tokens(audio, head, tokens, lengths, blank, chunk_size=256):
    """Finds the most probable CTC path of each utterance's tokens.

    Of the vocabulary only the utterance's own tokens and the blank are kept, after a softmax over
    all of it. Where CTC has no path, because the tokens, and one blank between each two equal
    neighbours, outnumber the frames, the tokens are spread evenly over the audio. The blank may
    be among the tokens: it is heard nowhere, takes no time where the next token starts, and its
    log probability is zero.

    Arguments
    ---------
    audio : torch.Tensor
        Projected audio, [B, T, D]. It is multiplied in the precision of the output layer.
    head : Head
        The output layer that CTC was trained through.
    tokens : list of list of int
        Of each utterance, as many as there are.
    lengths : list of float
        Audio of each utterance, in frames; a frame counts if it begins within.
    blank : int
        Index of the blank in the vocabulary.
    chunk_size : int
        Frames whose logits are in memory at once, counted over the whole batch. Default: 256
        (0.25 GiB in float32 at 262,144 tokens).

    Returns
    -------
    alignments : list of Alignment
        Of each utterance.

    Raises
    ------
    ValueError
        If a token is outside of the vocabulary.

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> frames = torch.tensor([[0, 0, 3, 3, 0, 2, 0, 1]])  # the most probable token of each
    >>> audio = torch.nn.functional.one_hot(frames, 4).float()
    >>> (found,) = align_tokens(audio, Head(9 * torch.eye(4)), [[3, 2]], [7], blank=0)
    >>> found.starts, found.ends
    ([2.0, 5.0], [4.0, 6.0])
    >>> (spread,) = align_tokens(audio, Head(9 * torch.eye(4)), [[3, 3]], [2], blank=0)
    >>> spread.forced, spread.starts, spread.ends
    (False, [0.0, 1.0], [1.0, 2.0])
    """
    vocab_size = head.weight.shape[0]
    wrong = [token for row in tokens for token in row if not 0 <= token < vocab_size]
    if wrong:
        raise ValueError(f"tokens: {wrong[0]} is outside of the vocabulary of {vocab_size}")
    batch, num_frames, size = audio.shape
    frame_lens = [min(max(1, math.ceil(length)), num_frames) for length in lengths]
    labels = [[token for token in row if token != blank] for row in tokens]

    most = max(map(len, labels), default=0)
    columns = [[blank, *row, *[blank] * (most - len(row))] for row in labels]
    columns = torch.tensor(columns, device=audio.device).view(batch, 1 + most)
    columns = columns.repeat_interleave(num_frames, dim=0)  # [B * T, 1 + U]
    inside = torch.tensor(frame_lens, device=audio.device)[:, None]
    keep = torch.arange(num_frames, device=audio.device) < inside  # [B, T]
    log_probs = token_log_probs(
        audio.reshape(-1, size).to(head.weight.dtype),
        head.weight,
        columns,
        keep.reshape(-1),
        head.softcap,
        chunk_size,
    )
    log_probs = log_probs.view(batch, num_frames, -1).float().cpu()
    return [
        _with_blanks(_align(scores[:frames, : 1 + len(row)], row, float(length)), given, blank)
        for scores, row, given, frames, length in zip(
            log_probs, labels, tokens, frame_lens, lengths, strict=True
        )
    ]


def _align(log_probs, labels, length):
    """Aligns labels [U], none a blank, with log-probabilities [T, 1 + U], the blank's first."""
    num_labels = len(labels)
    repeats = sum(a == b for a, b in pairwise(labels))
    forced = num_labels + repeats <= len(log_probs)
    if not forced:
        edges = [length * index / num_labels for index in range(num_labels + 1)]
    elif num_labels:
        # A label that occurs twice is one class, or no blank would be asked for in between.
        classes = torch.tensor([[1 + labels.index(label) for label in labels]])
        path, scores = forced_align(log_probs[None].contiguous(), classes, blank=0)
        spans = merge_tokens(path[0], scores[0])
    starts, ends, best = [], [], []
    for index in range(num_labels):
        start, end = (spans[index].start, spans[index].end) if forced else edges[index : index + 2]
        first = min(math.floor(start), len(log_probs) - 1)
        frames = log_probs[first : max(math.ceil(end), first + 1), 1 + index]
        starts.append(min(float(start), length))
        ends.append(min(float(end), length))
        best.append(frames.max().item())
    return Alignment(starts, ends, best, forced)


def _with_blanks(alignment, tokens, blank):
    """Puts the tokens that are blanks back into an alignment of the others."""
    starts, ends, log_probs = [], [], []
    place = 0
    for token in tokens:
        if token != blank:
            starts.append(alignment.starts[place])
            ends.append(alignment.ends[place])
            log_probs.append(alignment.log_probs[place])
            place += 1
            continue
        stop = alignment.starts[place : place + 1] or alignment.ends[-1:] or [0.0]
        starts.append(stop[0])
        ends.append(stop[0])
        log_probs.append(0.0)
    return Alignment(starts, ends, log_probs, alignment.forced)


# Frames whose logits are in memory at once: 64 MiB in float32 at 262,144 tokens.
CTC_CHUNK = 64


@torch.no_grad()
def read_canvas(audio, head, blank, lengths, width, eos, chunk_size=CTC_CHUNK):
    """Writes what CTC reads greedily onto canvases, with end-of-text tokens behind it.

    Nothing in it waits for the GPU, and its shapes do not depend on what is read.

    Arguments
    ---------
    audio : torch.Tensor
        Projected audio, [B, T, D]. It is multiplied in the precision of the output layer, or in
        autocast's.
    head : Head
        The output layer that CTC was trained through.
    blank : int
        Index of the blank in the vocabulary.
    lengths : torch.Tensor
        Frames of each utterance that are read, [B].
    width : int
        Tokens of a canvas; what is read behind them is cut off.
    eos : int
        End-of-text token.
    chunk_size : int
        Frames whose logits are in memory at once, counted over the whole batch. Default: 64.

    Returns
    -------
    canvas : torch.Tensor
        [B, width].

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> heard = torch.tensor([[0, 3, 3, 0, 3, 2, 0, 4]])  # the most probable token of each frame
    >>> audio = torch.nn.functional.one_hot(heard, 5).float()
    >>> read_canvas(audio, Head(torch.eye(5)), 0, torch.tensor([7]), width=5, eos=1)
    tensor([[3, 3, 2, 1, 1]])
    """
    batch, num_frames, _ = audio.shape
    weight = head.weight
    rows = audio.reshape(batch * num_frames, -1).to(weight.dtype).split(chunk_size)
    # The softcap changes no order.
    best = torch.cat([(row @ weight.T).argmax(dim=-1) for row in rows]).view(batch, num_frames)
    before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=blank)
    inside = torch.arange(num_frames, device=audio.device) < lengths[:, None]
    begins = (best != blank) & (best != before) & inside  # [B, T]
    # What has no place on the canvas is written behind it.
    place = torch.where(begins, begins.cumsum(dim=1) - 1, width).clamp(max=width)
    canvas = torch.full((batch, width + 1), eos, device=audio.device)
    return canvas.scatter(1, place, best)[:, :width].contiguous()


@dataclass(frozen=True)
class Piece:
    """A token that CTC hears.

    Arguments
    ---------
    token : int
    start, end : float
        Seconds from the beginning of the audio.
    probability : float
        At the best of its frames.
    """

    token: int
    start: float
    end: float
    probability: float


@torch.no_grad()
def read_pieces(audio, head, blank, frame, duration):
    """Reads CTC greedily and keeps where each token was heard.

    Arguments
    ---------
    audio : torch.Tensor
        Projected audio of one utterance, [T, D].
    head : Head
        The output layer that CTC was trained through.
    blank : int
        Index of the blank.
    frame : float
        Seconds from one projected frame to the next.
    duration : float
        Seconds of audio: what frames behind it hear is left out.

    Returns
    -------
    pieces : list of Piece

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> heard = torch.tensor([0, 3, 3, 0, 3, 2, 0, 1])  # the most probable token of each frame
    >>> audio = torch.nn.functional.one_hot(heard, 4).float()
    >>> pieces = read_pieces(audio, Head(20 * torch.eye(4)), 0, frame=0.5, duration=3.5)
    >>> [(piece.token, piece.start, piece.end) for piece in pieces]
    [(3, 0.5, 1.5), (3, 2.0, 2.5), (2, 2.5, 3.0)]
    """
    count = min(max(1, math.ceil(duration / frame)), len(audio))
    scores, best = [], []
    for rows in audio[:count].to(head.weight.dtype).split(CTC_CHUNK):
        logits = head_logits(rows, head.weight, head.softcap)  # [chunk, V]
        top = logits.max(dim=-1)
        scores += (top.values - logits.logsumexp(dim=-1)).tolist()
        best += top.indices.tolist()
    pieces = []
    for token, places in groupby(range(count), key=best.__getitem__):
        places = list(places)
        if token != blank:
            pieces.append(
                Piece(
                    token=token,
                    start=places[0] * frame,
                    end=min((places[-1] + 1) * frame, duration),
                    probability=math.exp(max(scores[place] for place in places)),
                )
            )
    return pieces
