"""The denoising loop against transformers' own, and what users depend on."""

import pytest
import torch
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    DiffusionGemmaGenerationConfig,
    EntropyBoundSamplerConfig,
)

from speechbrain_diffasr.decoders.sampler import EntropyBoundSampler

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
    """Drafts and next canvases of every step of `DiffusionGemmaForBlockDiffusion.generate`."""
    streamer = EveryCanvas()
    one_step = type(model)._denoising_step

    def recording(self, **kwargs):
        output = one_step(self, **kwargs)
        streamer.canvases.append(output[0].clone())
        return output

    monkeypatch.setattr(type(model), "_denoising_step", recording)
    model.config.canvas_length = CANVAS
    torch.manual_seed(seed)
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
    monkeypatch.setattr(type(model), "_denoising_step", one_step)
    return streamer


def predictor(gemma, prompt):
    _, context = gemma.encode(gemma.embed(prompt))
    return lambda canvas, previous: gemma.logits(gemma.denoise(canvas, context, previous))


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
def test_every_canvas_equals_that_of_transformers(
    small_gemma, monkeypatch, steps, seed, sharpness, settings
):
    settings = {"max_temperature": 0.8, "min_temperature": 0.4, "stable_steps": 1, **settings}
    with torch.no_grad():
        small_gemma.core.model.decoder.norm.weight.mul_(sharpness)
    prompt = torch.randint(2, 60, (1, 9), generator=torch.Generator().manual_seed(seed))
    stock = stock_generate(small_gemma.core, prompt, seed, steps, monkeypatch, **settings)
    drafts = []
    sampler = EntropyBoundSampler(steps=steps, canvas_length=CANVAS, seed=seed, **settings)
    with torch.no_grad():
        sample = sampler(predictor(small_gemma, prompt), 60, [None], callback=drafts.append)
    assert len(drafts) == len(stock.drafts) == int(sample.steps)
    for ours, canvas, tokens in zip(drafts, stock.canvases, stock.drafts, strict=True):
        assert ours.canvas.tolist() == canvas.tolist()
        assert ours.tokens.tolist() == tokens.tolist()


def test_an_utterance_does_not_depend_on_its_batch(small_gemma):
    prompts = torch.randint(2, 60, (4, 9), generator=torch.Generator().manual_seed(3))
    sampler = EntropyBoundSampler(
        steps=6, canvas_length=CANVAS, entropy_bound=4.0, confidence=1.0, seed=5
    )
    with torch.no_grad():
        together = sampler(predictor(small_gemma, prompts), 60, [7, None, 7, 9])
        alone = [
            sampler(predictor(small_gemma, row[None]), 60, [seed])
            for row, seed in zip(prompts, [7, None, 7, 9], strict=True)
        ]
    assert together.tokens.tolist() == [one.tokens[0].tolist() for one in alone]
    assert together.steps.tolist() == [int(one.steps) for one in alone]
    torch.testing.assert_close(together.log_probs, torch.cat([one.log_probs for one in alone]))


def test_a_seed_repeats_and_another_differs(small_gemma):
    predict = predictor(small_gemma, torch.tensor([[2, 5, 9]]))
    sampler = EntropyBoundSampler(steps=4, canvas_length=CANVAS)

    def canvases(seed):
        seen = []
        sampler(predict, 60, [seed], callback=lambda draft: seen.append(draft.canvas.tolist()))
        return seen

    assert canvases(11) == canvases(11)
    assert canvases(11) != canvases(12)


def test_a_finished_utterance_keeps_its_tokens():
    """One is sure at once, the other never: the first must not move while the loop goes on."""

    def predict(canvas, previous):
        logits = torch.zeros(2, 4, 10)
        logits[0, :, 3] = 60.0
        logits[1, :, 0] = 0.1
        predict.calls += 1
        if predict.calls > 3:
            logits[0] = logits[0].roll(1, dims=-1)
        return logits

    predict.calls = 0
    sample = EntropyBoundSampler(steps=8, canvas_length=4)(predict, 10, [1, 2])
    assert sample.tokens[0].tolist() == [3, 3, 3, 3]
    assert sample.steps.tolist() == [2, 8]


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps: 0"):
        EntropyBoundSampler()(None, 10, [1], steps=0)
