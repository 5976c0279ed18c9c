"""The denoising loop against transformers' own, and what users depend on."""

import pytest
import torch
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    DiffusionGemmaGenerationConfig,
    EntropyBoundSamplerConfig,
)

from speechbrain_diffasr.decoders import EntropyBoundSampler
from speechbrain_diffasr.decoders.canvas import draw_noise
from speechbrain_diffasr.decoders.eager import EagerDenoiser
from speechbrain_diffasr.decoders.fused import FusedDenoiser
from speechbrain_diffasr.kernels.vocabulary import read_logits

CANVAS = 12


class EveryCanvas:
    """Collects what transformers' loop streams: its draft after every step."""

    def __init__(self):
        self.drafts, self.canvases = [], []

    def put(self, value):
        pass

    def put_draft(self, value):
        self.drafts.append(value)

    def end(self):
        pass


def stock_generate(model, prompt, seed, steps, monkeypatch, **settings):
    """Drafts and next canvases of every step of `DiffusionGemmaForBlockDiffusion.generate`.

    Its noise is ours: a token is sampled by the inverse of its distribution function, and fresh
    tokens come from what was drawn in advance.
    """
    streamer = EveryCanvas()
    noise = draw_noise([seed], steps, CANVAS, 60)
    uniforms, fresh = iter(noise.uniforms[0]), iter([noise.start, *noise.fresh[0]])

    def multinomial(probs, num_samples):
        assert num_samples == 1
        total = probs.double().cumsum(dim=-1)
        return torch.searchsorted(total, next(uniforms).double()[:, None] * total[:, -1:])

    monkeypatch.setattr(torch, "multinomial", multinomial)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: next(fresh).view(1, CANVAS))
    one_step = type(model)._denoising_step

    def recording(self, **kwargs):
        output = one_step(self, **kwargs)
        streamer.canvases.append(output[0].clone())
        return output

    monkeypatch.setattr(type(model), "_denoising_step", recording)
    model.config.canvas_length = CANVAS
    model.generate(
        prompt,
        generation_config=DiffusionGemmaGenerationConfig(
            max_new_tokens=CANVAS,
            max_denoising_steps=steps,
            sampler_config=EntropyBoundSamplerConfig(settings["entropy_bound"]),
            t_max=settings["max_temperature"],
            t_min=settings["min_temperature"],
            stability_threshold=settings["stable_steps"],
            confidence_threshold=settings["confidence"],
            pad_token_id=0,
            eos_token_id=1,
        ),
        streamer=streamer,
    )
    monkeypatch.undo()
    return streamer


def predictor(denoiser, prompts):
    """Predicts canvases behind prompts; the slot of an utterance is the row of its prompt."""
    room = denoiser.allocate(len(prompts), prompts.shape[1], CANVAS)
    lengths = torch.full((len(prompts),), prompts.shape[1])
    room.prefill(torch.arange(len(prompts)), denoiser.gemma.embed(prompts), lengths)
    return room


def decode(sampler, predict, seeds, callback=None):
    """Canvases that were denoised as one batch, in the order of the seeds."""
    waiting = [sampler.start(range(len(seeds)), seeds, vocab_size=60)]
    ended = list(
        sampler(predict, lambda going: waiting.pop() if waiting else going, callback=callback)
    )
    together = ended[0]
    for others in ended[1:]:
        together = together.join(others)
    return together.select([together.keys.index(key) for key in range(len(seeds))])


@pytest.mark.parametrize("steps", [1, 2, 8, 16])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("sharpness", "settings"),
    [
        (1.0, {"entropy_bound": 0.1, "confidence": 0.005}),  # the released settings
        (1.0, {"entropy_bound": 8.0, "confidence": 0.005}),
        (6.0, {"entropy_bound": 0.5, "confidence": 0.5}),  # some stop early
        (6.0, {"entropy_bound": 0.5, "confidence": 0.5, "stable_steps": 2}),
    ],
)
@pytest.mark.parametrize("kind", [EagerDenoiser, FusedDenoiser])
def test_every_canvas_equals_that_of_transformers(
    small_gemma, monkeypatch, steps, seed, sharpness, settings, kind
):
    settings = {"max_temperature": 0.8, "min_temperature": 0.4, "stable_steps": 1, **settings}
    with torch.no_grad():
        small_gemma.core.model.decoder.norm.weight.mul_(sharpness)
    prompt = torch.randint(2, 60, (1, 9), generator=torch.Generator().manual_seed(seed))
    stock = stock_generate(small_gemma.core, prompt, seed, steps, monkeypatch, **settings)
    drafts = []
    sampler = EntropyBoundSampler(steps=steps, canvas_length=CANVAS, seed=seed, **settings)
    with torch.no_grad():
        ended = decode(sampler, predictor(kind(small_gemma), prompt), [None], drafts.append)
    assert len(drafts) == len(stock.drafts) == int(ended.taken)
    for ours, canvas, tokens in zip(drafts, stock.canvases, stock.drafts, strict=True):
        assert ours.canvas.tolist() == canvas.tolist()
        assert ours.tokens.tolist() == tokens.tolist()


@pytest.mark.parametrize("kind", [EagerDenoiser, FusedDenoiser])
def test_an_utterance_does_not_depend_on_its_batch(small_gemma, kind):
    prompts = torch.randint(2, 60, (4, 9), generator=torch.Generator().manual_seed(3))
    sampler = EntropyBoundSampler(
        steps=6, canvas_length=CANVAS, entropy_bound=4.0, confidence=1.0, seed=5
    )
    seeds = [7, None, 7, 9]
    with torch.no_grad():
        together = decode(sampler, predictor(kind(small_gemma), prompts), seeds)
        alone = [
            decode(sampler, predictor(kind(small_gemma), row[None]), [seed])
            for row, seed in zip(prompts, seeds, strict=True)
        ]
    assert together.tokens.tolist() == [one.tokens[0].tolist() for one in alone]
    assert together.taken.tolist() == [int(one.taken) for one in alone]
    torch.testing.assert_close(together.log_probs, torch.cat([one.log_probs for one in alone]))


def test_a_seed_repeats_and_another_differs(small_gemma):
    predict = predictor(FusedDenoiser(small_gemma), torch.tensor([[2, 5, 9]]))
    sampler = EntropyBoundSampler(steps=4, canvas_length=CANVAS)

    def canvases(seed):
        seen = []
        decode(sampler, predict, [seed], lambda draft: seen.append(draft.canvas.tolist()))
        return seen

    assert canvases(11)[0] == canvases(11)[0]
    assert canvases(11)[0] != canvases(12)[0]


def predict_from(logits):
    """A model whose logits at each call come from a function of the number of calls."""

    def predict(canvases, temperature, uniforms):
        predict.calls += 1
        return read_logits(logits(predict.calls)[canvases.slots], temperature, uniforms)

    predict.calls = 0
    return predict


def sure_and_unsure(call):
    """One utterance is sure at once, but of something else later; the other never is."""
    logits = torch.zeros(2, 4, 60)
    logits[0, :, 3 if call <= 3 else 4] = 60.0
    logits[1, :, 0] = 0.1
    return logits


def test_a_finished_utterance_keeps_its_tokens():
    """With a callback all stay to the end: the one that is finished must not move."""
    sampler = EntropyBoundSampler(steps=8, canvas_length=4)
    ended = decode(sampler, predict_from(sure_and_unsure), [1, 2], callback=lambda draft: None)
    assert ended.tokens[0].tolist() == [3, 3, 3, 3]
    assert ended.taken.tolist() == [2, 8]


def test_a_finished_utterance_makes_room():
    """Who waits enters when somebody ends, begins at its first step and takes all of its own."""
    sampler = EntropyBoundSampler(steps=8, canvas_length=4)
    seen = []

    def predict(canvases, temperature, uniforms):
        seen.append((canvases.keys, [round(value, 2) for value in temperature.tolist()]))
        return both(canvases, temperature, uniforms)

    both = predict_from(sure_and_unsure)
    start = dict(vocab_size=60, device="cpu")
    waiting = [
        sampler.start(["late"], [3], slots=[1], **start),
        sampler.start(["sure", "unsure"], [1, 2], slots=[0, 1], **start),
    ]

    def admit(going):
        if not waiting:
            return going
        return waiting.pop() if going is None else going.join(waiting.pop())

    ended = list(sampler(predict, admit))
    assert [one.keys for one in ended] == [["sure"], ["unsure"], ["late"]]
    assert [one.taken.tolist() for one in ended] == [[2], [8], [8]]
    assert seen[1] == (["sure", "unsure"], [0.75, 0.75])
    assert seen[2] == (["unsure", "late"], [0.7, 0.8])
    assert seen[-1] == (["late"], [0.45])


def test_a_short_canvas_is_denoised_as_if_alone(small_gemma):
    """Padding behind a canvas changes nothing in it, whatever its width."""
    prompts = torch.randint(2, 60, (2, 9), generator=torch.Generator().manual_seed(4))
    sampler = EntropyBoundSampler(steps=5, canvas_length=CANVAS, entropy_bound=4.0, confidence=0)
    results = []
    for kind, width in ((EagerDenoiser, 7), (FusedDenoiser, 7), (EagerDenoiser, 12)):
        room = kind(small_gemma).allocate(2, 9, width)
        room.prefill(torch.arange(2), small_gemma.embed(prompts), torch.tensor([9, 9]))
        lengths = [7, 5]
        waiting = [sampler.start([0, 1], [1, 2], 60, lengths=lengths, width=width)]
        with torch.no_grad():
            (ended,) = sampler(room, lambda going, w=waiting: w.pop() if w else going)
        results.append([row[:n] for row, n in zip(ended.tokens.tolist(), lengths, strict=True)])
    assert results[0] == results[1] == results[2]


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps: 0"):
        EntropyBoundSampler().start(["a"], [1], vocab_size=10, steps=0)
