"""Times each stage from waveform to text, and the memory they take.

    python benchmarks/stages.py --model pretrained/diffasr-tiny
    python benchmarks/stages.py --model pretrained/diffusion-gemma-asr --random --device cuda

With --random the model of that folder is built from its full-size configuration with random
weights: the speed does not depend on their values, and nothing is downloaded. Without an early
stop, since random weights are never sure: every denoising step is taken.
"""

import argparse
import copy
import json
import platform
import statistics
import time
from pathlib import Path

import peft
import speechbrain
import torch
import transformers
from hyperpyyaml import load_hyperpyyaml
from hyperpyyaml.core import recursive_update

from speechbrain_diffasr.inference import DiffusionASR, default_model

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
    hparams["tokenizer"].load(Path(default_model()) / "tokenizer.json")
    return DiffusionASR(
        modules=hparams["modules"],
        hparams=hparams,
        run_opts={"device": device},
        freeze_params=not trained,
    ).eval()


def environment(device):
    """What figures depend on beside the model: the device, and versions."""
    packages = (torch, transformers, peft, speechbrain)
    return {
        "device": torch.cuda.get_device_name(device) if "cuda" in device else platform.machine(),
        "versions": {package.__name__: package.__version__ for package in packages},
    }


def print_table(rows):
    """Prints rows, dicts with the same keys, as a Markdown table."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        cells = [value if isinstance(value, str) else f"{value:.4g}" for value in row.values()]
        print("| " + " | ".join(cells) + " |")


class Stages:
    """Runs a batch stage by stage.

    Arguments
    ---------
    asr : DiffusionASR
    wavs : torch.Tensor
        [B, T].
    """

    def __init__(self, asr, wavs):
        self.whisper, self.projector = asr.mods.encoder["whisper"], asr.mods.encoder["projector"]
        self.searcher, self.asr, self.wavs = asr.mods.decoder, asr, wavs
        self.searcher.sampler.confidence = 0.0  # never stop early

    def mel(self):
        self.mels = self.whisper.log_mel(self.wavs)

    def encoder(self):
        self.frames = self.whisper.encode_mel(self.mels)

    def projector_(self):
        self.audio = self.projector(self.frames)

    def prefill(self):
        prompt, model = self.searcher.prompt, self.searcher.model
        tokens, lengths = prompt([None] * len(self.audio), device=self.audio.device)
        _, self.context = model.encode(prompt.scatter(model.embed(tokens), self.audio), lengths)

    def steps(self, number):
        model = self.searcher.model

        def predict(canvas, previous):
            previous = None if previous is None else previous.to(model.core.dtype)
            return model.logits(model.denoise(canvas, self.context, previous))

        self.searcher.sampler(
            predict, model.vocab_size, [None] * len(self.wavs), self.audio.device, number
        )

    def transcribe(self, number):
        self.asr.transcribe(list(self.wavs), steps=number)


def timed(function, device, repeats):
    """Median milliseconds of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        if "cuda" in device:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        if "cuda" in device:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=default_model(), help="a pretrained folder")
    parser.add_argument("--random", action="store_true", help="full size, random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--wav", help="audio file (default: a sample of the shipped model)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio, repeated or cut")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", help="JSON file for the figures")
    args = parser.parse_args()

    if args.random:
        asr = random_model(Path(args.model), args.device)
    else:
        asr = DiffusionASR.from_hparams(args.model, run_opts={"device": args.device})
    path = args.wav or Path(default_model()) / "samples" / "en_1.wav"
    wav = asr.load_audio(path).cpu()
    size = int(args.seconds * asr.sample_rate)
    wav = wav.repeat(size // len(wav) + 1)[:size]

    rows = []
    for batch_size in args.batch_sizes:
        if "cuda" in args.device:
            torch.cuda.reset_peak_memory_stats()
        stages = Stages(asr, wav.to(asr.device).expand(batch_size, -1))
        row = {"batch": batch_size, "seconds": args.seconds}
        with torch.no_grad():
            for name in ("mel", "encoder", "projector_", "prefill"):
                row[f"{name.strip('_')}_ms"] = timed(
                    getattr(stages, name), args.device, args.repeats
                )
            for steps in args.steps:
                row[f"steps{steps}_ms"] = timed(
                    lambda stages=stages, steps=steps: stages.steps(steps),
                    args.device,
                    args.repeats,
                )
                total = timed(
                    lambda stages=stages, steps=steps: stages.transcribe(steps),
                    args.device,
                    args.repeats,
                )
                row[f"total{steps}_ms"] = total
                row[f"rtfx{steps}"] = 1000 * batch_size * args.seconds / total
        if "cuda" in args.device:
            row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        rows.append(row)
        print(json.dumps({key: round(value, 2) for key, value in row.items()}), flush=True)

    print_table(rows)
    if args.output:
        result = {
            "model": Path(args.model).name,
            "random": args.random,
            "parameters": sum(p.numel() for p in asr.mods.parameters()),
            **environment(args.device),
            "rows": rows,
        }
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
