"""Compares an epoch of training from cached features with one that encodes the audio again.

    python benchmarks/feature_cache.py --csv train.csv --data_root data
    python benchmarks/feature_cache.py --csv train.csv --data_root data --device cuda \\
        --model pretrained/diffusion-gemma-asr --random

Both epochs start from the same weights, take the same batches and draw the same noise, with the
settings of hparams/training.yaml: their losses should agree. The cache is filled in a temporary
folder, which is deleted at the end, unless one is named. Utterances that are longer than the
model's window or canvas are left out.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import speechbrain as sb
import torch
from common import environment, print_table, random_model

from speechbrain_diffasr import shipped_model
from speechbrain_diffasr.recipe.options import read_hparams
from speechbrain_diffasr.training import DiffusionBrain
from speechbrain_diffasr.training.data import make_datasets, make_train_loader
from speechbrain_diffasr.training.fit import load_recognizer

SETTINGS = Path(__file__).parents[1] / "hparams" / "training.yaml"


def epoch(asr, args, cache_folder=None):
    """Trains for an epoch, and puts the weights back.

    Arguments
    ---------
    asr : DiffusionASR
    args : argparse.Namespace
    cache_folder : str, optional
        Of the feature cache. Default: audio is encoded again.

    Returns
    -------
    row : dict
        Seconds to fill the cache and of the epoch, hours of audio per hour, and the losses.
    """
    before = [(p, p.detach().clone()) for p in asr.mods.parameters() if p.requires_grad]
    unused = {"output_folder": "", "checkpointer": None, "train_logger": None}
    changes = {"feature_cache": cache_folder, "max_batch_utterances": args.batch_size}
    changes |= {"num_workers": args.num_workers, "number_of_steps": 10000}
    settings = read_hparams(SETTINGS, {**unused, **changes})
    run_opts = {"device": args.device, "precision": args.precision}
    brain = DiffusionBrain(
        modules=asr.mods,
        opt_class=settings["opt_class"],
        hparams={**settings, "tokenizer": asr.tokenizer},
        run_opts=run_opts,
    )
    data = {"train": args.csv, "valid": args.csv, "root": args.data_root}
    begin = time.perf_counter()
    dataset = make_datasets(asr, data, settings)["train"]
    filled = time.perf_counter()
    loader, brain.train_sampler = make_train_loader(brain, dataset, settings)
    brain.fit(range(1, 2), loader)
    if "cuda" in args.device:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - filled
    with torch.no_grad():
        for parameter, value in before:
            parameter.copy_(value)
    audio = sum(dataset.data[name]["duration"] for name in dataset.data_ids)
    return {
        "audio": "encoded again" if cache_folder is None else "from the cache",
        "fill_s": 0.0 if cache_folder is None else filled - begin,
        "epoch_s": seconds,
        "hours_per_hour": audio / seconds,
        **{name: brain.train_stats[name] for name in ("loss", *settings["loss_weights"])},
    }, (len(dataset), audio)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", required=True, help="utterances, as prepare.py lists them")
    parser.add_argument("--data_root", help="what $data_root stands for (default: its folder)")
    parser.add_argument(
        "--model", default=shipped_model("diffasr-tiny"), help="a pretrained folder"
    )
    parser.add_argument("--random", action="store_true", help="full size, random weights")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        help="of autocast (default: bf16 on a GPU, fp32 on the CPU)",
    )
    parser.add_argument("--batch_size", type=int, default=16, help="utterances at most")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that read audio")
    parser.add_argument("--cache", help="folder of the cache (default: a temporary one)")
    parser.add_argument("--output", help="JSON file for the figures")
    args = parser.parse_args()
    args.data_root = args.data_root or str(Path(args.csv).parent)
    args.precision = args.precision or ("bf16" if "cuda" in args.device else "fp32")
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    run_opts = sb.core.RunOptions.from_dictionary({"device": args.device})
    try:
        if args.random:
            asr = random_model(Path(args.model), args.device, trained=True)
        else:
            asr = load_recognizer(args.model, {}, run_opts, trained=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.cache or temporary
            (again, (utterances, audio)), (cached, _) = epoch(asr, args), epoch(asr, args, folder)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    except (OSError, ValueError, torch.OutOfMemoryError) as error:
        sys.exit(f"feature_cache.py: {str(error).strip()}")

    rows = [again, cached]
    print_table(rows)
    largest = max(abs(again[name] - cached[name]) / abs(again[name]) for name in ("loss", "ctc"))
    result = {
        "model": Path(args.model).name,
        "random": args.random,
        "precision": args.precision,
        "batch_size": args.batch_size,
        **environment(args.device),
        "utterances": utterances,
        "hours": audio / 3600,
        "cache_gb": size / 1e9,
        "cache_gb_per_hour": size / 1e9 / (audio / 3600),
        "relative_difference_of_losses": largest,
        "rows": rows,
    }
    print(
        f"{utterances} utterances, {audio / 3600:.3f} h; cache: {result['cache_gb']:.3f} GB, "
        f"{result['cache_gb_per_hour']:.3f} GB an hour; losses differ by {largest:.1e}; "
        f"an epoch is {again['epoch_s'] / cached['epoch_s']:.2f} times as fast"
    )
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
