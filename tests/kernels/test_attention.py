"""Attention over buffers, in plain torch and as a Triton kernel, against float64."""

import pytest
import torch
from kernel_checks import (
    INTERPRETED,
    SETTINGS,
    assert_as_good_as,
    relative_error,
    run_interpreted,
)

from speechbrain_diffasr.kernels import attention
from speechbrain_diffasr.kernels.common import HAS_TRITON

# (B, S, H, KV, d, first)
SIZES = [
    (1, 1, 2, 2, 8, 0),
    (3, 5, 4, 2, 8, 37),
    (3, 11, 4, 1, 16, 70),
    (2, 70, 6, 2, 12, 3),
    (2, 3, 4, 2, 256, 33),
    (1, 3, 16, 2, 512, 33),
]
SLIDING, FULL = (16, 8, 256), (16, 2, 512)
FULL_SIZES = [
    (batch, length, *heads, first)
    for heads in (SLIDING, FULL)
    for batch, length, first in ((1, 64, 210), (1, 192, 224), (5, 23, 93), (64, 48, 210))
]
SEEN_BY_NONE = 1e3


def draw(device, dtype, batch, length, heads, key_heads, size, first):
    """Queries, buffers that hold more rows and positions than are used, and who has which row."""
    generator = torch.Generator().manual_seed(0)
    num_rows, used = batch + 2, first + length
    q = torch.randn(batch, length, heads, size, generator=generator)
    buffers = torch.randn(2, num_rows, key_heads, used + 3, size, generator=generator)
    buffers[0] *= 2 * size**-0.5  # scores of about 2
    buffers[:, :, :, used:] = float("nan")
    rows = torch.randperm(num_rows, generator=generator)[:batch]
    keys, values = buffers.to(device, dtype)
    return q.to(device, dtype), keys, values, rows.to(device)


def attention_by_definition(q, keys, values, rows, visible):
    """In float64, one query head after the other; `visible` is [B, S, T]."""
    group = q.shape[2] // keys.shape[1]
    used = visible.shape[2]
    attended = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    for b, row in enumerate(rows.tolist()):
        for head in range(q.shape[2]):
            key, value = (x[row, head // group, :used].double() for x in (keys, values))
            score = q[b, :, head].double() @ key.T
            weight = score.masked_fill(~visible[b], float("-inf")).exp()
            total = weight.sum(-1, keepdim=True)
            attended[b, :, head] = weight @ value / total.masked_fill(total == 0, 1)
    return attended


def check(function, plain, arguments, visible, tolerance):
    actual, expected = function(*arguments), attention_by_definition(*arguments[:4], visible)
    assert actual.dtype == arguments[0].dtype
    if tolerance is None:
        assert_as_good_as(plain(*arguments), actual, expected)
    else:
        assert relative_error(actual, expected) <= tolerance


def check_attend(device, dtype, size, tolerance):
    q, keys, values, rows = draw(device, dtype, *size)
    batch, length, first = size[0], size[1], size[5]
    prompt_lengths = [first, first // 2, 0]
    canvas_lengths = [length, 1, length - 1]
    visible = torch.zeros(batch, length, first + length, dtype=torch.bool)
    for b in range(batch):
        visible[b, :, : prompt_lengths[b % 3]] = True
        visible[b, :, first : first + canvas_lengths[b % 3]] = True
        hidden = ~visible[b, 0]
        for buffer in (keys, values):
            buffer[rows[b], :, : first + length][:, hidden] = SEEN_BY_NONE
    prompt_lengths, canvas_lengths = (
        torch.tensor([lengths[b % 3] for b in range(batch)], device=device)
        for lengths in (prompt_lengths, canvas_lengths)
    )
    arguments = q, keys, values, rows, prompt_lengths, first, canvas_lengths
    plain = attention.attend_plain
    check(attention.attend, plain, arguments, visible.to(device), tolerance)


def check_attend_causal(device, dtype, size, tolerance):
    q, keys, values, rows = draw(device, dtype, *size)
    batch, length, start = size[0], size[1], size[5]
    visible = torch.ones(length, start + length, dtype=torch.bool).tril(start)
    visible = visible.expand(batch, -1, -1).to(device)
    arguments = q, keys, values, rows, start
    plain = attention.attend_causal_plain
    check(attention.attend_causal, plain, arguments, visible, tolerance)


@pytest.mark.parametrize("setting", SETTINGS)
class TestDefinition:
    """Odd sizes, wherever they run."""

    @pytest.mark.parametrize("size", SIZES)
    def test_attend(self, setting, size):
        check_attend(*setting[:2], size, setting[2])

    @pytest.mark.parametrize("size", SIZES)
    def test_attend_causal(self, setting, size):
        check_attend_causal(*setting[:2], size, setting[2])

    def test_queries_that_see_nothing_get_zeros(self, setting):
        q, keys, values, rows = draw(*setting[:2], 2, 3, 4, 2, 8, 5)
        lengths = torch.tensor([0, 2], device=rows.device)
        attended = attention.attend(q, keys, values, rows, lengths, 5, lengths)
        assert not attended[0].any()
        assert attended[1].all()

    def test_large_scores_do_not_overflow(self, setting):
        q, keys, values, rows = draw(*setting[:2], 1, 3, 4, 2, 8, 40)
        q, keys = q.clamp(min=0.5) * 100, keys.abs()
        keys[:, :, 35] = 100.0
        lengths = torch.tensor([40], device=rows.device)
        attended = attention.attend(q, keys, values, rows, lengths, 40, lengths * 0)
        expected = values[rows, :, 35].double()[:, None, :, None].expand(-1, 3, -1, 2, -1)
        assert relative_error(attended, expected.flatten(2, 3)) <= setting[2]


@pytest.mark.gpu
class TestFullSize:
    """On the device: close to float64, and in bfloat16 no worse than plain torch."""

    @pytest.mark.parametrize("size", FULL_SIZES)
    def test_attend(self, size):
        check_attend("cuda", torch.bfloat16, size, None)

    @pytest.mark.parametrize("size", FULL_SIZES)
    def test_attend_causal(self, size):
        check_attend_causal("cuda", torch.bfloat16, size, None)

    @pytest.mark.parametrize("heads", [SLIDING, FULL])
    def test_float32(self, heads):
        check_attend("cuda", torch.float32, (3, 64, *heads, 210), 1e-5)
        check_attend_causal("cuda", torch.float32, (3, 210, *heads, 0), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [SLIDING, FULL])
def test_a_cuda_graph_replays_on_new_values(heads):
    """Rows and lengths are read when the graph runs."""
    q, keys, values, rows = draw("cuda", torch.bfloat16, 2, 32, *heads, 90)
    prompts, canvases = torch.tensor([[90, 3], [32, 9]], device="cuda")

    def step():
        return (
            attention.attend(q, keys, values, rows, prompts, 90, canvases),
            attention.attend_causal(q, keys, values, rows, 90),
        )

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for tensor, new in ((prompts, [0, 77]), (canvases, [5, 32]), (rows, [3, 1])):
        tensor.copy_(torch.tensor(new))
    q.neg_()
    graph.replay()
    for tensor, wanted in zip(captured, step(), strict=True):
        assert torch.equal(tensor, wanted)


SHARED_MEMORY = 227 * 1024  # bytes that one program may take on sm_90


@pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="needs Triton's compiler")
@pytest.mark.parametrize(
    ("dtype", "heads", "batch"),
    [(torch.bfloat16, SLIDING, 64), (torch.bfloat16, FULL, 64), (torch.float32, FULL, 1)],
)
def test_tiles_fit_an_h200(dtype, heads, batch):
    """Compiled here, without a GPU: no heads of the full-size model need more than there is."""
    import triton

    from speechbrain_diffasr.kernels import attention_triton

    num_heads, num_key_heads, size = heads
    group = num_heads // num_key_heads
    options = attention_triton.blocks(dtype, size, 64 * group, num_key_heads * batch)
    constants = {"KV": num_key_heads, "G": group, "D": size, "CAUSAL": False}
    constants |= {name: options[name] for name in options if name.startswith("BLOCK")}
    kernel, name = attention_triton._attend_kernel, {torch.bfloat16: "bf16", torch.float32: "fp32"}
    types = dict.fromkeys(("q", "keys", "values", "attended"), f"*{name[dtype]}")
    types |= dict.fromkeys(("rows", "prompt_lengths", "canvas_lengths"), "*i64")
    signature = {
        argument: "constexpr" if argument in constants else types.get(argument, "i32")
        for argument in kernel.arg_names
    }
    aligned = [*types, "row_stride", "head_stride", "position_stride"]
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): constants[name] for name in constants},
        attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    launch = {name: options[name] for name in ("num_warps", "num_stages")}
    compiled = triton.compile(source, target=target, options=launch)
    assert compiled.metadata.shared <= SHARED_MEMORY


@pytest.mark.skipif(not INTERPRETED, reason="only the kernel has a limit")
def test_heads_that_are_too_wide_are_refused():
    q, keys, values, rows = draw("cpu", torch.float32, 1, 1, 1, 1, 600, 0)
    with pytest.raises(ValueError, match="heads of width 600; the kernel takes at most 512"):
        attention.attend_causal(q, keys, values, rows, 0)


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_the_kernel_keeps_to_the_definition_when_interpreted():
    run_interpreted(__file__)
