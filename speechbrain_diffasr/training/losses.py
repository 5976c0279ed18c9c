"""The three losses of training, computed through a language model's output layer.

At 262,144 tokens the logits of one batch would fill the memory, so every loss
here asks `token_log_probs` for the few that it needs.
"""

import torch

from speechbrain_diffasr.lobes.output_layer import token_log_probs


class DiffusionLoss:
    """Denoising loss: the clean canvas is predicted from the noisy one.

    Flat cross-entropy over every position of the canvas, corrupted or not, with
    no 1/t weight, as the released DiffusionGemma was trained. The canvas is
    filled with the end-of-sequence token past the transcript, and that filling
    counts, too: it is how the model learns where a transcript ends.

    Arguments
    ---------
    chunk_size : int
        Canvas positions whose logits are in memory at once.

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> _ = torch.manual_seed(0)
    >>> loss = DiffusionLoss(chunk_size=4)
    >>> hidden, head = torch.randn(2, 6, 8), Head(torch.randn(11, 8), softcap=30.0)
    >>> loss(hidden, head, torch.randint(11, (2, 6))).shape
    torch.Size([])
    """

    def __init__(self, chunk_size=1024):
        self.chunk_size = chunk_size

    def __call__(self, hidden, head, targets):
        """Mean loss in nats per position.

        Arguments
        ---------
        hidden : torch.Tensor
            Last hidden states of the decoder [B, C, D].
        head : Head
            Any object with a ``weight`` and a ``softcap``.
        targets : torch.Tensor
            The clean canvas [B, C].

        Returns
        -------
        loss : torch.Tensor
            A scalar.
        """
        return linear_cross_entropy(hidden, head.weight, targets, head.softcap, self.chunk_size)


class AutoregressiveLoss:
    """Auxiliary loss of the causal encoder: the next token of the transcript.

    Arguments
    ---------
    chunk_size : int
        Positions whose logits are in memory at once.
    ignore_index : int
        Target of the positions that do not count (prompt, audio, padding).

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> _ = torch.manual_seed(0)
    >>> loss = AutoregressiveLoss(chunk_size=4)
    >>> hidden, head = torch.randn(1, 3, 8), Head(torch.randn(11, 8), softcap=30.0)
    >>> alone = loss(hidden[:, 1:], head, torch.tensor([[5, 7]]))
    >>> torch.allclose(alone, loss(hidden, head, torch.tensor([[-100, 5, 7]])))
    True
    """

    def __init__(self, chunk_size=1024, ignore_index=-100):
        self.chunk_size = chunk_size
        self.ignore_index = ignore_index

    def __call__(self, hidden, head, targets):
        """Mean loss in nats per counted position.

        Arguments
        ---------
        hidden : torch.Tensor
            Last hidden states of the encoder [B, T, D].
        head : Head
            As for the diffusion loss.
        targets : torch.Tensor
            Already shifted: ``hidden[:, t]`` predicts ``targets[:, t]`` [B, T].

        Returns
        -------
        loss : torch.Tensor
            A scalar; zero when no position counts.
        """
        settings = {"chunk_size": self.chunk_size, "ignore_index": self.ignore_index}
        return linear_cross_entropy(hidden, head.weight, targets, head.softcap, **settings)


class CTCLoss:
    """CTC on the projected audio, through the language model's own output layer.

    It is what gives the projector a gradient from the first step on: the audio
    embeddings have to lie where the output layer reads the right tokens.

    Arguments
    ---------
    blank : int
        Token that stands for the CTC blank; it must not occur in a transcript.
    chunk_size : int
        Frames whose logits are in memory at once.

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> _ = torch.manual_seed(0)
    >>> ctc = CTCLoss(blank=0)
    >>> embeddings, head = torch.randn(2, 5, 8), Head(torch.randn(11, 8), softcap=30.0)
    >>> targets = torch.tensor([[3, 4, 0], [6, 6, 6]])  # three 6 need five frames
    >>> lens = torch.tensor([5, 4]), torch.tensor([2, 3])
    >>> loss, num_infeasible = ctc(embeddings, head, targets, *lens)
    >>> loss.isfinite().item(), num_infeasible.item()
    (True, 1)
    """

    def __init__(self, blank, chunk_size=1024):
        self.blank = blank
        self.chunk_size = chunk_size

    def __call__(self, embeddings, head, targets, frame_lens, target_lens):
        """Mean loss in nats per label, and the number of infeasible utterances.

        Arguments
        ---------
        embeddings : torch.Tensor
            Projected audio [B, T, D], at the scale that the output layer reads.
        head : Head
            As for the diffusion loss.
        targets, frame_lens, target_lens : torch.Tensor
            Labels [B, U] and lengths [B], see :func:`linear_ctc_loss`.

        Returns
        -------
        loss, num_infeasible : torch.Tensor
            Two scalars, see :func:`linear_ctc_loss`.
        """
        settings = {"softcap": head.softcap, "chunk_size": self.chunk_size}
        lens = frame_lens, target_lens
        return linear_ctc_loss(embeddings, head.weight, targets, *lens, self.blank, **settings)


def linear_cross_entropy(
    hidden, weight, targets, softcap=None, chunk_size=1024, reduction="mean", ignore_index=-100
):
    """Cross-entropy of ``softcap(hidden @ weight.T)``, never holding all logits.

    Rows that do not count are not multiplied at all.

    Arguments
    ---------
    hidden : torch.Tensor
        Hidden states [N, D] or [B, T, D]. The matrix product is computed in their
        dtype (in autocast's, where that is on), everything after it in float32,
        or float64 for float64.
    weight : torch.Tensor
        Output layer [V, D]; cast when its dtype differs, which copies it.
    targets : torch.Tensor
        Token ids [N] or [B, T].
    softcap : float or None
        See :class:`Head`.
    chunk_size : int
        Rows at once; two to three float32 tensors [chunk_size, V] live at the peak
        (1 GiB each for 1024 rows and 262,144 tokens).
    reduction : str
        "mean" over the counted rows, "sum", or "none" (zero where ignored).
    ignore_index : int
        Target of the rows that do not count.

    Returns
    -------
    loss : torch.Tensor
        A scalar, or the shape of targets for "none". With nothing to count it is
        zero and has a (zero) gradient.

    Raises
    ------
    ValueError
        If the shapes of hidden and targets differ or the reduction is unknown.

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> _ = torch.manual_seed(0)
    >>> hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8)
    >>> targets = torch.tensor([3, 1, -100, 10, 0])
    >>> loss = linear_cross_entropy(hidden, weight, targets, chunk_size=2)
    >>> loss.backward()
    >>> plain = torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    >>> torch.allclose(loss, plain), hidden.grad[2].abs().max().item()
    (True, 0.0)
    """
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets: {tuple(targets.shape)} does not fit hidden states "
            f"{tuple(hidden.shape)}; expected one target per hidden state"
        )
    _check_reduction(reduction)
    flat = targets.reshape(-1)
    counted = flat != ignore_index
    rows = hidden.reshape(-1, hidden.shape[-1])
    log_probs = token_log_probs(rows, weight, flat[:, None], counted, softcap, chunk_size)
    losses = -log_probs.view_as(targets)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / counted.sum().clamp(min=1)


def linear_ctc_loss(
    hidden,
    weight,
    targets,
    frame_lens,
    target_lens,
    blank,
    softcap=None,
    chunk_size=1024,
    reduction="mean",
):
    """CTC (Graves et al., 2006) of ``softcap(hidden @ weight.T)``, never holding all logits.

    CTC reads, of a frame, only the log-probabilities of the blank and of the
    utterance's own labels. Those are kept, [B, T, 1 + U], and torch's CTC runs on
    this small alphabet.

    An utterance is infeasible when its labels, and one blank between each two
    equal neighbours, outnumber its frames. It is counted, adds nothing to the loss
    and gets no gradient.

    Arguments
    ---------
    hidden : torch.Tensor
        Frames [B, T, D]; for dtypes see :func:`linear_cross_entropy`.
    weight : torch.Tensor
        Output layer [V, D].
    targets : torch.Tensor
        Labels [B, U], padded with anything; the blank must not be among them.
    frame_lens, target_lens : torch.Tensor
        Valid frames and labels of each utterance [B], integers; may be zero.
    blank : int
        Index of the blank in the vocabulary.
    softcap : float or None
        See :class:`Head`.
    chunk_size : int
        Frames at once, counted over the whole batch.
    reduction : str
        "mean" is torch's own: each utterance's loss is divided by its number of
        labels (by one when it has none), then averaged, here over the feasible
        utterances. "sum" adds the utterances, "none" gives [B], zero where
        infeasible.

    Returns
    -------
    loss : torch.Tensor
        A scalar, or [B] for "none". Zero, with a zero gradient, when no utterance
        is feasible.
    num_infeasible : torch.Tensor
        Number of infeasible utterances, int64 scalar.

    Raises
    ------
    ValueError
        If a label is the blank or lies outside the vocabulary, a length is larger
        than its padded dimension, or the reduction is unknown.

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> _ = torch.manual_seed(0)
    >>> hidden, weight = torch.randn(2, 6, 8), torch.randn(11, 8)
    >>> targets, lens = torch.tensor([[4, 4, 2], [7, 1, 9]]), (torch.tensor([6, 5]),
    ...     torch.tensor([3, 3]))
    >>> loss, num_infeasible = linear_ctc_loss(hidden, weight, targets, *lens, blank=0)
    >>> log_probs = (hidden @ weight.T).log_softmax(-1).transpose(0, 1)
    >>> torch.allclose(loss, torch.nn.functional.ctc_loss(log_probs, targets, *lens))
    True
    """
    _check_reduction(reduction)
    batch, num_frames, size = hidden.shape
    if frame_lens.is_floating_point() or target_lens.is_floating_point():
        raise ValueError(
            "frame_lens, target_lens: relative lengths; multiply by the padded length and round"
        )
    frame_lens = frame_lens.to(hidden.device, torch.long)
    target_lens = target_lens.to(hidden.device, torch.long)
    # torch prefers cuDNN for int32 targets, whose gradient is another one.
    targets = targets.to(hidden.device, torch.long)
    if targets.shape[1] == 0:
        targets = targets.new_full((batch, 1), blank)
    is_frame = torch.arange(num_frames, device=hidden.device) < frame_lens[:, None]  # [B, T]
    is_label = torch.arange(targets.shape[1], device=hidden.device) < target_lens[:, None]  # [B, U]
    _check_ctc_inputs(targets, is_label, weight.shape[0], blank)
    _check_lens("frame_lens", frame_lens, num_frames)
    _check_lens("target_lens", target_lens, targets.shape[1])
    targets = targets.masked_fill(~is_label, blank)

    repeats = ((targets[:, 1:] == targets[:, :-1]) & is_label[:, 1:]).sum(1)
    feasible = target_lens + repeats <= frame_lens  # [B]

    tokens = torch.nn.functional.pad(targets, (1, 0), value=blank)  # [B, 1 + U]
    tokens = tokens.repeat_interleave(num_frames, dim=0)  # [B * T, 1 + U]
    rows, keep = hidden.reshape(-1, size), (is_frame & feasible[:, None]).reshape(-1)
    log_probs = token_log_probs(rows, weight, tokens, keep, softcap, chunk_size)
    log_probs = log_probs.view(batch, num_frames, -1)  # [B, T, 1 + U]

    # A label that occurs twice must be one class, or CTC would not ask for a blank
    # between neighbours and would not add up its occurrences.
    first = (targets[:, :, None] == targets[:, None, :]).to(torch.int8).argmax(-1)
    # An infeasible utterance is as if empty: with its zeros for log-probabilities,
    # its loss is zero, too, where torch's would be infinite and its gradient NaN.
    lens = frame_lens, target_lens * feasible
    losses = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), first + 1, *lens, blank=0, reduction="none"
    )
    # torch's gradient is p - posterior: it takes its input for a complete
    # log-softmax, whose backward is then the identity. Of this small alphabet the
    # p do not add up to one and the true gradient, -posterior, is needed. The term
    # below is zero in value and -p in gradient.
    probs = log_probs.exp()
    losses = losses - (probs - probs.detach()).sum(dim=(1, 2))

    num_infeasible = (~feasible).sum()
    if reduction == "mean":
        losses = (losses / target_lens.clamp(min=1)).sum() / feasible.sum().clamp(min=1)
    elif reduction == "sum":
        losses = losses.sum()
    return losses, num_infeasible


def _check_reduction(reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: {reduction!r} is unknown; expected mean, sum or none")


def _check_ctc_inputs(targets, is_label, vocab_size, blank):
    bad = is_label & ((targets == blank) | (targets < 0) | (targets >= vocab_size))
    if bad.any():
        raise ValueError(
            f"targets: label {targets[bad][0].item()} is the blank ({blank}) or outside the "
            f"vocabulary of {vocab_size}; choose another blank or check the tokenizer"
        )


def _check_lens(name, lens, limit):
    if ((lens < 0) | (lens > limit)).any():
        raise ValueError(
            f"{name}: {lens.tolist()} does not fit {limit} padded positions; "
            "expected absolute lengths"
        )
