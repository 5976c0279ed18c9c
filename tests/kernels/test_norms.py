"""Fused norms, in plain torch and as Triton kernels, against their definition in float64."""

import math

import pytest
import torch
from kernel_checks import (
    INTERPRETED,
    SETTINGS,
    assert_as_good_as,
    relative_error,
    run_interpreted,
)

from speechbrain_diffasr.kernels import norms
from speechbrain_diffasr.kernels.common import use_triton

EPS = 1e-6
# (tokens, width)
SIZES = [(1, 32), (3, 96), (5, 257)]
FULL_SIZES = [(64, 2816), (192, 2816), (12288, 2816)]
# (B, S, query heads, key heads, width of a head, whether values are projected)
HEADS = [(2, 5, 4, 2, 8, True), (1, 3, 4, 1, 16, False), (3, 1, 6, 3, 12, True)]
FULL_HEADS = [
    (1, 64, 16, 8, 256, True),
    (1, 192, 16, 2, 512, False),
    (128, 48, 16, 8, 256, True),
    (128, 48, 16, 2, 512, False),
]


def draw(device, dtype, *shapes):
    """Random tensors; weights of norms are as large as what they scale."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def rms_norm(x, weight=None):
    x = x.double()
    normed = x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + EPS)
    return normed if weight is None else normed * weight.double()


def check(function, plain, arguments, expected, tolerance):
    """Holds all tensors that a function returns against those that are expected."""
    actual = function(*arguments)
    for tensor, plain_tensor, wanted in zip(
        flat(actual), flat(plain(*arguments)), flat(expected), strict=True
    ):
        assert tensor.dtype == arguments[0].dtype
        if tolerance is None:
            assert_as_good_as(plain_tensor, tensor, wanted)
        else:
            assert relative_error(tensor, wanted) <= tolerance


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


def check_norm(device, dtype, count, size, tolerance):
    x, weight = draw(device, dtype, (count, size), (size,))
    check(norms.norm, norms.norm_plain, (x, weight, EPS), rms_norm(x, weight), tolerance)
    check(norms.norm, norms.norm_plain, (x, None, EPS), rms_norm(x), tolerance)


def check_add_norm(device, dtype, count, size, tolerance):
    x, residual, weight, second = draw(device, dtype, *[(count, size)] * 2, *[(size,)] * 2)
    y = residual.double() + rms_norm(x, weight)
    for next_weights in ([], [second], [None, weight], [weight, None, second]):
        arguments = x, residual, weight, next_weights, EPS
        expected = y, [rms_norm(y, w) for w in next_weights]
        check(norms.add_norm, norms.add_norm_plain, arguments, expected, tolerance)


def check_combine_norm(device, dtype, count, size, num_experts, tolerance):
    shapes = (count, size), (count, num_experts, size), (count, size), *[(size,)] * 4, (1,)
    dense, experts, residual, *weights, scalar = draw(device, dtype, *shapes)
    inner = rms_norm(dense, weights[0]) + rms_norm(experts.double().sum(1), weights[1])
    y = (residual.double() + rms_norm(inner, weights[2])) * scalar.double()
    for next_weight in (weights[3], None):
        arguments = dense, experts, residual, *weights[:3], scalar, next_weight, EPS
        expected = y, rms_norm(y, next_weight)
        check(norms.combine_norm, norms.combine_norm_plain, arguments, expected, tolerance)


def check_gated_gelu(device, dtype, count, size, tolerance):
    (x,) = draw(device, dtype, (count, 2 * size))
    x[0, :2] = torch.tensor([100.0, -100.0])  # where the exponential overflows
    gate, value = x.double().split(size, dim=1)
    gelu = gate / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    check(norms.gated_gelu, norms.gated_gelu_plain, (x,), gelu * value, tolerance)


def rotate(x, angles):
    """Turns (x[i], x[i + d / 2]) as a complex number by its angle."""
    left, right = x.chunk(2, dim=-1)
    turned = torch.complex(left, right) * torch.polar(torch.ones_like(angles), angles)[:, :, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


def check_split_heads(device, dtype, batch, length, heads, key_heads, size, has_v, tolerance):
    width = (heads + key_heads * (2 if has_v else 1)) * size
    qkv, q_weight, k_weight = draw(device, dtype, (batch, length, width), (size,), (size,))
    angles = torch.rand(batch, length, size // 2, dtype=torch.float64).to(device) * 2 * math.pi
    cos, sin = (torch.cat([f(angles)] * 2, -1).to(dtype) for f in (torch.cos, torch.sin))
    angles = torch.atan2(sin.double(), cos.double())[..., : size // 2]  # as rounded
    start, num_rows = 3, batch + 2
    rows = torch.randperm(num_rows, generator=torch.Generator().manual_seed(1))[:batch].to(device)

    parts = (
        qkv.double()
        .unflatten(-1, (-1, size))
        .split([heads, key_heads, width // size - heads - key_heads], 2)
    )
    q = rotate(rms_norm(parts[0], q_weight), angles)
    buffers = torch.full((2, num_rows, key_heads, start + length + 2, size), 1.0, dtype=dtype)
    expected = buffers.double().to(device)
    written = rotate(rms_norm(parts[1], k_weight), angles), rms_norm(parts[2 if has_v else 1])
    for buffer, tensor in zip(expected, written, strict=True):
        for b, row in enumerate(rows.tolist()):
            for s in range(length):
                buffer[row, :, start + s] = tensor[b, s]

    def run(function):
        keys, values = buffers.clone().to(device)
        arguments = qkv, q_weight, k_weight, cos, sin, keys, values, rows, start, heads, EPS
        return function(*arguments), keys, values

    actual, plain = run(norms.split_heads), run(norms.split_heads_plain)
    for tensor, plain_tensor, wanted in zip(actual, plain, (q, *expected), strict=True):
        assert tensor.dtype == dtype
        if tolerance is None:
            assert_as_good_as(plain_tensor, tensor, wanted)
        else:
            assert relative_error(tensor, wanted) <= tolerance
    untouched = torch.ones(num_rows, start + length + 2, dtype=torch.bool)
    untouched[rows.cpu(), start : start + length] = False
    for buffer in actual[1:]:
        assert (buffer.transpose(1, 2)[untouched] == 1).all()


@pytest.mark.parametrize("setting", SETTINGS)
class TestDefinition:
    """Odd sizes, wherever they run."""

    @pytest.mark.parametrize("size", SIZES)
    def test_norm(self, setting, size):
        check_norm(*setting[:2], *size, setting[2])

    @pytest.mark.parametrize("size", SIZES)
    def test_add_norm(self, setting, size):
        check_add_norm(*setting[:2], *size, setting[2])

    @pytest.mark.parametrize("size", SIZES)
    def test_combine_norm(self, setting, size):
        check_combine_norm(*setting[:2], *size, 3, setting[2])

    @pytest.mark.parametrize("size", [*SIZES, (2, 1025)])
    def test_gated_gelu(self, setting, size):
        check_gated_gelu(*setting[:2], *size, setting[2])

    @pytest.mark.parametrize("heads", HEADS)
    def test_split_heads(self, setting, heads):
        check_split_heads(*setting[:2], *heads, setting[2])

    def test_a_norm_of_zeros_is_zero(self, setting):
        (zeros,) = draw(*setting[:2], (2, 32))
        zeros.zero_()
        assert not norms.norm(zeros, None, EPS).any()

    def test_rows_of_the_buffers_may_be_shared(self, setting):
        qkv, weight, cos, sin = draw(*setting[:2], (3, 2, 32), (8,), *[(3, 2, 8)] * 2)
        results = []
        for rows in ([0, 1, 1], [0, 1, 2]):
            keys, values = torch.zeros(2, 3, 1, 2, 8, device=qkv.device, dtype=qkv.dtype)
            rows = torch.tensor(rows, device=qkv.device)
            q = norms.split_heads(
                qkv, weight, weight, cos, sin, keys, values, rows, 0, num_heads=2, eps=EPS
            )
            results.append((q, keys, values))
        shared, apart = results
        assert torch.equal(shared[0], apart[0])
        for tensor, wanted in zip(shared[1:], apart[1:], strict=True):
            assert torch.equal(tensor[0], wanted[0])
            assert ((tensor[1] == wanted[1]) | (tensor[1] == wanted[2])).all()
            assert not tensor[2].any()


@pytest.mark.gpu
class TestFullSize:
    """bfloat16 on the device: close to float64, and no worse than plain torch."""

    @pytest.mark.parametrize("size", FULL_SIZES)
    def test_norm(self, size):
        check_norm("cuda", torch.bfloat16, *size, None)

    @pytest.mark.parametrize("size", FULL_SIZES)
    def test_add_norm(self, size):
        check_add_norm("cuda", torch.bfloat16, *size, None)

    @pytest.mark.parametrize("size", FULL_SIZES)
    def test_combine_norm(self, size):
        check_combine_norm("cuda", torch.bfloat16, *size, 8, None)

    @pytest.mark.parametrize("count", [64, 12288])
    def test_gated_gelu(self, count):
        check_gated_gelu("cuda", torch.bfloat16, count, 2112, None)

    @pytest.mark.parametrize("heads", FULL_HEADS)
    def test_split_heads(self, heads):
        check_split_heads("cuda", torch.bfloat16, *heads, None)


@pytest.mark.gpu
def test_a_cuda_graph_replays_on_new_values():
    """Values of tensors are read when the graph runs, those of `rows` too."""
    shapes = (8, 64), (8, 3, 64), (8, 64), *[(64,)] * 4, (1,), (2, 4, 32), (8,), *[(2, 4, 8)] * 2
    tensors = draw("cuda", torch.float32, *shapes)
    dense, experts, residual, *weights, scalar, qkv, head_weight, cos, sin = tensors
    keys, values = torch.zeros(2, 3, 1, 6, 8, device="cuda")
    rows = torch.tensor([0, 1], device="cuda")

    def step():
        arguments = qkv, head_weight, head_weight, cos, sin, keys, values, rows, 1, 2, EPS
        return flat(
            [
                norms.combine_norm(dense, experts, residual, *weights[:3], scalar, None, EPS),
                norms.add_norm(dense, residual, weights[0], [None, *weights[:2]], EPS),
                norms.norm(dense, weights[3], EPS),
                norms.gated_gelu(dense),
                norms.split_heads(*arguments),
                keys,
                values,
            ]
        )

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for tensor in tensors:
        tensor.mul_(-0.5)
    rows.copy_(torch.tensor([2, 0]))
    keys.zero_()
    values.zero_()
    graph.replay()
    replayed = [tensor.clone() for tensor in captured]
    keys.zero_()
    values.zero_()
    for tensor, wanted in zip(replayed, step(), strict=True):
        assert torch.equal(tensor, wanted)


def test_more_than_three_norms_are_refused():
    x = torch.ones(1, 4)
    with pytest.raises(ValueError, match="next_weights: 4 norms, at most 3"):
        norms.add_norm(x, x, x[0], [None] * 4, EPS)


def test_kernels_run_where_they_are_said_to():
    assert use_triton(torch.zeros(1)) is INTERPRETED


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_kernels_keep_to_the_definition_when_interpreted():
    run_interpreted(__file__)
