"""The real architecture on the meta device: shapes and the parameter budget, no weights."""

from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parts():
    """Everything that `pretrained/diffusion-gemma-asr` builds, at its own size."""
    import sys

    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import FULL_SIZE

    path = ROOT / "pretrained" / "diffusion-gemma-asr" / "hyperparams.yaml"
    with torch.device("meta"):
        return load_hyperpyyaml(path.read_text(), FULL_SIZE, overrides_must_match=False)


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


def test_the_text_model_has_25_billion_parameters(parts):
    model = parts["diffusion_gemma"]
    base = [p for name, p in model.named_parameters() if "lora_" not in name]
    assert count(base) == pytest.approx(25.25e9, rel=0.001)


def test_42_million_are_trained(parts):
    projector = count(parts["projector"].parameters())
    lora = count(p for p in parts["diffusion_gemma"].parameters() if p.requires_grad)
    assert projector == 19_110_784
    assert lora == 22_978_560
    trained = sum(
        count(p for p in module.parameters() if p.requires_grad)
        for module in parts["modules"].values()
    )
    assert trained == projector + lora == pytest.approx(42.1e6, rel=0.01)
    everything = count(parts["decoder"].parameters()) + count(parts["encoder"].parameters())
    assert trained / everything == pytest.approx(0.0016, rel=0.05)


def test_layers_are_as_published(parts):
    core = parts["diffusion_gemma"].core
    assert core.lm_head.weight.shape == (262_144, 2816)
    assert core.lm_head.weight is core.model.decoder.embed_tokens.weight
    layers = core.model.decoder.layers
    assert len(layers) == len(core.model.encoder.language_model.layers) == 30
    full = [i for i, layer in enumerate(layers) if not layer.self_attn.is_sliding]
    assert full == [5, 11, 17, 23, 29]
    assert layers[0].experts.gate_up_proj.shape == (128, 2 * 704, 2816)
    assert layers[5].self_attn.v_proj is None and layers[5].self_attn.head_dim == 512
    assert core.model.encoder.language_model.layers[0].mlp.gate_proj.weight.shape == (2112, 2816)


def test_shapes_from_frames_to_slots(parts):
    with torch.device("meta"):
        frames = parts["whisper"].encode_mel(torch.empty(2, 80, 3000))
        audio = parts["projector"](frames)
    assert frames.shape == (2, 1500, 768)
    assert audio.shape == (2, 188, 2816)
    assert parts["prompt"].num_slots == parts["projector"].output_length(1500) == 188
