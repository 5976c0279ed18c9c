"""Measures how fast speech is decoded, beside what else could be run and what the machine allows.

    python benchmarks/speed.py
    python benchmarks/speed.py --model pretrained/diffusion-gemma-asr --random --device cuda \\
        --output benchmarks/results/h200.json
    python benchmarks/speed.py --sections stages stock --seconds 5 --largest_batch 4

Without arguments the small model that comes with the code is measured on the CPU, in some minutes.
With --random the model is built from its full-size configuration with random weights, and nothing
is downloaded: the speed does not depend on their values. Every denoising step is taken, and
transcripts are cut to as many tokens as would be spoken, since random weights end none.

Sections, each with a table of its name:

    warm_up      seconds until kernels and graphs are ready, at first and again
    agreement    tokens that stay the same when fused, after one step from the same noise
    routers      how evenly random routers hit the experts
    stages       each stage from waveform to text, batches from 1 to the largest that fits
    stock        `generate` of transformers as it is (it takes no audio: tokens stand in for it)
    settings     what each shortening of the work brings, alone and together
    step_times   one denoising step by batch and canvas
    steps_line   cost against denoising steps, and the line through it (steps_fit)
    whisper      the autoregressive decoder of a Whisper as large as the encoder here
    lengths      cost against the length of the transcript, beside Whisper's
    kernels      launches and kernels of a step, by kind

Settings are `plain` (the modules of transformers), `fused`, and fused with `canvas` (as long as
the duration calls for), `slots` (for the audio only), `top` (self-conditioning from the most
probable tokens), `fp8` (experts), or several of them. Transcripts of the first two are the same;
with the others those of a model that was not trained so may differ.

Floors are counted from the configuration: weights and caches read once, products computed once, at
the speed of a copy and of a matrix product that is measured first. Times are medians, in
milliseconds, of a whole batch; RTFx is seconds of audio per second of computing. The first of
--seconds and --steps are those that are quoted and compared.

A section ends early when its share of --minutes is used up, and a sweep when the memory is full.
What was measured is written row by row, so that a run that is killed loses little.
"""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

import floors
import rivals
import speed_checks
import speed_report
import speed_sections
import torch
import transformers
from common import environment
from training import mapping
from workload import Timer, free_memory, is_out_of_memory, load, make_settings

from speechbrain_diffasr import shipped_model
from speechbrain_diffasr.inference import check_device

# What a section does, and the share of the time that it may take.
SECTIONS = {
    "warm_up": (speed_sections.warm_up, 0.08),
    "agreement": (speed_checks.agreement, 0.04),
    "routers": (speed_checks.routers, 0.01),
    "stages": (speed_sections.stages, 0.27),
    "stock": (rivals.stock, 0.08),
    "settings": (speed_sections.settings, 0.18),
    "few_steps": (speed_sections.few_steps, 0.1),
    "step_times": (speed_sections.step_times, 0.14),
    "steps_line": (speed_sections.steps_line, 0.05),
    "whisper": (rivals.whisper, 0.03),
    "lengths": (speed_sections.lengths, 0.04),
    "kernels": (speed_checks.kernels, 0.08),
}
LARGEST_BATCH = {"cpu": 4, "cuda": 256}


class Bench:
    """A run: what is measured, how, and what was found.

    Arguments
    ---------
    asr : DiffusionASR
    args : argparse.Namespace
    result : dict
        What is known before; sections add tables.
    """

    def __init__(self, asr, args, result):
        self.asr, self.searcher = asr, asr.mods.decoder
        self.seconds, self.steps = result["seconds"], result["steps"]
        self.largest_batch = args.largest_batch
        self.canvases, self.step_batches = args.canvases, args.step_batches
        self.line_steps = args.line_steps
        self.settings = make_settings(args.tokens_per_second, args.top_tokens)
        self.setting = self.settings[args.setting]
        self.timer = Timer(args.device, args.repeats)
        self.text_config = self.searcher.model.core.config.get_text_config()
        self.machine = floors.Machine(**result["machine"])
        self.result, self.output = result, args.output
        self.end = time.perf_counter()

    def add(self, table, row):
        """Adds a row to a table, shows it, and writes all that there is so far."""
        self.result.setdefault(table, []).append(row)
        print(f"{table}: {json.dumps(rounded(row))}", flush=True)
        self.save()

    def note(self, text):
        """Keeps and shows what a reader of the figures should know."""
        self.result["notes"].append(text)
        print(text, flush=True)

    def late(self, what):
        """Whether the section's time is used up; what is left out is noted."""
        if time.perf_counter() < self.end:
            return False
        self.note(f"{what}: left out, no time")
        return True

    def attempt(self, function):
        """What a function returns, or None if the memory does not suffice."""
        free_memory(self.asr)
        try:
            return function()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Not in the clause above: there, the error still holds tensors.
        free_memory(self.asr)
        return None

    def model_work(self, setting):
        """What the counts of a setting's floors start from."""
        size = self.searcher.model.core.dtype.itemsize
        expert_size = 1 if setting.fp8_experts else size
        return {"config": self.text_config, "size": size, "expert_size": expert_size}

    def save(self):
        """Brings the figures that are looked for first up to date, and writes all."""
        self.result |= speed_report.summarize(self.result)
        if self.output:
            speed_report.write(self.result, self.output)

    def run(self, name, section, allowed_s):
        """Runs a section; what goes wrong in it ends only the section.

        Arguments
        ---------
        name : str
        section : callable
        allowed_s : float
            Seconds after which nothing new is begun.
        """
        begin = time.perf_counter()
        self.end = begin + allowed_s
        print(f"\n{name}: at most {allowed_s:.0f} s", flush=True)
        try:
            section(self)
        except Exception as error:
            traceback.print_exc()
            self.result["errors"][name] = f"{type(error).__name__}: {error}"
        free_memory(self.asr)
        took = time.perf_counter() - begin
        self.result["section_s"][name] = took
        self.save()
        print(f"{name}: took {took:.1f} s of {allowed_s:.0f} s", flush=True)


def rounded(value):
    """A row without digits that nobody reads."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=shipped_model("diffasr-tiny"), help="a pretrained folder")
    add("--random", action="store_true", help="full size, random weights")
    add(
        "--overrides",
        type=mapping,
        default={},
        metavar="YAML",
        help="changes to its hyperparams.yaml: '{base_config: {num_hidden_layers: 2}}'",
    )
    add("--device", default="cpu", help="cpu or cuda")
    add("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    add(
        "--compiled_stock",
        action="store_true",
        help="at the end `generate` compiled too, outside of --minutes: 3 minutes at full size",
    )
    add("--setting", default="canvas", help="of all sections but settings (default: canvas)")
    add(
        "--seconds",
        type=float,
        nargs="+",
        default=[10.0, 5.0, 30.0],
        help="of audio (default: 10 5 30; those that the model cannot hear are left out)",
    )
    add("--steps", type=int, nargs="+", default=[8, 16], help="of denoising, two (default: 8 16)")
    add(
        "--largest_batch",
        type=int,
        help="that is tried (default: 256, on the CPU 4); batches start from 1 and double",
    )
    add("--step_batches", type=int, nargs="+", help="(default: 1 4 16 64, up to --largest_batch)")
    add(
        "--canvases",
        type=int,
        nargs="+",
        default=[32, 48, 64, 128, 192],
        help="tokens, for step_times (default: 32 48 64 128 192)",
    )
    add(
        "--line_steps",
        type=int,
        nargs="+",
        default=[4, 8, 16, 32, 48],
        help="for steps_line (default: 4 8 16 32 48)",
    )
    add(
        "--tokens_per_second",
        type=float,
        default=6.0,
        help="that a canvas by duration has room for (default: 6)",
    )
    add("--top_tokens", type=int, default=64, help="for the setting top (default: 64)")
    add("--repeats", type=int, default=5, help="calls of which the median is taken (default: 5)")
    add("--minutes", type=float, default=8.0, help="for all sections together (default: 8)")
    add("--output", help="JSON file for the figures; the picture lies beside it as PNG")
    args = parser.parse_args(argv)
    try:
        check_device(args.device)
    except ValueError as error:
        parser.error(f"--device: {error}")
    names = list(make_settings(1.0, 1))
    if args.setting not in names:
        parser.error(f"--setting {args.setting}: choose one of {', '.join(names)}")
    if len(set(args.steps)) < 2 or min(*args.steps, *args.line_steps) < 1:
        parser.error("--steps: give two numbers or more; a step's time is told from the difference")
    if len(set(args.line_steps)) < 2:
        parser.error("--line_steps: a line needs two numbers")
    if args.largest_batch is None:
        args.largest_batch = LARGEST_BATCH[torch.device(args.device).type]
    args.step_batches = args.step_batches or [
        size for size in (1, 4, 16, 64) if size <= args.largest_batch
    ]
    if min(args.repeats, args.largest_batch, *args.step_batches, *args.canvases) < 1:
        parser.error("--repeats, --largest_batch, --step_batches, --canvases: at least 1")
    return parser, args


def main(argv=None):
    """Runs the command; returns what `--output` would hold."""
    parser, args = parse(argv)
    transformers.utils.logging.set_verbosity_error()
    begin = time.perf_counter()
    try:
        asr = load(args.model, args.device, args.random, args.overrides)
    except (OSError, ValueError) as error:
        parser.error(f"--model {args.model}: {str(error).strip()}")
    seconds = [length for length in args.seconds if 0 < length <= asr.max_seconds]
    if not seconds:
        parser.error(f"--seconds: this model hears {asr.max_seconds:g} s")
    dtype = asr.mods.decoder.model.core.dtype
    machine = floors.measure_machine(args.device, dtype)
    result = {
        "model": Path(args.model).name,
        "random": args.random,
        "overrides": args.overrides,
        "parameters": sum(p.numel() for p in asr.mods.parameters()),
        "precision": str(dtype).removeprefix("torch."),
        "setting": args.setting,
        "seconds": seconds,
        "steps": args.steps,
        "repeats": args.repeats,
        "tokens_per_second": args.tokens_per_second,
        "top_tokens": args.top_tokens,
        "threads": torch.get_num_threads(),
        **environment(args.device),
        "machine": vars(machine),
        "building_s": time.perf_counter() - begin,
        "notes": [],
        "errors": {},
        "section_s": {},
    }
    print(json.dumps(rounded(result)), flush=True)
    bench = Bench(asr, args, result)
    sections = {name: SECTIONS[name] for name in SECTIONS if name in args.sections}
    shares = sum(share for _, share in sections.values())
    for name, (section, share) in sections.items():
        bench.run(name, section, 60 * args.minutes * share / shares)
    if args.compiled_stock:
        bench.run("compiled_stock", rivals.compiled_stock, 60 * args.minutes)
    report(result, args.output)
    return result


def report(result, output):
    """Prints all tables, and draws the picture."""
    for name in [*SECTIONS, "steps_fit"]:
        if result.get(name):
            speed_report.print_rows(name, result[name])
        if name == "stages" and result.get(name):
            table = speed_report.floors_table(result[name], result["steps"][0])
            speed_report.print_rows("stages: measured (floor), ms", table)
    if output and result.get("steps_fit") and result.get("lengths"):
        speed_report.draw(result, Path(output).with_suffix(".png"))
    summary = rounded(speed_report.summarize(result))
    print("\n" + "\n".join(f"{name}: {value}" for name, value in summary.items()))
    for name, error in result["errors"].items():
        print(f"{name} failed: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(1 if main()["errors"] else 0)
