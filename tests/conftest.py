"""What several test files need."""

import os

# Nothing is fetched while testing: whatever asks the Hub must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from speechbrain_diffasr.lobes.diffusion_gemma import DiffusionGemma

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 16,
    "sliding_window": 64,
    "use_bidirectional_attention": "vision",
    "initializer_range": 0.3,
}


@pytest.fixture
def small_config():
    """A DiffusionGemma that is built in no time, all kinds of layers in it."""
    return dict(SMALL)


@pytest.fixture
def small_gemma(small_config):
    """The lobe with random weights, large enough for predictions to differ."""
    torch.manual_seed(0)
    return DiffusionGemma(config=small_config, lora={"r": 4, "lora_alpha": 8}).eval()
