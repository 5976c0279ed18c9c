"""Measures training: time of a step and of its parts, memory, and the largest batch.

    python benchmarks/training.py
    python benchmarks/training.py --model pretrained/diffusion-gemma-asr --random --device cuda
    torchrun --nproc_per_node 2 benchmarks/training.py --device cuda --batch_sizes 32

A step is that of the recipes: projector and LoRA are trained with the three losses, AdamW and the
settings of hparams/training.yaml. The batches are synthetic, noise with random transcripts, and lie
on the device beforehand: reading audio is not measured. With --random the model is built from its
full-size configuration with random weights, and nothing is downloaded.

Started by torchrun, each process has a device and batches of its own, and the figures are those of
all processes together.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import speechbrain as sb
import torch
from common import environment, print_table, random_model
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import ddp_init_group, if_main_process
from training_steps import fits, largest_that_fits, make_batch, make_brain, measure, step

from speechbrain_diffasr import shipped_model
from speechbrain_diffasr.inference.pretrained import TRAINED
from speechbrain_diffasr.training.fit import load_recognizer


def run(brain, make, args):
    """Measures all batch sizes, then looks for the largest.

    Arguments
    ---------
    brain : TimedBrain
    make : callable
        From kind of audio and batch size to a batch.
    args : argparse.Namespace

    Returns
    -------
    rows : list of dict
    largest : dict or None
        The largest batch, and the smallest found that does not fit, or None.
    """
    rows, bad, shown = [], None, if_main_process()

    def row(audio, size):
        return {
            "audio": audio,
            "batch": size,
            **measure(brain, make(audio, size), args.warmup, args.repeats),
        }

    def add(audio, size):
        found = fits(brain, lambda: row(audio, size))
        if found is not None:
            rows.append(found)
        if shown:
            line = found and {k: v if k == "audio" else round(v, 3) for k, v in found.items()}
            line = json.dumps(line) if line else f"{audio}, batch of {size}: out of memory"
            print(line, flush=True)
        return found is not None

    for size in sorted(set(args.batch_sizes)):
        for audio in args.audio:
            if not add(audio, size):
                bad = size
                break
        if bad is not None:
            break
    if not args.largest or (bad is not None and bad == min(args.batch_sizes)):
        return rows, None

    def one_step(size):
        done = fits(brain, lambda: step(brain, make(args.audio[0], size)))
        print(f"batch of {size}: {'out of memory' if done is None else 'fits'}", flush=True)
        return done is not None

    measured = max(row["batch"] for row in rows)
    good, bad = largest_that_fits(one_step, measured, bad, args.limit)
    if good > measured:
        add(args.audio[0], good)
    return rows, {"fits": good, "does_not_fit": bad}


def mapping(text):
    """Reads a mapping in YAML from the command line."""
    try:
        changes = YAML(typ="safe").load(text)
    except YAMLError:
        changes = None
    if not isinstance(changes, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping; write '{{NAME: VALUE}}'")
    return changes


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default=shipped_model("diffasr-tiny"), help="a pretrained folder"
    )
    parser.add_argument("--random", action="store_true", help="full size, random weights")
    parser.add_argument(
        "--overrides",
        type=mapping,
        default={},
        metavar="YAML",
        help="changes to its hyperparams.yaml: '{base_config: {num_hidden_layers: 2}}'",
    )
    parser.add_argument(
        "--training",
        type=mapping,
        default={},
        metavar="YAML",
        help="changes to hparams/training.yaml: '{chunk_size: 512}'",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        help="of autocast (default: bf16 on a GPU, fp32 on the CPU)",
    )
    parser.add_argument(
        "--batch_sizes", type=int, nargs="+", default=[1, 4, 16], help="utterances, of each process"
    )
    parser.add_argument(
        "--audio",
        nargs="+",
        choices=["waveforms", "frames"],
        default=["waveforms", "frames"],
        help="frames are what a feature cache holds",
    )
    parser.add_argument(
        "--seconds_of_audio",
        type=float,
        help="of each utterance (default: 15, or the model's window if that is shorter)",
    )
    parser.add_argument(
        "--tokens_per_second",
        type=float,
        default=10 / 3,
        help="of each transcript (default: 10/3, about that of read English: 50 in 15 s)",
    )
    parser.add_argument("--warmup", type=int, default=2, help="steps that do not count")
    parser.add_argument("--repeats", type=int, default=3, help="steps of which the median is taken")
    parser.add_argument(
        "--largest",
        action=argparse.BooleanOptionalAction,
        help="look for the largest batch that fits (default: with one GPU)",
    )
    parser.add_argument("--limit", type=int, default=256, help="of the batches tried for that")
    parser.add_argument("--output", help="JSON file for the figures")
    args = parser.parse_args(argv)
    if min(args.batch_sizes) < 1 or args.repeats < 1:
        parser.error("--batch_sizes, --repeats: at least 1")
    if "cuda" in args.device and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no GPU; leave it out to use the CPU")
    args.precision = args.precision or ("bf16" if "cuda" in args.device else "fp32")
    one_gpu = "cuda" in args.device and "RANK" not in os.environ
    if args.largest and not one_gpu:
        parser.error("--largest: only with one GPU; leave it out")
    args.largest = one_gpu if args.largest is None else args.largest
    return parser, args


def main(argv=None):
    """Runs the command; returns what `--output` would hold."""
    parser, args = parse(argv)
    distributed = "RANK" in os.environ
    if distributed and args.device == "cuda":
        args.device = f"cuda:{os.environ['LOCAL_RANK']}"
    run_opts = sb.core.RunOptions.from_dictionary(
        {
            "device": args.device,
            "precision": args.precision,
            "distributed_launch": distributed,
            "distributed_backend": "nccl" if "cuda" in args.device else "gloo",
        }
    )
    ddp_init_group(run_opts)
    torch.manual_seed(0)  # the same weights in every process
    begin = time.perf_counter()
    try:
        if args.random:
            asr = random_model(Path(args.model), args.device, args.overrides, trained=True)
        else:
            changes = {"fresh": list(TRAINED), **args.overrides}
            asr = load_recognizer(args.model, changes, run_opts, trained=True)
        brain = make_brain(asr, run_opts, args.training)
    except (OSError, ValueError) as error:
        parser.error(str(error).strip())
    seconds = min(15.0, asr.max_seconds) if args.seconds_of_audio is None else args.seconds_of_audio
    if not 0 < seconds <= asr.max_seconds:
        parser.error(f"--seconds_of_audio {seconds:g}: this model hears {asr.max_seconds:g} s")
    canvas = asr.mods.decoder.sampler.canvas_length
    num_tokens = round(seconds * args.tokens_per_second)
    if not 0 < num_tokens <= canvas:
        parser.error(f"--tokens_per_second: {num_tokens} tokens; the canvas has {canvas}")

    processes = int(os.environ.get("WORLD_SIZE", 1))
    result = {
        "model": Path(args.model).name,
        "random": args.random,
        "overrides": args.overrides,
        "training": args.training,
        "precision": args.precision,
        "parameters": sum(p.numel() for p in asr.mods.parameters()),
        "trained": sum(p.numel() for p in asr.mods.parameters() if p.requires_grad),
        "processes": processes,
        "seconds": seconds,
        "tokens": num_tokens,
        "warmup": args.warmup,
        "repeats": args.repeats,
        "building_s": time.perf_counter() - begin,
        **environment(args.device),
    }
    if "cuda" in args.device:
        result["weights_gb"] = torch.cuda.memory_allocated() / 1e9
    if if_main_process():
        print(json.dumps(result), flush=True)
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    rows, largest = run(
        brain,
        lambda audio, size: make_batch(brain, asr, audio, size, seconds, num_tokens),
        args,
    )
    result |= {"rows": rows, "largest": largest}
    if if_main_process():
        report(result, args.output)
    return result


def report(result, output=None):
    """Prints the figures as a table and writes them as JSON."""
    if result["rows"]:
        print_table(result["rows"])
    if result["processes"] > 1:
        print(f"{result['processes']} processes together; batch is that of each")
    if result["largest"]:
        good, bad = result["largest"]["fits"], result["largest"]["does_not_fit"]
        print(f"largest batch: {good}" + (f" ({bad} does not fit)" if bad else ", the limit"))
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        code = 0 if main()["rows"] else "not even the smallest batch fits into memory"
    except torch.OutOfMemoryError as error:
        code = f"{str(error).splitlines()[0]}\nGive smaller --batch_sizes"
    # Where one of several processes has run out of memory, the others would be waited for.
    if torch.distributed.is_initialized() and code == 0:
        torch.distributed.destroy_process_group()
    sys.exit(code)
