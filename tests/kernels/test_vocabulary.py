"""Reading the vocabulary, in plain torch and as Triton kernels, against float64."""

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

from speechbrain_diffasr.kernels import vocabulary

SOFTCAP = 30.0
# (positions N, vocabulary V, width D)
SIZES = [(1, 1000, 24), (3, 3072, 16), (7, 2049, 8), (3, 9216, 16)]
FULL_VOCABULARY, FULL_WIDTH = 262144, 2816
FULL_ROWS = [1, 64, 192, 2304]
# How far from an edge of the distribution function sampling may err, of which the rounding of
# probabilities to bfloat16 is the larger part.
EDGE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
STATISTICS = 1e-3  # relative error of log probabilities and entropies
# And in nats. In float32, exp(d) <= 1 over differences d of logits errs by less than 2**-22, for
# the largest d exactly 0, and the sum of them by a few roundings of 2**-24.
STATISTICS_NATS = 1e-6


def draw(device, dtype, count, size, width, deviation=6.0):
    """Hidden states, head, temperatures, uniforms and embeddings; logits deviate by so much."""
    if device == "cpu":  # the same numbers wherever the test runs
        generator = torch.Generator().manual_seed(0)
    else:
        generator = torch.Generator(device).manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    hidden, head, embeddings = normal(count, width), normal(size, width), normal(size, width)
    hidden *= deviation * width**-0.5
    temperature = torch.linspace(0.4, 0.8, count, device=device)
    uniforms = torch.rand(count, generator=generator, device=device)
    return hidden, head, temperature, uniforms, embeddings


def probabilities(hidden, head, softcap, temperature):
    """The distribution in float64, of logits as the product rounds them."""
    logits = F.linear(hidden, head)
    scaled = logits.double()
    if softcap is not None:
        scaled = softcap * torch.tanh(scaled / softcap)
    return (scaled / temperature.double()[:, None]).log_softmax(dim=-1), logits


def check(predictions, log_probs, logits, uniforms, edge):
    """Holds a reading without `soft_embedding` against the distribution."""
    probs = log_probs.exp()
    tokens = logits.argmax(dim=-1, keepdim=True)
    assert torch.equal(predictions.tokens, tokens[:, 0])
    best = log_probs.gather(1, tokens)[:, 0]
    assert predictions.log_probs.dtype == predictions.entropy.dtype == torch.float32
    torch.testing.assert_close(
        predictions.log_probs.double(), best, rtol=STATISTICS, atol=STATISTICS_NATS
    )
    entropy = torch.special.entr(probs).sum(dim=-1)
    torch.testing.assert_close(
        predictions.entropy.double(), entropy, rtol=STATISTICS, atol=STATISTICS_NATS
    )
    check_proposals(predictions.proposals, probs, uniforms, edge)


def check_proposals(proposals, probs, uniforms, edge):
    """Each uniform lies between the running sums before and after the token, or near them."""
    assert proposals.dtype == torch.int64
    assert ((proposals >= 0) & (proposals < probs.shape[1])).all()
    proposals = proposals[:, None]
    after = probs.cumsum(dim=-1).gather(1, proposals)[:, 0]
    before = after - probs.gather(1, proposals)[:, 0]
    assert (before <= uniforms.double() + edge).all()
    assert (uniforms.double() <= after + edge).all()
    assert (probs.gather(1, proposals) > 0).all()


def expected_embeddings(logits, log_probs, embeddings, top=None):
    """In float64; of equal logits the first are among the most probable."""
    probs = log_probs.exp()
    if top is not None:
        order = logits.sort(dim=-1, descending=True, stable=True).indices
        probs = probs.scatter(1, order[:, top:], 0.0)
    return probs @ embeddings.double() / probs.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("setting", SETTINGS)
class TestDefinition:
    """Odd sizes, wherever they run."""

    @pytest.mark.parametrize("softcap", [SOFTCAP, None])
    @pytest.mark.parametrize("with_embeddings", [True, False])
    @pytest.mark.parametrize("size", SIZES)
    def test_reading(self, setting, size, with_embeddings, softcap):
        device, dtype, tolerance = setting
        hidden, head, temperature, uniforms, embeddings = draw(device, dtype, *size)
        chosen = embeddings if with_embeddings else None
        predictions = vocabulary.read_vocabulary(
            hidden, head, softcap, temperature, uniforms, chosen
        )
        log_probs, logits = probabilities(hidden, head, softcap, temperature)
        check(predictions, log_probs, logits, uniforms, EDGE[dtype])
        if with_embeddings:
            assert predictions.soft_embedding.dtype == dtype
            expected = expected_embeddings(logits, log_probs, embeddings)
            assert relative_error(predictions.soft_embedding, expected) <= tolerance
        else:
            assert predictions.soft_embedding is None

    @pytest.mark.parametrize("temperature", [0.01, 100.0])
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_logits_at_their_bounds(self, setting, sign, temperature):
        """Neither all very likely tokens nor all very unlikely ones overflow or vanish."""
        device, dtype, tolerance = setting
        hidden, head, _, uniforms, embeddings = draw(device, dtype, 3, 2500, 16)
        hidden[:], head[:] = sign * 100.0, 1.0
        head[1234] = 1 + sign / 16
        temperature = torch.full((3,), temperature, device=device)
        for softcap in (SOFTCAP, None):
            arguments = hidden, head, softcap, temperature, uniforms, embeddings
            predictions = vocabulary.read_vocabulary(*arguments)
            log_probs, logits = probabilities(*arguments[:4])
            expected = expected_embeddings(logits, log_probs, embeddings)
            assert relative_error(predictions.soft_embedding, expected) <= tolerance
            check_proposals(predictions.proposals, log_probs.exp(), uniforms, EDGE[dtype])

    @pytest.mark.parametrize("softcap", [SOFTCAP, None])
    @pytest.mark.parametrize("with_embeddings", [True, False])
    def test_a_certain_token_is_certain(self, setting, with_embeddings, softcap):
        """Rounding a large logit over its temperature is not taken for doubt."""
        device, dtype, tolerance = setting
        count = 64 if device == "cuda" else 24
        hidden, head, _, uniforms, embeddings = draw(device, dtype, count, 2500, 16, deviation=1.0)
        head[:, 0], head[1234, 0] = 0.0, 3.0
        hidden[:, 0] = torch.linspace(30.0, 60.0, count)
        temperature = torch.linspace(0.3, 0.8, count, device=device)
        given = embeddings if with_embeddings else None
        predictions = vocabulary.read_vocabulary(
            hidden, head, softcap, temperature, uniforms, given
        )
        assert (predictions.tokens == 1234).all() and (predictions.proposals == 1234).all()
        # All others together are less probable than what float32 tells from 1.
        assert predictions.log_probs.abs().max() <= 2**-24
        assert predictions.entropy.abs().max() <= 2**-24
        if with_embeddings:
            expected = embeddings[1234].double().expand(count, -1)
            assert relative_error(predictions.soft_embedding, expected) <= tolerance

    @pytest.mark.parametrize("temperature", [0.4, 0.3])
    def test_unlikely_logits_keep_their_precision(self, setting, temperature):
        device, dtype, tolerance = setting
        hidden, head, _, uniforms, embeddings = draw(device, dtype, 3, 2500, 16)
        head[:, 0], hidden[:, 0] = -10.0, 5.0  # logits about -50: at the softcap
        temperature = torch.full((3,), temperature, device=device)
        arguments = hidden, head, SOFTCAP, temperature, uniforms, embeddings
        predictions = vocabulary.read_vocabulary(*arguments)
        log_probs, logits = probabilities(*arguments[:4])
        expected = expected_embeddings(logits, log_probs, embeddings)
        assert relative_error(predictions.soft_embedding, expected) <= tolerance

    @pytest.mark.parametrize("top", [1, 5, 64, 100])
    @pytest.mark.parametrize("size", SIZES)
    def test_expected_embeddings_of_the_most_probable_tokens(self, setting, size, top):
        device, dtype, tolerance = setting
        hidden, head, temperature, uniforms, embeddings = draw(device, dtype, *size)
        arguments = hidden, head, SOFTCAP, temperature, uniforms, embeddings
        predictions = vocabulary.read_vocabulary(*arguments, top=top)
        log_probs, logits = probabilities(*arguments[:4])
        check(predictions, log_probs, logits, uniforms, EDGE[dtype])
        expected = expected_embeddings(logits, log_probs, embeddings, top)
        assert relative_error(predictions.soft_embedding, expected) <= tolerance

    def test_of_equal_logits_the_first_are_most_probable(self, setting):
        device, dtype, tolerance = setting
        hidden, head, temperature, uniforms, embeddings = draw(device, dtype, 3, 3000, 16)
        head[:] = head[0]
        head[[700, 2999]] = head[0] + hidden[:1]
        arguments = hidden[:1], head, SOFTCAP, temperature[:1], uniforms[:1], embeddings
        predictions = vocabulary.read_vocabulary(*arguments, top=40)
        assert predictions.tokens.tolist() == [700]
        log_probs, logits = probabilities(*arguments[:4])
        expected = expected_embeddings(logits, log_probs, embeddings, 40)
        assert relative_error(predictions.soft_embedding, expected) <= tolerance

    def test_all_tokens_are_the_most_probable_ones(self, setting):
        device, dtype, tolerance = setting
        hidden, head, temperature, uniforms, embeddings = draw(device, dtype, 3, 250, 16)
        arguments = hidden, head, SOFTCAP, temperature, uniforms, embeddings
        exact = vocabulary.read_vocabulary(*arguments)
        for top in (250, 300):
            predictions = vocabulary.read_vocabulary(*arguments, top=top)
            assert (
                relative_error(predictions.soft_embedding, exact.soft_embedding.double())
                <= tolerance
            )

    @pytest.mark.parametrize("rows_at_once", [1, 3, 7, 100])
    def test_rows_may_be_read_in_blocks(self, setting, rows_at_once):
        device, dtype, tolerance = setting
        hidden, head, temperature, uniforms, embeddings = draw(device, dtype, 7, 2049, 8)
        arguments = hidden, head, SOFTCAP, temperature, uniforms, embeddings
        predictions = vocabulary.read_vocabulary(*arguments, rows_at_once=rows_at_once)
        log_probs, logits = probabilities(*arguments[:4])
        check(predictions, log_probs, logits, uniforms, EDGE[dtype])
        expected = expected_embeddings(logits, log_probs, embeddings)
        assert relative_error(predictions.soft_embedding, expected) <= tolerance

    @pytest.mark.parametrize("deviation", [1.0, 12.0])
    @pytest.mark.parametrize("with_embeddings", [True, False])
    def test_tokens_are_sampled_as_often_as_they_are_probable(
        self, setting, with_embeddings, deviation
    ):
        """Of evenly spread uniforms each token gets its share, but for one at either edge."""
        device, dtype, _ = setting
        count = 128 if device == "cuda" else 24  # interpreted, each row takes its time
        hidden, head, _, _, embeddings = draw(device, dtype, 1, 2500, 16, deviation)
        uniforms = (torch.arange(count, device=device) + 0.5) / count
        temperature = torch.full((count,), 0.8, device=device)
        hidden = hidden.expand(count, -1)
        predictions = vocabulary.read_vocabulary(
            hidden, head, SOFTCAP, temperature, uniforms, embeddings if with_embeddings else None
        )
        log_probs, _ = probabilities(hidden[:1], head, SOFTCAP, temperature[:1])
        times = predictions.proposals.bincount(minlength=2500)
        allowed = 1.001 + 2 * count * EDGE[dtype]
        assert ((times - count * log_probs[0].exp()).abs() <= allowed).all()

    def test_the_smallest_and_the_largest_uniform(self, setting):
        """They sample tokens that can be, even if others have a probability of zero."""
        device, dtype, _ = setting
        hidden, head, temperature, uniforms, embeddings = draw(device, dtype, 3, 5000, 16)
        hidden[:], head[:] = 10.0, -20.0
        head[[2100, 2101, 3500]] = 1.0
        uniforms = torch.tensor([0.0, 0.5, 1 - 2.0**-24], device=device)
        for given in (embeddings, None):
            predictions = vocabulary.read_vocabulary(
                hidden, head, None, temperature, uniforms, given
            )
            assert predictions.proposals.tolist() == [2100, 2101, 3500]


@pytest.mark.gpu
class TestFullSize:
    """On the device: close to float64, and in bfloat16 no worse than plain torch."""

    @pytest.mark.parametrize("count", FULL_ROWS)
    @pytest.mark.parametrize("top", [None, 32, 256])
    def test_reading(self, count, top):
        arguments = draw("cuda", torch.bfloat16, count, FULL_VOCABULARY, FULL_WIDTH)
        hidden, head, temperature, uniforms, embeddings = arguments
        arguments = head, SOFTCAP, temperature, uniforms, embeddings
        predictions = vocabulary.read_vocabulary(hidden, *arguments, top=top)
        some = torch.arange(0, count, max(1, count // 32), device="cuda")
        plain = vocabulary.read_vocabulary_plain(
            hidden[some], head, SOFTCAP, temperature[some], uniforms[some], embeddings, top=top
        )
        log_probs, logits = probabilities(hidden[some], head, SOFTCAP, temperature[some])
        part = vocabulary.Predictions(*(field[some] for field in vars(predictions).values()))
        check(part, log_probs, logits, uniforms[some], EDGE[torch.bfloat16])
        expected = expected_embeddings(logits, log_probs, embeddings, top)
        assert_as_good_as(plain.soft_embedding, part.soft_embedding, expected)

    def test_a_cuda_graph_replays_on_new_values(self):
        arguments = draw("cuda", torch.bfloat16, 48, FULL_VOCABULARY, FULL_WIDTH)
        hidden, head, temperature, uniforms, embeddings = arguments

        def step():
            readings = [
                vocabulary.read_vocabulary(
                    hidden, head, SOFTCAP, temperature, uniforms, embeddings, top=top
                )
                for top in (None, 32)
            ]
            return [field for predictions in readings for field in vars(predictions).values()]

        step()  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        hidden.neg_()
        uniforms.copy_(1 - uniforms)
        temperature.mul_(0.5)  # below the bound from which on the highest logit is looked for
        graph.replay()
        for field, wanted in zip(captured, step(), strict=True):
            assert torch.equal(field, wanted)


def test_logits_that_are_all_there_are_read_alike():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(2, 3, 1500, generator=generator)
    temperature, uniforms = torch.tensor([0.4, 0.7]), torch.rand(2, 3, generator=generator)
    predictions = vocabulary.read_logits(logits, temperature, uniforms)
    assert predictions.tokens.shape == (2, 3) and predictions.soft_embedding is None
    flat = vocabulary.Predictions(
        *(field if field is None else field.flatten() for field in vars(predictions).values())
    )
    log_probs = (logits.double() / temperature.double()[:, None, None]).log_softmax(dim=-1)
    check(flat, log_probs.flatten(0, 1), logits.flatten(0, 1), uniforms.flatten(), 1e-5)


@pytest.mark.skipif(not INTERPRETED, reason="only the kernel has a limit")
def test_too_many_of_the_most_probable_tokens_are_refused():
    hidden, head, temperature, uniforms, embeddings = draw("cpu", torch.float32, 1, 1000, 8)
    with pytest.raises(ValueError, match="top: 300; at most 256 of the most probable tokens"):
        vocabulary.read_vocabulary(
            hidden, head, SOFTCAP, temperature, uniforms, embeddings, top=300
        )


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_kernels_keep_to_the_definition_when_interpreted():
    run_interpreted(__file__)
