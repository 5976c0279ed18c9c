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
import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path

import speechbrain as sb
import torch
from common import environment, print_table, random_model
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import ddp_init_group, if_main_process

from speechbrain_diffasr.brain import DiffusionBrain
from speechbrain_diffasr.hub import TRAINED
from speechbrain_diffasr.inference import default_model
from speechbrain_diffasr.recipe import load_recognizer
from speechbrain_diffasr.recipe_yaml import read_hparams

SETTINGS = Path(__file__).parents[1] / "hparams" / "training.yaml"
PARTS = ("encoder", "forward", "backward", "optimizer")


class Stopwatch:
    """Times the parts of a step without making the CPU wait for the GPU between them.

    Arguments
    ---------
    device : str
    """

    def __init__(self, device):
        self.cuda = "cuda" in device
        self.marks = []

    def start(self):
        """Begins a step, when all before it is done."""
        if self.cuda:
            torch.cuda.synchronize()
        self.marks = []
        self.mark("start")

    def mark(self, name):
        """Ends a part of the step."""
        if self.cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        else:
            mark = time.perf_counter()
        self.marks.append((name, mark))

    def read(self):
        """Milliseconds of each part of `PARTS`; zero for one that did not take place."""
        if self.cuda:
            torch.cuda.synchronize()
        times = dict.fromkeys(PARTS, 0.0)
        for (_, begin), (name, end) in zip(self.marks, self.marks[1:], strict=False):
            took = begin.elapsed_time(end) if self.cuda else 1000 * (end - begin)
            times[name] += took
        return times


class TimedBrain(DiffusionBrain):
    """Marks where the parts of a step end."""

    def start_timing(self):
        self.watch = Stopwatch(str(self.device))
        self.losses.encoder["whisper"].register_forward_hook(lambda *_: self.watch.mark("encoder"))

    def compute_objectives(self, predictions, batch, stage):
        loss = super().compute_objectives(predictions, batch, stage)
        self.watch.mark("forward")
        return loss

    def optimizers_step(self):
        self.watch.mark("backward")
        super().optimizers_step()
        self.watch.mark("optimizer")


def make_brain(asr, run_opts, changes=None):
    """A Brain that is ready to train, with the settings of the recipes.

    Arguments
    ---------
    asr : DiffusionASR
        With projector and LoRA that are not frozen.
    run_opts : RunOptions
    changes : dict, optional
        What to change in hparams/training.yaml.

    Returns
    -------
    brain : TimedBrain
    """
    # Nothing is written; the schedule wants to know an end.
    unused = {"output_folder": "", "checkpointer": None, "train_logger": None}
    settings = read_hparams(SETTINGS, {**unused, "number_of_steps": 10000, **(changes or {})})
    brain = TimedBrain(
        modules=asr.mods,
        opt_class=settings["opt_class"],
        hparams={**settings, "tokenizer": asr.tokenizer},
        run_opts=run_opts,
    )
    brain.on_fit_start()
    brain.modules.train()
    brain.on_stage_start(sb.Stage.TRAIN, epoch=1)
    brain.start_timing()
    return brain


def make_batch(brain, asr, audio, batch_size, seconds, num_tokens):
    """Noise with random transcripts, all of one length.

    Arguments
    ---------
    brain : TimedBrain
    asr : DiffusionASR
    audio : str
        "waveforms", or "frames" for what the frozen encoder makes of them, as in a feature cache.
    batch_size : int
    seconds : float
        Of each utterance.
    num_tokens : int
        Of each transcript, without its end.

    Returns
    -------
    batch : PaddedBatch
        On the device.
    """
    blank = brain.losses.ctc.blank
    tokens = torch.randint(asr.mods.decoder.model.vocab_size - 1, (batch_size, num_tokens))
    tokens += tokens >= blank  # of CTC: it must not occur in a transcript
    languages = sorted(asr.mods.decoder.prompt.languages)
    utterances = [
        {
            "id": str(number),
            "sig": 0.1 * torch.randn(int(seconds * asr.sample_rate)),
            "tokens": row,
            "lang": languages[number % len(languages)],
            "duration": seconds,
        }
        for number, row in enumerate(tokens.tolist())
    ]
    if audio == "frames":
        whisper = brain.losses.encoder["whisper"]
        for utterance in utterances:
            with torch.no_grad():
                wav = utterance.pop("sig")[None].to(brain.device)
                utterance["frames"] = whisper(wav)[0].cpu()
    return PaddedBatch(utterances).to(brain.device)


def step(brain, batch):
    """Takes one step; returns milliseconds of its parts."""
    brain.step += 1
    brain.watch.start()
    brain.fit_batch(batch)
    return brain.watch.read()


def free_memory(brain):
    """Drops what a step left, or a step that was broken off."""
    brain.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def over_processes(values, largest=False):
    """Sum or largest of values over all processes, as a list."""
    if not torch.distributed.is_initialized():
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    values = torch.tensor(values, dtype=torch.float64, device=device)
    kind = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(values, kind)
    return values.tolist()


def measure(brain, batch, warmup, repeats):
    """Times steps on a batch.

    Arguments
    ---------
    brain : TimedBrain
    batch : PaddedBatch
    warmup : int
        Steps that do not count.
    repeats : int
        Steps of which the median is taken.

    Returns
    -------
    row : dict
        Milliseconds, speeds over all processes, and memory in GB on the fullest GPU.
    """
    for _ in range(warmup):
        step(brain, batch)
    steps = [step(brain, batch) for _ in range(repeats)]
    times = {name: statistics.median(one[name] for one in steps) for name in PARTS}
    times["step"] = statistics.median(sum(one.values()) for one in steps)
    # A step ends when its slowest process does.
    times = dict(zip(times, over_processes(list(times.values()), largest=True), strict=True))
    utterances, seconds = over_processes([len(batch.id), float(batch.duration.sum())])
    row = {f"{name}_ms": value for name, value in times.items()}
    row["utterances_per_s"] = 1000 * utterances / times["step"]
    row["hours_per_hour"] = 1000 * seconds / times["step"]
    if brain.watch.cuda:
        memory = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()]
        row["peak_gb"], row["reserved_gb"] = (x / 1e9 for x in over_processes(memory, largest=True))
    return row


def fits(brain, function):
    """What a function returns, or None if the memory does not suffice."""
    free_memory(brain)
    try:
        return function()
    except torch.OutOfMemoryError:
        if torch.distributed.is_initialized():
            raise  # the other processes wait for this one
    # Not in the clause above: there, the error still holds the tensors of the step.
    free_memory(brain)
    return None


def largest_that_fits(fits, good, bad=None, limit=256, precision=0.1):
    """Finds the largest number that fits, by doubling and then halving the gap.

    Arguments
    ---------
    fits : callable
        Whether a number fits.
    good : int
        Fits.
    bad : int, optional
        Does not. Default: not known, so that `good` is doubled.
    limit : int
        No more than this is tried. Default: 256.
    precision : float
        The gap that may stay, relative to what fits. Default: 0.1.

    Returns
    -------
    good : int
        Fits.
    bad : int or None
        The smallest found that does not; None if the limit fits.

    Example
    -------
    >>> largest_that_fits(lambda number: number <= 21, good=4)
    (21, 22)
    """
    while bad is None and good < limit:
        number = min(2 * good, limit)
        if fits(number):
            good = number
        else:
            bad = number
    while bad is not None and bad - good > max(1, precision * good):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good, bad


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
    parser.add_argument("--model", default=default_model(), help="a pretrained folder")
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
