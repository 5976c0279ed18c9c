"""Models of full size with random weights, and what the benchmarks share."""

import copy
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from hyperpyyaml.core import recursive_update

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.utils.environment import hardware, versions

# The published configurations, for random weights.
FULL_SIZE = {
    "base_source": None,
    "whisper_source": None,
    "base_config": {
        "vocab_size": 262144,
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
        "sliding_window": 1024,
        "use_bidirectional_attention": "vision",
        "final_logit_softcapping": 30.0,
    },
    "whisper_config": {
        "d_model": 768,
        "encoder_layers": 12,
        "encoder_attention_heads": 12,
        "encoder_ffn_dim": 3072,
        "num_mel_bins": 80,
    },
}


def random_model(folder, device, overrides=None, trained=False):
    """A recognizer with random weights, of the configuration of a pretrained folder.

    Arguments
    ---------
    folder : Path
        With hyperparams.yaml.
    device : str
    overrides : dict, optional
        What to change in it, such as `{"base_config": {"num_hidden_layers": 2}}`.
    trained : bool
        Whether what is not frozen will be trained. Default: False.

    Returns
    -------
    asr : DiffusionASR
    """
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    changes = copy.deepcopy(FULL_SIZE)
    recursive_update(changes, overrides or {})
    with torch.device(device):
        hparams = load_hyperpyyaml(text, changes, overrides_must_match=False)
    # The released tokenizer would have to be downloaded; the prompt is about as long in this one.
    hparams["tokenizer"].load(Path(shipped_model("diffasr-tiny")) / "tokenizer.json")
    return DiffusionASR(
        modules=hparams["modules"],
        hparams=hparams,
        run_opts={"device": device},
        freeze_params=not trained,
    ).eval()


def environment(device):
    """What figures depend on beside the model: the device, and versions."""
    return {"device": hardware(device), "versions": versions()}


def print_table(rows):
    """Prints rows, dicts with the same keys, as a Markdown table."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        cells = [value if isinstance(value, str) else f"{value:.4g}" for value in row.values()]
        print("| " + " | ".join(cells) + " |")
