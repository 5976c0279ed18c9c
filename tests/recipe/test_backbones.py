"""The full-size configuration, with backbones in the formats of the Hub, at a small size."""

import json

import pytest
import torch
from miniature import make_csv, noise
from recipe_runs import QUICK, run_recipe
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperModel

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.lobes.diffusion_gemma import _from_config

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|audio>", "<audio|>"]
SLOT = "<|audio|>"


@pytest.fixture
def overrides(small_config, tmp_path):
    """What makes `pretrained/diffusion-gemma-asr` load small backbones from folders."""
    torch.manual_seed(0)
    gemma, whisper = tmp_path / "gemma", tmp_path / "whisper"
    _from_config(small_config, torch.float32).save_pretrained(gemma)
    words = [*SPECIAL, SLOT, "user", "model"]
    words += [f"w{number}" for number in range(small_config["vocab_size"] - len(words))]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([*SPECIAL, SLOT])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(gemma)
    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 16, "decoder_layers": 1, "decoder_attention_heads": 2}
    WhisperModel(WhisperConfig(**sizes)).save_pretrained(whisper)
    return {
        "base_source": str(gemma),
        "whisper_source": str(whisper),
        "encoder_width": 16,
        "hidden_size": small_config["hidden_size"],
        "window": 2.0,
        "num_slots": 13,
        "canvas_length": 10,
        "dtype": "float32",
        "experts": "eager",
    }


def test_projector_and_lora_are_trained_on_backbones_that_are_not_copied(overrides, tmp_path):
    utterances = [(noise(1.0, 1), "w1 w2", "en"), (noise(1.4, 2), "w3 w4 w5", "hi")]
    make_csv(tmp_path / "data", utterances)
    csvs = [f"--{split}_csv={split}.csv" for split in ("train", "valid", "test")]
    run_recipe(
        "CSV", "train.yaml", "--pretrained", "../../pretrained/diffusion-gemma-asr",
        "--start", "fresh", "--model", json.dumps(overrides), *csvs, *QUICK,
        "--data_folder", tmp_path / "data", "--output_folder", tmp_path / "run",
    )  # fmt: skip
    folder = tmp_path / "run" / "pretrained"
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "hyperparams.yaml",
        "language.safetensors",
        "projector.safetensors",
    ]
    asr = DiffusionASR.from_hparams(folder)
    wavs = [noise(1.0, 1), noise(1.4, 2)]
    texts = [transcript.text for transcript in asr.transcribe(wavs, language="en")]
    elsewhere = DiffusionASR.from_hparams(
        "pretrained/diffusion-gemma-asr", overrides={**overrides, "adapter_source": str(folder)}
    )
    assert [t.text for t in elsewhere.transcribe(wavs, language="en")] == texts
    # What tells languages apart lies with the adapter.
    assert elsewhere.language_table.languages == asr.language_table.languages == ["en", "hi"]
    assert torch.equal(elsewhere.language_table.counts, asr.language_table.counts)
    report = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    assert {result["steps"] for result in report["results"]} == {1, 2}
