"""Fused decoding: the same transcripts as through transformers' modules, whatever the batch."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.decoders import DiffusionSearcher, EntropyBoundSampler, Utterance
from speechbrain_diffasr.decoders.eager import EagerDenoiser
from speechbrain_diffasr.decoders.fused import FusedDenoiser
from speechbrain_diffasr.decoders.packing import unsupported_reason
from speechbrain_diffasr.lobes import DiffusionGemma
from speechbrain_diffasr.lobes.diffusion_gemma import LORA_TARGETS

SLOTS, CANVAS, WINDOW = 6, 32, 3.0


class FewWords:
    """A tokenizer for prompts; token 1 ends a text."""

    eos_id = 1

    def encode(self, text):
        return [2 + ord(letter) % 50 for letter in text]

    def token_id(self, text):
        return 4


@pytest.fixture
def prompt():
    from speechbrain_diffasr.lobes import AudioPrompt

    return AudioPrompt(
        FewWords(),
        num_slots=SLOTS,
        template="ab{audio}{instruction}:",
        instruction="to {language}",
        open_instruction="to",
        languages={"en": "English", "zh": "Chinese"},
    )


@pytest.fixture
def adapted(small_gemma):
    """With LoRA deltas that matter, and different ones in encoder and decoder."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, weight in small_gemma.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3, generator=generator)
    return small_gemma


def searcher(model, prompt, **settings):
    sampler = EntropyBoundSampler(
        steps=6, canvas_length=CANVAS, entropy_bound=6.0, confidence=1.2, stable_steps=0, seed=3
    )
    return DiffusionSearcher(model, prompt, sampler, window=WINDOW, **settings)


def utterances(number, **settings):
    generator = torch.Generator().manual_seed(11)
    return [
        Utterance(
            5.0 * torch.randn(SLOTS, 32, generator=generator),
            key=index,
            language=[None, "en", "zh"][index % 3],
            seed=index,
            seconds=0.3 + 2.5 * float(torch.rand(1, generator=generator)),
            **settings,
        )
        for index in range(number)
    ]


def told(hypotheses):
    return {one.key: (one.tokens, one.steps) for one in hypotheses}


@pytest.mark.parametrize("trim_slots", [False, True])
@pytest.mark.parametrize("rate", [None, 4.0, {"en": 3.0, "zh": 9.0}])
def test_fused_and_plain_give_the_same_tokens_in_any_batch(adapted, prompt, rate, trim_slots):
    settings = {"tokens_per_second": rate, "trim_slots": trim_slots}
    with torch.no_grad():  # so sure of itself that some utterances end early
        adapted.core.model.decoder.norm.weight.mul_(20.0)
    waiting = utterances(7)
    plain = searcher(adapted, prompt, fused=False, **settings)
    fused = searcher(adapted, prompt, **settings)
    alone = {}
    for utterance in waiting:
        alone |= told(plain.stream([utterance]))
    assert len({steps for _, steps in alone.values()}) > 1, "none ends early: nothing is tested"
    for batch_size in (1, 2, 3, 7):
        assert told(fused.stream(waiting, batch_size)) == alone
        assert told(fused.stream(waiting[::-1], batch_size)) == alone
    assert told(plain.stream(waiting, 3)) == alone


def test_fused_predictions_equal_those_of_transformers(adapted):
    prompts = torch.randint(2, 60, (3, 16), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([16, 11, 13])
    sampler = EntropyBoundSampler(canvas_length=CANVAS)
    canvases = sampler.start("abc", [0, 1, 2], 60, lengths=[32, 20, 7])
    temperature, uniforms = torch.tensor([0.8, 0.5, 0.6]), torch.rand(3, CANVAS)
    rooms = [kind(adapted).allocate(3, 16, CANVAS) for kind in (EagerDenoiser, FusedDenoiser)]
    with torch.no_grad():
        for kv_cache in rooms:
            kv_cache.prefill(torch.arange(3), adapted.embed(prompts), lengths)
        for _ in range(2):  # without self-conditioning, and with it
            plain, fused = (kv_cache(canvases, temperature, uniforms) for kv_cache in rooms)
            for row, length in enumerate(canvases.lengths):
                for name in ("log_probs", "entropy", "tokens", "proposals"):
                    ours, theirs = getattr(fused, name), getattr(plain, name)
                    torch.testing.assert_close(
                        ours[row, :length], theirs[row, :length], rtol=1e-3, atol=1e-4
                    )


def test_what_all_prompts_begin_with_is_encoded_once_to_the_same_keys(adapted):
    prompts = torch.randint(2, 60, (2, 16), generator=torch.Generator().manual_seed(1))
    prompts[:, :5] = torch.tensor([7, 8, 9, 10, 11])
    with torch.no_grad():
        whole = FusedDenoiser(adapted).allocate(2, 16, CANVAS)
        parts = FusedDenoiser(adapted).allocate(2, 16, CANVAS, beginning=(7, 8, 9, 10, 11))
        for kv_cache in (whole, parts):
            kv_cache.prefill(torch.arange(2), adapted.embed(prompts), torch.tensor([16, 16]))
    for one, other in zip(whole.caches, parts.caches, strict=True):
        for tensors in zip(one, other, strict=True):
            torch.testing.assert_close(*(t[:2, :, :16] for t in tensors), rtol=1e-4, atol=1e-4)


def test_weights_that_change_are_packed_anew(adapted, prompt):
    fused, plain = searcher(adapted, prompt), searcher(adapted, prompt, fused=False)
    waiting = utterances(3)
    before = told(fused.stream(waiting))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name and "encoder" in name:
                weight.mul_(-2.0)
    assert told(fused.stream(waiting)) == told(plain.stream(waiting)) != before


def test_a_text_that_fills_a_short_canvas_gets_a_longer_one(adapted, prompt):
    """Never a transcript that is cut: it is that of the whole canvas, or ends before its end."""
    waiting = utterances(6)
    short = searcher(adapted, prompt, tokens_per_second=0.1)
    canvases = {one.key: (one.tokens, len(one.log_probs)) for one in short.stream(waiting, 4)}
    assert {length for _, length in canvases.values()} <= {16, 32}
    assert any(length == 32 for _, length in canvases.values())
    for tokens, length in canvases.values():
        assert len(tokens) < length or length == CANVAS


def test_dora_is_left_to_transformers(small_config, prompt, caplog):
    torch.manual_seed(0)
    model = DiffusionGemma(config=small_config).eval()
    model.model = get_peft_model(
        model.model, LoraConfig(r=2, target_modules=LORA_TARGETS, use_dora=True)
    )
    model.has_adapters = True
    assert "DoRA" in unsupported_reason(model.model)
    waiting = utterances(2)
    with caplog.at_level(logging.WARNING):
        found = told(searcher(model, prompt).stream(waiting))
    assert "without fused layers" in caplog.text and "DoRA" in caplog.text
    assert found == told(searcher(model, prompt, fused=False).stream(waiting))


def test_prompt_and_canvas_beyond_the_sliding_window_are_refused(adapted, prompt):
    for fused in (True, False):
        one = searcher(adapted, prompt, fused=fused)
        one.sampler.canvas_length = 64
        with pytest.raises(ValueError, match="sliding window of 64"):
            list(one.stream(utterances(1)))


def test_float8_experts_are_close_and_top_tokens_may_be_few(adapted, prompt):
    """Both are approximations: most positions keep their token after one step."""
    waiting = utterances(6)
    exact = {one.key: one for one in searcher(adapted, prompt).stream(waiting, 6, steps=2)}
    for settings in ({"fp8_experts": True}, {"top_tokens": 20}):
        close = searcher(adapted, prompt, **settings).stream(waiting, 6, steps=2)
        for one in close:
            error = one.log_probs - exact[one.key].log_probs
            assert error.abs().median() < 0.3


def test_settings_that_need_the_window_say_so(adapted, prompt):
    with pytest.raises(ValueError, match="need window"):
        DiffusionSearcher(adapted, prompt, EntropyBoundSampler(), trim_slots=True)


def test_a_decoding_that_another_has_overwritten_stops(adapted, prompt):
    """Rather than to go on with what the other has left in the memory that they share."""
    one = searcher(adapted, prompt)
    first = one.stream(utterances(5), batch_size=2)
    next(first)
    expected = told(searcher(adapted, prompt).stream(utterances(2)))
    assert told(one.stream(utterances(2))) == expected
    with pytest.raises(RuntimeError, match="another decoding began"):
        list(first)


@pytest.mark.gpu
def test_on_a_gpu_the_shipped_model_says_what_it_says_on_a_cpu():
    """In float32, captured in CUDA graphs of several batch sizes, and replayed."""
    samples = sorted(Path(shipped_model("diffasr-tiny")).glob("samples/*.wav"))
    on_cpu = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    on_gpu = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"), run_opts={"device": "cuda"})
    wavs = [on_cpu.load_audio(path) for path in samples]
    lens = torch.tensor([len(wav) for wav in wavs])
    audio = on_cpu.encode_batch(pad_sequence(wavs, batch_first=True), lens / lens.max())
    waiting = [Utterance(row, index, seed=index) for index, row in enumerate(audio)]
    there = [replace(one, audio=one.audio.cuda()) for one in waiting]
    expected = told(on_cpu.mods.decoder.stream(waiting, len(waiting)))
    on_gpu.mods.decoder.fused = False
    assert told(on_gpu.mods.decoder.stream(there, len(there))) == expected
    on_gpu.mods.decoder.fused = True
    for batch_size in (1, 2, 5, len(there), 1):
        assert told(on_gpu.mods.decoder.stream(there, batch_size)) == expected
    texts = on_gpu.transcribe_files(samples, batch_size=4)
    assert texts == [path.with_suffix(".txt").read_text().strip() for path in samples]
