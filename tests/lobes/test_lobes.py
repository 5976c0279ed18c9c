"""The frozen encoder, the projector and DiffusionGemma: against transformers, and as properties."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from speechbrain_diffasr.lobes import ConvProjector, DiffusionGemma, WhisperEncoder

WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 80,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@pytest.fixture
def whisper_folder(tmp_path):
    """A whole Whisper checkpoint as transformers saves it."""
    torch.manual_seed(1)
    WhisperModel(WhisperConfig(**WHISPER)).save_pretrained(tmp_path)
    return tmp_path


def test_features_and_frames_equal_those_of_transformers(whisper_folder):
    wavs = torch.randn(2, 50000) * torch.tensor([[0.3], [0.001]])  # one loud, one faint
    extractor = WhisperFeatureExtractor()
    expected = extractor(list(wavs.numpy()), sampling_rate=16000, return_tensors="pt")
    encoder = WhisperEncoder(str(whisper_folder))
    mels = encoder.log_mel(wavs)
    np.testing.assert_allclose(mels, expected.input_features, atol=2e-4)
    model = WhisperModel.from_pretrained(whisper_folder).eval()
    with torch.no_grad():
        frames = model.encoder(expected.input_features).last_hidden_state
    torch.testing.assert_close(encoder(wavs), frames, atol=1e-3, rtol=1e-3)
    assert encoder(wavs).shape == (2, 1500, 32)


def test_frames_do_not_depend_on_what_else_is_in_the_batch():
    encoder = WhisperEncoder(config=WHISPER, window=2.0)
    faint, loud = 0.01 * torch.randn(9000), torch.randn(16000)
    padded = torch.full((2, 16000), 7.0)  # rubbish behind the end of the faint one
    padded[0, :9000], padded[1] = faint, loud
    together = encoder(padded, torch.tensor([9000 / 16000, 1.0]))
    torch.testing.assert_close(together[0], encoder(faint[None])[0])
    torch.testing.assert_close(together[1], encoder(loud[None])[0])


def test_levels_are_brought_to_one_where_asked():
    """A recording 40 dB down gives the same features; silence is not raised to anything."""
    encoder = WhisperEncoder(config=WHISPER, window=1.0, loudest=1.2)
    wav = torch.randn(16000) * torch.linspace(0.1, 1, 16000)
    loud, quiet, silence = encoder.log_mel(torch.stack([wav, 0.01 * wav, 0 * wav]))
    torch.testing.assert_close(quiet, loud)
    assert loud.max() == pytest.approx(1.2)
    assert silence.max() <= 0
    plain = WhisperEncoder(config=WHISPER, window=1.0).log_mel(wav[None])[0]
    torch.testing.assert_close(loud - loud.max(), plain - plain.max())


def test_audio_over_the_window_is_refused_and_padding_is_not():
    encoder = WhisperEncoder(config=WHISPER, window=1.0)
    with pytest.raises(ValueError, match=r"1\.2 s of audio, but this model hears 1 s"):
        encoder(torch.rand(1, 19200))
    assert encoder(torch.rand(1, 19200), torch.tensor([0.8])).shape == (1, 50, 32)


def test_a_smaller_window_keeps_the_first_positions_and_can_be_widened():
    encoder = WhisperEncoder(config=WHISPER)
    wavs = torch.randn(1, 8000)
    whole = encoder(wavs)
    positions = encoder.encoder.embed_positions.weight.clone()
    encoder.set_window(2.0)
    assert encoder(wavs).shape == (1, 100, 32)
    assert torch.equal(encoder.encoder.embed_positions.weight, positions[:100])
    encoder.set_window()
    torch.testing.assert_close(encoder(wavs), whole)
    with pytest.raises(ValueError, match="window: 40"):
        encoder.set_window(40)


def test_only_the_encoder_is_kept_and_it_stays_frozen(whisper_folder):
    encoder = WhisperEncoder(str(whisper_folder)).train()
    names = [name for name, _ in encoder.named_parameters()]
    assert names and not any("decoder" in name for name in names)
    assert not encoder.training and not encoder.encoder.training
    frames = encoder(torch.randn(1, 1000, requires_grad=True))
    assert not frames.requires_grad
    assert WhisperEncoder(config=WHISPER, freeze=False).train().encoder.training


@pytest.mark.parametrize("given", [{}, {"source": "a", "config": WHISPER}])
def test_exactly_one_of_source_and_config_is_wanted(given):
    for lobe in (WhisperEncoder, DiffusionGemma):
        with pytest.raises(ValueError, match="either source or config"):
            lobe(**given)


@pytest.mark.parametrize(("num_convs", "frames", "slots"), [(3, 1500, 188), (2, 500, 125)])
def test_the_projector_says_how_long_its_output_is(num_convs, frames, slots):
    projector = ConvProjector(8, 16, 12, num_convs=num_convs, output_rms=0.5)
    embeddings = projector(torch.randn(2, frames, 8))
    assert embeddings.shape == (2, slots, 12)
    assert projector.output_length(frames) == slots
    rms = embeddings.square().mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, 0.5), rtol=1e-3, atol=0)


@pytest.mark.parametrize("length", [9, 80])  # under and over the sliding window of 64
def test_encoding_and_denoising_equal_a_forward_of_transformers(small_gemma, length):
    prompt = torch.randint(2, 60, (2, length))
    canvas = torch.randint(2, 60, (2, 5))
    with torch.no_grad():
        hidden, context = small_gemma.encode(small_gemma.embed(prompt))
        first = small_gemma.logits(small_gemma.denoise(canvas, context))
        second = small_gemma.logits(small_gemma.denoise(canvas, context, first))
        stock = small_gemma.core(input_ids=prompt, decoder_input_ids=canvas)
        again = small_gemma.core(
            input_ids=prompt, decoder_input_ids=canvas, self_conditioning_logits=first
        )
    torch.testing.assert_close(first, stock.logits)
    torch.testing.assert_close(second, again.logits)
    torch.testing.assert_close(hidden, stock.encoder_last_hidden_state)


def test_padding_of_the_prompt_changes_nothing(small_gemma):
    prompt = torch.randint(2, 60, (2, 5))
    padded = torch.cat([prompt, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    canvas = torch.randint(2, 60, (2, 5))
    with torch.no_grad():
        _, bare = small_gemma.encode(small_gemma.embed(prompt))
        _, context = small_gemma.encode(small_gemma.embed(padded), torch.tensor([5, 5]))
        expected = small_gemma.denoise(canvas, bare)
        got = small_gemma.denoise(canvas, context)
    torch.testing.assert_close(got, expected)


def test_the_decoder_does_not_see_the_transcript(small_gemma):
    """In training the transcript stands behind the prompt; the answer must not leak."""
    prompt = torch.randint(2, 60, (1, 6))
    canvas = torch.randint(2, 60, (1, 4))
    outputs = []
    for transcript in ([3, 4, 5], [9, 8, 7]):
        sequence = torch.cat([prompt, torch.tensor([transcript])], dim=1)
        _, context = small_gemma.encode(small_gemma.embed(sequence), torch.tensor([6]))
        outputs.append(small_gemma.denoise(canvas, context))
    torch.testing.assert_close(*outputs)


def test_only_adapters_are_trained_and_the_base_stays_in_eval(small_gemma):
    small_gemma.train()
    trained = [name for name, p in small_gemma.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    for half in ("encoder.language_model", "decoder"):
        assert any(half in name for name in trained)
    assert not any("v_proj" in name and ".layers.5." in name for name in trained)  # full attention
    modes = {module.training for name, module in small_gemma.named_modules() if "layers" in name}
    assert modes == {False, True}  # the base, and the adapters
    assert not small_gemma.core.training


def test_each_half_has_adapters_of_its_own(small_gemma):
    """One half's deltas must not move the other."""
    prompt = torch.randint(2, 60, (1, 6))
    with torch.no_grad():
        before, _ = small_gemma.encode(small_gemma.embed(prompt))
        for name, parameter in small_gemma.named_parameters():
            if "lora_B" in name and ".decoder." in name:
                parameter.normal_()
        after, _ = small_gemma.encode(small_gemma.embed(prompt))
    assert torch.equal(before, after)


def test_base_and_adapters_survive_saving(small_config, small_gemma):
    with torch.no_grad():
        for parameter in small_gemma.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    twin = DiffusionGemma(config=small_config, lora={"r": 4, "lora_alpha": 8}).eval()
    twin.load_base_state_dict(small_gemma.base_state_dict())
    twin.load_adapter_state_dict(small_gemma.adapter_state_dict())
    prompt, canvas = torch.randint(2, 60, (1, 6)), torch.randint(2, 60, (1, 4))
    outputs = []
    for model in (small_gemma, twin):
        with torch.no_grad():
            _, context = model.encode(model.embed(prompt))
            outputs.append(model.logits(model.denoise(canvas, context)))
    assert torch.equal(*outputs)


def test_a_checkpoint_holds_what_is_trained(small_gemma, small_config, tmp_path):
    path = tmp_path / "model.safetensors"
    small_gemma.save_trained(path)
    assert all("lora_" in name for name in load_file(path))
    twin = DiffusionGemma(config=small_config, lora={"r": 4, "lora_alpha": 8})
    twin.load_trained(path)
    for (name, ours), (_, theirs) in zip(
        small_gemma.named_parameters(), twin.named_parameters(), strict=True
    ):
        assert not ours.requires_grad or torch.equal(ours, theirs), name
    other = DiffusionGemma(config=small_config)
    with pytest.raises(ValueError, match="start afresh"):
        other.load_trained(path)


def test_an_adapter_of_another_rank_is_refused(small_gemma, small_config):
    other = DiffusionGemma(config=small_config, lora={"r": 2})
    with pytest.raises(ValueError, match=r"the adapter does not fit this model.*adapter_config"):
        small_gemma.load_adapter_state_dict(other.adapter_state_dict())


def test_a_checkpoint_folder_of_transformers_loads(small_gemma, small_config, tmp_path):
    """What the Hub holds: a whole model, vision tower and all."""
    from speechbrain_diffasr.lobes.diffusion_gemma import _from_config

    torch.manual_seed(2)
    whole = _from_config(small_config, torch.float32)
    whole.save_pretrained(tmp_path)
    loaded = DiffusionGemma(str(tmp_path), lora={"r": 2}).eval()
    prompt, canvas = torch.randint(2, 60, (1, 6)), torch.randint(2, 60, (1, 4))
    with torch.no_grad():
        expected = whole.eval()(input_ids=prompt, decoder_input_ids=canvas).logits
        _, context = loaded.encode(loaded.embed(prompt))
        got = loaded.logits(loaded.denoise(canvas, context))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("implementation", ["dense", "batched_mm", "grouped_mm"])
def test_every_way_to_run_the_experts_gives_the_same(small_gemma, implementation):
    prompt = torch.randint(2, 60, (2, 6))
    with torch.no_grad():
        expected, _ = small_gemma.encode(small_gemma.embed(prompt))
        small_gemma.core.set_experts_implementation(implementation)
        got, _ = small_gemma.encode(small_gemma.embed(prompt))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_weights_of_a_larger_window_load_into_a_smaller_one():
    large = WhisperEncoder(config=WHISPER)
    small = WhisperEncoder(config=WHISPER, window=1.0)
    small.load_state_dict(large.state_dict())
    large.set_window(1.0)
    wavs = torch.randn(1, 16000)
    torch.testing.assert_close(small(wavs), large(wavs))
