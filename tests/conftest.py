"""What several test files need."""

import os

# Nothing is fetched while testing: whatever asks the Hub must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from speechbrain_diffasr.inference import save_pretrained
from speechbrain_diffasr.lobes import DiffusionGemma

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


SHIPPED = Path(__file__).parents[1] / "pretrained" / "diffasr-tiny" / "hyperparams.yaml"

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|audio>", "<audio|>"]
SMALLER = {
    "window": 2.0,
    "num_slots": 25,
    "canvas_length": 10,
    "encoder_width": 24,
    "hidden_size": 32,
    "vocab_size": 120,
    "whisper": {"config": {"encoder_layers": 1, "encoder_ffn_dim": 32}},
    "confidence": 3.0,
    "entropy_bound": 30.0,
    # The paper's sampler is the reference; tests of what else there is turn it on.
    "ctc_weight": 0.0,
    "readings": 0,
    "rank_weight": 0.5,
}


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """The shipped configuration at a smaller size, with random weights and a word tokenizer."""
    folder = tmp_path_factory.mktemp("random-model")
    words = [*SPECIAL, "<|audio|>", "user", "model", "transcribe"]
    words += [f"w{i}" for i in range(SMALLER["vocab_size"] - len(words))]
    backend = Backend(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    backend.add_special_tokens([*SPECIAL, "<|audio|>"])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    text = SHIPPED.read_text(encoding="utf-8")
    for name, value in SMALLER.items():
        if not isinstance(value, dict):
            old = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
            text = text.replace(old, f"{name}: {value}")
    text = text.replace("encoder_layers: 6", "encoder_layers: 1")
    text = text.replace("encoder_attention_heads: 6", "encoder_attention_heads: 2")
    torch.manual_seed(7)
    hparams = load_hyperpyyaml(text)
    backend.save(str(folder / "tokenizer.json"))
    hparams["tokenizer"].load(folder / "tokenizer.json")
    gemma = hparams["diffusion_gemma"]
    with torch.no_grad():  # random weights that have opinions
        gemma.head.weight.normal_()
        for name, parameter in gemma.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    save_pretrained(hparams["pretrainer"], text, folder)
    return folder
