"""Routing and experts, in plain torch and as Triton kernels, against float64."""

import pytest
import torch
from kernel_checks import (
    INTERPRETED,
    SETTINGS,
    assert_as_good_as,
    relative_error,
    run_interpreted,
)
from torch.nn import functional as F

from speechbrain_diffasr.kernels import experts
from speechbrain_diffasr.kernels.common import HAS_TRITON

# (tokens N, experts E, chosen K, width D, inner width F)
SIZES = [(1, 4, 2, 32, 16), (7, 4, 2, 64, 32), (37, 6, 3, 72, 40), (150, 3, 2, 40, 24)]
FULL = (128, 8, 2816, 704)
FULL_TOKENS = [16, 192, 1024, 16384]
FLOAT8_ERROR = 0.05  # of outputs, relative; 0.045 here, 0.047 at full size with random weights


def draw(device, dtype, num_tokens, num_experts, k, width, inner):
    """Inputs, weights and a routing that favours some experts."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale):
        if device == "cpu":  # the same numbers wherever the test runs
            return torch.randn(shape, generator=generator).mul_(scale).to(dtype)
        return torch.randn(shape, device=device, dtype=dtype).mul_(scale)

    x = normal(num_tokens, width, scale=1.0)
    gate_up = normal(num_experts, 2 * inner, width, scale=width**-0.5)
    down = normal(num_experts, width, inner, scale=inner**-0.5)
    scores = torch.randn(num_tokens, num_experts, generator=generator)
    scores += torch.linspace(0, 2, num_experts)
    weights, index = experts.route_plain(scores, torch.ones(num_experts), k)
    return x, gate_up, down, index.to(device), weights.to(device)


def experts_by_definition(x, gate_up, down, index, weights, gate_up_scale=None, down_scale=None):
    """In float64, one expert after the other."""
    outputs = x.new_zeros(*index.shape, x.shape[1], dtype=torch.float64)
    for expert in range(len(down)):
        first, second = gate_up[expert].double(), down[expert].double()
        if gate_up_scale is not None:
            first *= gate_up_scale[expert].double()[:, None]
            second *= down_scale[expert].double()[:, None]
        tokens, places = torch.where(index == expert)
        gate, up = (x[tokens].double() @ first.T).chunk(2, dim=-1)
        product = (F.gelu(gate, approximate="tanh") * up) @ second.T
        outputs[tokens, places] = product * weights[tokens, places, None].double()
    return outputs


def check(arguments, tolerance, function=experts.run_experts):
    outputs, expected = function(*arguments), experts_by_definition(*arguments)
    assert outputs.dtype == arguments[0].dtype
    if tolerance is None:
        assert_as_good_as(experts.run_experts_plain(*arguments), outputs, expected)
    else:
        assert relative_error(outputs, expected) <= tolerance


def quantized(arguments):
    """The arguments with float8 weights and their scales."""
    x, gate_up, down, index, weights = arguments
    (gate_up, gate_up_scale), (down, down_scale) = map(experts.quantize_rows, (gate_up, down))
    return x, gate_up, down, index, weights, gate_up_scale, down_scale


@pytest.mark.parametrize("setting", SETTINGS)
class TestDefinition:
    """Odd sizes, wherever they run."""

    @pytest.mark.parametrize(
        ("num_tokens", "num_experts", "k"), [(1, 4, 2), (9, 128, 8), (37, 6, 6)]
    )
    def test_route(self, setting, num_tokens, num_experts, k):
        device, dtype, tolerance = setting
        generator = torch.Generator().manual_seed(0)
        scores = (3 * torch.randn(num_tokens, num_experts, generator=generator)).to(dtype)
        scale = torch.rand(num_experts, generator=generator).to(dtype)
        weights, index = experts.route(scores.to(device), scale.to(device), k)
        probs, expected = scores.double().softmax(dim=-1).sort(descending=True, stable=True)
        probs, expected = probs[:, :k], expected[:, :k]
        assert index.dtype == torch.int32 and weights.dtype == torch.float32
        assert torch.equal(index.cpu().long(), expected)
        wanted = probs / probs.sum(dim=-1, keepdim=True) * scale.double()[expected]
        assert relative_error(weights.cpu(), wanted) <= min(tolerance, 1e-6)

    def test_of_equal_scores_the_first_experts_are_chosen(self, setting):
        scores = torch.zeros(5, 16, device=setting[0], dtype=setting[1])
        scores[:, 11] = 1.0
        _, index = experts.route(scores, torch.ones(16, device=setting[0]), 4)
        assert index.tolist() == [[11, 0, 1, 2]] * 5

    @pytest.mark.parametrize("size", SIZES)
    def test_run_experts(self, setting, size):
        check(draw(*setting[:2], *size), setting[2])

    @pytest.mark.parametrize("size", SIZES)
    def test_float8_weights(self, setting, size):
        check(quantized(draw(*setting[:2], *size)), setting[2])

    @pytest.mark.parametrize("expert", [0, 2, 4])
    def test_all_tokens_at_one_expert(self, setting, expert):
        arguments = draw(*setting[:2], 83, 5, 1, 32, 16)
        arguments[3].fill_(expert)
        check(arguments, setting[2])

    def test_tokens_do_not_depend_on_each_other(self, setting):
        x, gate_up, down, index, weights = draw(*setting[:2], 21, 4, 2, 32, 16)
        together = experts.run_experts(x, gate_up, down, index, weights)
        part = slice(5, 9)
        x[:5] = x[9:] = float("nan")
        apart = experts.run_experts(x, gate_up, down, index, weights)[part]
        assert torch.equal(apart, together[part])


def test_float8_rounds_each_weight_by_a_sixteenth_at_most():
    weight = torch.randn(3, 50, 70, generator=torch.Generator().manual_seed(0))
    weight *= 10.0 ** torch.linspace(-6, 6, 50)[:, None]
    weight[1, 7] = 0.0
    values, scale = experts.quantize_rows(weight)
    error = (values.double() * scale.double()[..., None] - weight.double()).abs()
    bound = torch.maximum(weight.double().abs() / 16, scale.double()[..., None] / 1024)
    assert (error <= bound * (1 + 1e-6)).all()
    assert not values[1, 7].float().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float8_changes_outputs_little(dtype):
    arguments = draw("cpu", dtype, 40, 4, 2, 256, 128)
    exact = experts_by_definition(*arguments)
    rounded = experts_by_definition(*quantized(arguments))
    assert 0 < relative_error(rounded, exact) <= FLOAT8_ERROR


@pytest.mark.gpu
class TestFullSize:
    """On the device: close to float64, and in bfloat16 no worse than plain torch."""

    @pytest.mark.parametrize("num_tokens", FULL_TOKENS)
    def test_run_experts(self, num_tokens):
        check(draw("cuda", torch.bfloat16, num_tokens, *FULL), None)

    @pytest.mark.parametrize("num_tokens", FULL_TOKENS)
    def test_float8_weights(self, num_tokens):
        check(quantized(draw("cuda", torch.bfloat16, num_tokens, *FULL)), None)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
    def test_all_tiles(self, dtype):
        from speechbrain_diffasr.kernels.experts_triton import TILES, run_experts

        arguments = draw("cuda", torch.bfloat16, 300, *FULL)
        if dtype != torch.bfloat16:
            arguments = quantized(arguments)
        expected = experts_by_definition(*arguments)
        plain = experts.run_experts_plain(*arguments)
        for _, tiles in TILES[dtype]:
            assert_as_good_as(plain, run_experts(*arguments, tiles=tiles), expected)


@pytest.mark.gpu
def test_a_cuda_graph_replays_on_new_values():
    """The routing is read when the graph runs."""
    x, gate_up, down, _, _ = draw("cuda", torch.bfloat16, 48, 16, 4, 256, 128)
    scores = torch.randn(48, 16, device="cuda", dtype=torch.bfloat16)
    scale = torch.rand(16, device="cuda")

    def step():
        weights, index = experts.route(scores, scale, 4)
        return experts.run_experts(x, gate_up, down, index, weights)

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    scores.copy_(torch.linspace(0, 9, 16).expand(48, -1))  # all tokens at the same experts
    x.neg_()
    graph.replay()
    assert torch.equal(captured, step())


@pytest.mark.skipif(not INTERPRETED, reason="plain torch has no tiles")
@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("tokens", [16, 64])
@pytest.mark.parametrize("depth", [16, 64])
def test_results_do_not_depend_on_tiles(rows, tokens, depth):
    from speechbrain_diffasr.kernels.experts_triton import Product, Tiles, run_experts

    tiles = Tiles(tokens, Product(rows, depth, 1, 4), Product(2 * rows, depth, 1, 4))
    arguments = draw("cpu", torch.float32, 61, 4, 2, 72, 40)
    outputs = run_experts(*arguments, tiles=tiles)
    assert relative_error(outputs, experts_by_definition(*arguments)) <= 1e-5


SHARED_MEMORY = 227 * 1024  # bytes that one program may take on sm_90


@pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="needs Triton's compiler")
@pytest.mark.parametrize("dtype", ["bf16", "fp8e4nv", "fp32"])
def test_tiles_fit_an_h200(dtype):
    """Compiled here, without a GPU: no tiles of the table need more than there is."""
    import triton

    from speechbrain_diffasr.kernels import experts_triton

    _, k, width, inner = FULL
    float8 = dtype == "fp8e4nv"
    inputs = "bf16" if float8 else dtype
    types = {"pairs": "i32", "plan": "i32", "num_tiles": "i32", "weights": "fp32"}
    types |= {"gate_up": dtype, "down": dtype, "scale": "fp32"}
    types |= dict.fromkeys(("x", "gated", "outputs"), inputs)
    names = {"bf16": torch.bfloat16, "fp8e4nv": torch.float8_e4m3fn, "fp32": torch.float32}
    for _, tiles in experts_triton.TILES[names[dtype]]:
        for kernel, product in (
            (experts_triton._gate_up_kernel, tiles.gate_up),
            (experts_triton._down_kernel, tiles.down),
        ):
            constants = {"D": width, "F": inner, "K": k, "TOKENS": tiles.tokens}
            constants |= {"ROWS": product.rows, "DEPTH": product.depth}
            if not float8:
                constants["scale"] = None
            arguments = kernel.arg_names
            constants = {name: constants[name] for name in arguments if name in constants}
            signature = {
                name: "constexpr"
                if name in constants
                else types[name]
                if name == "num_tiles"
                else f"*{types[name]}"
                for name in arguments
            }
            source = triton.compiler.ASTSource(
                fn=kernel,
                signature=signature,
                constexprs={(arguments.index(name),): constants[name] for name in constants},
                attrs={
                    (arguments.index(name),): [["tt.divisibility", 16]]
                    for name in arguments
                    if signature[name].startswith("*")
                },
            )
            compiled = triton.compile(
                source,
                target=triton.backends.compiler.GPUTarget("cuda", 90, 32),
                options={"num_warps": product.warps, "num_stages": product.stages},
            )
            assert compiled.metadata.shared <= SHARED_MEMORY


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_kernels_keep_to_the_definition_when_interpreted():
    run_interpreted(__file__)
