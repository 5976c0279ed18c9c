"""The chunked losses against plain torch in float64, and what they may not do."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_diffasr.lobes.output_layer import Head
from speechbrain_diffasr.training import AutoregressiveLoss, CTCLoss, DiffusionLoss
from speechbrain_diffasr.training.losses import linear_cross_entropy, linear_ctc_loss

VOCAB, SIZE = 97, 12
CHUNKS = [1, 7, 1024]  # 7 divides none of the row counts below
SOFTCAPS = [None, 3.0]  # small enough for tanh to bend the logits
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1986)


def make(*shape, dtype=torch.float64, device="cpu", scale=1.0):
    return (scale * torch.randn(*shape, dtype=dtype)).to(device).requires_grad_()


def plain_logits(hidden, weight, softcap):
    logits = hidden @ weight.T
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def plain_ctc(hidden, weight, targets, frame_lens, target_lens, blank, softcap, reduction):
    log_probs = plain_logits(hidden, weight, softcap).log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, targets, frame_lens, target_lens, blank, reduction)


def assert_same(ours, plain, inputs):
    """Value and gradients within 1e-5, relative to the largest gradient."""
    upstream = torch.rand_like(plain)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-9)
    expected = torch.autograd.grad(plain, inputs, upstream)
    for got, want in zip(torch.autograd.grad(ours, inputs, upstream), expected, strict=True):
        assert want.abs().max() > 0
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


# Cross-entropy


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("softcap", SOFTCAPS)
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_cross_entropy_equals_torch(chunk_size, softcap, reduction, device):
    hidden, weight = make(3, 10, SIZE, device=device), make(VOCAB, SIZE, device=device)
    targets = torch.randint(VOCAB, (3, 10), device=device)
    targets[0, :4] = targets[2, 9] = -100
    ours = linear_cross_entropy(hidden, weight, targets, softcap, chunk_size, reduction)
    logits = plain_logits(hidden, weight, softcap)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
    assert_same(ours, plain.view_as(ours), (hidden, weight))


def test_cross_entropy_in_float32_equals_float64():
    hidden, weight = make(40, SIZE), make(VOCAB, SIZE)
    targets = torch.randint(VOCAB, (40,))
    ours = linear_cross_entropy(hidden.float(), weight.float(), targets, 3.0, chunk_size=7)
    plain = F.cross_entropy(plain_logits(hidden, weight, 3.0), targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=0)
    expected = torch.autograd.grad(plain, (hidden, weight))
    for got, want in zip(torch.autograd.grad(ours, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


def test_other_ignore_index_and_ignored_rows_that_are_not_finite():
    hidden, weight = make(9, SIZE), make(VOCAB, SIZE)
    targets = torch.randint(1, VOCAB, (9,))
    targets[4:6] = 0
    dirty = hidden.detach().clone()
    dirty[4:6] = float("nan")
    dirty.requires_grad_()
    plain = F.cross_entropy(plain_logits(hidden, weight, None), targets, ignore_index=0)
    ours = linear_cross_entropy(dirty, weight, targets, ignore_index=0)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (dirty, weight)), torch.autograd.grad(plain, (hidden, weight))
    )


def test_nothing_to_count_gives_zero_and_a_zero_gradient():
    hidden, weight = make(2, 5, SIZE), make(VOCAB, SIZE)
    loss = linear_cross_entropy(hidden, weight, torch.full((2, 5), -100))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().max() == 0 and weight.grad.abs().max() == 0


def test_a_frozen_head_gets_no_gradient():
    hidden, weight = make(5, SIZE), make(VOCAB, SIZE).detach()
    linear_cross_entropy(hidden, weight, torch.arange(5)).backward()
    assert weight.grad is None and hidden.grad.abs().max() > 0


def test_bad_arguments_are_named():
    hidden, weight, targets = torch.rand(2, 5, SIZE), torch.rand(VOCAB, SIZE), torch.ones(2, 5)
    targets, frames, labels = targets.long(), torch.tensor([5, 5]), torch.tensor([2, 2])
    with pytest.raises(ValueError, match="reduction: 'avg'"):
        linear_cross_entropy(hidden, weight, targets, reduction="avg")
    with pytest.raises(ValueError, match="targets"):
        linear_cross_entropy(hidden, weight, targets[:, 1:])
    with pytest.raises(ValueError, match="label 1 is the blank"):
        linear_ctc_loss(hidden, weight, targets, frames, labels, blank=1)
    with pytest.raises(ValueError, match="label 97 is"):
        linear_ctc_loss(hidden, weight, targets * VOCAB, frames, labels, blank=1)
    with pytest.raises(ValueError, match="frame_lens"):
        linear_ctc_loss(hidden, weight, targets, frames + 1, labels, blank=0)
    with pytest.raises(ValueError, match="target_lens"):
        linear_ctc_loss(hidden, weight, targets, frames, labels + 4, blank=0)
    with pytest.raises(ValueError, match="relative lengths"):
        linear_ctc_loss(hidden, weight, targets, torch.ones(2), labels, blank=0)


# CTC


def ctc_case(blank, device="cpu", padding=-7):
    """Repeats beside and apart, an empty target, one as long as its frames allow."""
    a, b, c, d = (blank + offset for offset in (1, 2, 3, 40))
    labels = [[a, b, a, c, a], [d, d, d], [], [b, b, a, a], [c]]
    target_lens = torch.tensor([len(row) for row in labels])
    frame_lens = torch.tensor([17, 12, 9, 6, 1])
    targets = torch.full((5, 6), padding)
    for row, values in zip(targets, labels, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=torch.long) % VOCAB
    hidden, weight = make(5, 17, SIZE, device=device), make(VOCAB, SIZE, device=device)
    return hidden, weight, targets.to(device), frame_lens.to(device), target_lens.to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("softcap", SOFTCAPS)
@pytest.mark.parametrize("blank, chunk_size", [(0, 7), (31, 1), (31, 1024), (VOCAB - 1, 7)])
def test_ctc_through_the_head_equals_torch(blank, chunk_size, softcap, reduction, device):
    hidden, weight, targets, *lens = ctc_case(blank, device)
    ours, num_infeasible = linear_ctc_loss(
        hidden, weight, targets, *lens, blank, softcap, chunk_size, reduction
    )
    targets = targets.clamp(min=0)
    plain = plain_ctc(hidden, weight, targets, *lens, blank, softcap, reduction)
    assert num_infeasible.item() == 0
    assert_same(ours, plain, (hidden, weight))


def test_ctc_sums_over_all_alignments():
    """Brute force over every path of four frames, which no CTC code takes part in."""
    hidden, weight, blank, labels = make(1, 4, SIZE), make(5, SIZE), 2, [3, 3]
    log_probs = (hidden[0] @ weight.T).log_softmax(-1)
    total = []
    for path in torch.cartesian_prod(*[torch.arange(5)] * 4):
        merged = torch.unique_consecutive(path).tolist()
        if [token for token in merged if token != blank] == labels:
            total.append(log_probs[torch.arange(4), path].sum())
    plain = -torch.stack(total).logsumexp(0)
    ours, _ = linear_ctc_loss(
        hidden,
        weight,
        torch.tensor([labels]),
        torch.tensor([4]),
        torch.tensor([2]),
        blank,
        reduction="sum",
    )
    assert_same(ours, plain, (hidden, weight))


def test_padding_changes_nothing():
    hidden, weight, targets, *lens = ctc_case(blank=31)
    dirty = hidden.detach().clone()
    for row, length in zip(dirty, lens[0], strict=True):
        row[length:] = float("nan")
    dirty.requires_grad_()
    clean_loss, _ = linear_ctc_loss(hidden, weight, targets, *lens, blank=31)
    # Padded with the blank, with a label of the utterance and with no token at all
    for padding in (31, 32, 10**6):
        padded = torch.where(targets == -7, padding, targets)
        loss, _ = linear_ctc_loss(dirty, weight, padded, *lens, blank=31)
        torch.testing.assert_close(loss, clean_loss)
        torch.testing.assert_close(
            torch.autograd.grad(loss, (dirty, weight)),
            torch.autograd.grad(clean_loss, (hidden, weight), retain_graph=True),
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_infeasible_utterances_are_counted_and_left_out(device):
    hidden, weight, targets, frame_lens, target_lens = ctc_case(31, device)
    frame_lens[1] = 4  # d d d needs five frames
    frame_lens[0] = 4  # five labels
    frame_lens[4] = 0
    loss, num_infeasible = linear_ctc_loss(hidden, weight, targets, frame_lens, target_lens, 31)
    assert num_infeasible.item() == 3
    rest = torch.tensor([2, 3], device=device)
    plain = plain_ctc(
        hidden[rest],
        weight,
        targets[rest].clamp(min=0),
        frame_lens[rest],
        target_lens[rest],
        31,
        None,
        "mean",
    )
    assert_same(loss, plain, (hidden, weight))
    with torch.autograd.detect_anomaly(check_nan=True):  # nor NaN on the way to zero
        losses, _ = linear_ctc_loss(
            hidden, weight, targets, frame_lens, target_lens, 31, reduction="none"
        )
        (grad,) = torch.autograd.grad(losses.sum(), hidden)
    assert losses[[0, 1, 4]].abs().max() == 0 and grad[[0, 1, 4]].abs().max() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_only_infeasible_utterances_give_zero(device):
    hidden, weight, targets, frame_lens, target_lens = ctc_case(31, device)
    target_lens[2] = 1
    targets[2, 0] = 5
    loss, num_infeasible = linear_ctc_loss(hidden, weight, targets, frame_lens * 0, target_lens, 31)
    loss.backward()
    assert loss.item() == 0 and num_infeasible.item() == 5
    assert hidden.grad.abs().max() == 0 and weight.grad.abs().max() == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [0, 3])
def test_empty_targets_read_the_blank_on_every_frame(width, device):
    hidden, weight = make(2, 6, SIZE, device=device), make(VOCAB, SIZE, device=device)
    targets = torch.zeros(2, width, dtype=torch.long, device=device)
    frame_lens = torch.tensor([6, 4], device=device)
    loss, _ = linear_ctc_loss(
        hidden, weight, targets, frame_lens, torch.zeros_like(frame_lens), blank=31
    )
    blank = (hidden @ weight.T).log_softmax(-1)[:, :, 31]
    assert_same(loss, -(blank[0].sum() + blank[1, :4].sum()) / 2, (hidden, weight))


# Memory, dtypes, compilation


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_operation_returns_all_logits():
    batch, frames, vocab, chunk_size = 4, 50, 1000, 16
    hidden, weight = make(batch, frames, SIZE), make(vocab, SIZE)
    targets = torch.randint(1, vocab, (batch, frames))
    lens = torch.full((batch,), frames), torch.full((batch,), 10)

    with LargestTensor() as plain:
        logits = plain_logits(hidden, weight, 3.0)
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    assert plain.numel == batch * frames * vocab  # the probe sees what must not be

    for loss_of in (
        lambda: linear_cross_entropy(hidden, weight, targets, 3.0, chunk_size),
        lambda: linear_ctc_loss(hidden, weight, targets[:, :10], *lens, 0, 3.0, chunk_size)[0],
    ):
        with LargestTensor() as forward:
            loss = loss_of()
        with LargestTensor() as backward:
            loss.backward()
        assert forward.numel == backward.numel == chunk_size * vocab


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_is_close_to_float64(device):
    hidden, weight, targets, *lens = ctc_case(31, device)
    canvas = torch.randint(VOCAB, hidden.shape[:2], device=device)
    low, low_weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    low.requires_grad_(), low_weight.requires_grad_()
    losses = {}
    for h, w in ((hidden, weight), (low, low_weight)):
        diffusion = linear_cross_entropy(h, w, canvas, 30.0, chunk_size=7)
        ctc, _ = linear_ctc_loss(h, w, targets, *lens, 31, 30.0, chunk_size=7)
        losses[h.dtype] = torch.stack([diffusion, ctc])
        (diffusion + ctc).backward()
    assert losses[torch.bfloat16].dtype == torch.float32
    torch.testing.assert_close(
        losses[torch.bfloat16].double(), losses[torch.float64], rtol=0.01, atol=0
    )
    for got, want in ((low.grad, hidden.grad), (low_weight.grad, weight.grad)):
        assert got.dtype == torch.bfloat16
        assert (got.double() - want).norm() < 0.02 * want.norm()


def test_bfloat16_never_makes_a_probability_exceed_one():
    """Certain predictions: the normalizer must not be rounded unlike the logits."""
    weight = make(VOCAB, SIZE, dtype=torch.bfloat16, scale=2.0)
    targets = torch.randint(VOCAB, (200,))
    hidden = (weight[targets] * 2).detach()
    losses = linear_cross_entropy(hidden, weight, targets, reduction="none")
    assert losses.min() >= 0


def test_bfloat16_weight_gradient_does_not_fade_over_many_chunks():
    hidden, weight = make(4000, SIZE, dtype=torch.bfloat16), make(5, SIZE, dtype=torch.bfloat16)
    targets = torch.zeros(4000, dtype=torch.long)
    plain = F.cross_entropy(plain_logits(hidden.double(), weight.double(), None), targets)
    ours = linear_cross_entropy(hidden, weight, targets, chunk_size=1)
    (want,) = torch.autograd.grad(plain, weight)
    (got,) = torch.autograd.grad(ours, weight)
    assert (got - want).norm() < 0.01 * want.norm()


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_in_its_own_dtype(weight_dtype):
    hidden, weight = make(20, SIZE, dtype=torch.float32), make(VOCAB, SIZE, dtype=weight_dtype)
    targets = torch.randint(VOCAB, (20,))
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, targets, 30.0, chunk_size=7)
    plain = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets, 30.0, chunk_size=7)
    assert_same(ours, plain, (hidden, weight))


def test_compiled_losses_are_the_same():
    hidden, weight, targets, *lens = ctc_case(31)
    canvas = torch.randint(VOCAB, hidden.shape[:2])
    canvas[:, :3] = -100

    def both(hidden, weight):
        ctc, _ = linear_ctc_loss(hidden, weight, targets, *lens, 31, 3.0, chunk_size=30)
        return ctc + linear_cross_entropy(hidden, weight, canvas, 3.0, chunk_size=30)

    compiled = torch.compile(both, backend="aot_eager")
    assert_same(compiled(hidden, weight), both(hidden, weight), (hidden, weight))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cross_entropy_can_be_captured_in_a_cuda_graph():
    hidden, weight = make(40, SIZE, device="cuda"), make(VOCAB, SIZE, device="cuda").detach()
    captured = hidden.detach().requires_grad_()  # no autograd node of the default stream
    targets = torch.randint(VOCAB, (40,), device="cuda")
    targets[:5] = -100
    expected = linear_cross_entropy(hidden, weight, targets, 3.0, chunk_size=7)
    (want,) = torch.autograd.grad(expected, hidden)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = linear_cross_entropy(captured, weight, targets, 3.0, chunk_size=7)
        (got,) = torch.autograd.grad(loss, captured)
    graph.replay()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(got, want)


# The callables that YAML makes


def test_callables_pass_their_settings_on():
    hidden, weight, targets, *lens = ctc_case(31)
    head = Head(weight, softcap=3.0)
    canvas = torch.randint(1, VOCAB, hidden.shape[:2])
    flat = plain_logits(hidden, weight, 3.0).flatten(0, 1)
    with LargestTensor() as largest:
        diffusion = DiffusionLoss(chunk_size=4)(hidden, head, canvas)
        ctc, num_infeasible = CTCLoss(blank=31, chunk_size=4)(hidden, head, targets, *lens)
        canvas[:, :2] = 0
        ar = AutoregressiveLoss(chunk_size=4, ignore_index=0)(hidden, head, canvas)
    assert largest.numel < 5 * VOCAB * 4  # chunks of four rows, not of 1024
    torch.testing.assert_close(ar, F.cross_entropy(flat, canvas.flatten(), ignore_index=0))
    plain = plain_ctc(hidden, weight, targets.clamp(min=0), *lens, 31, 3.0, "mean")
    torch.testing.assert_close(ctc, plain)
    assert num_infeasible.item() == 0 and diffusion.item() != ar.item()


def test_diffusion_loss_counts_every_position():
    hidden, head = make(2, 9, SIZE), Head(make(VOCAB, SIZE), 3.0)
    canvas = torch.randint(VOCAB, (2, 9))
    canvas[:, 5:] = 1  # the end-of-sequence filling
    logits = plain_logits(hidden, head.weight, 3.0)
    plain = F.cross_entropy(logits.flatten(0, 1), canvas.flatten())
    assert_same(DiffusionLoss(chunk_size=7)(hidden, head, canvas), plain, (hidden, head.weight))
