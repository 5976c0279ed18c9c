"""Transcribes many files of mixed length: speed, how busy the GPU was, and memory over time.

    python benchmarks/files.py --files 100
    python benchmarks/files.py --model pretrained/diffusion-gemma-asr --random --device cuda \\
        --batch_size 64 --output benchmarks/results/h200_files.json
    python benchmarks/files.py --folder /data/LibriSpeech/test-clean

Of a --folder those files are taken that the model can hear at once. Without it files are made
first: noise in the rhythm of syllables, from 1 s to what the model hears, the same for the same
--seed. With --random the model has random weights and its full size; it then takes every denoising
step, and each text fills half of its canvas. A few files are transcribed before the clock starts;
graphs of further shapes are captured while it runs.

Memory is looked at in quarters of the run: what grows from the first to the last is a leak. The
share of time that the GPU was busy is that which nvidia-smi reports; on the CPU it is the share of
the threads' time in which the process computed.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import soundfile
import torch
import transformers
from common import environment
from training import mapping
from workload import load, make_settings

from speechbrain_diffasr import AudioError, shipped_model
from speechbrain_diffasr.inference import check_device

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SYLLABLES_PER_SECOND = 4.0
LOUDNESS = 0.1
# Share of the run at its beginning and end that memory is compared between.
QUARTERS = 4


def make_files(folder, number, shortest, longest, sample_rate, seed=0):
    """Writes files of noise in the rhythm of speech.

    Arguments
    ---------
    folder : Path
    number : int
    shortest, longest : float
        Seconds; lengths are spread evenly between them, in random order.
    sample_rate : int
    seed : int
        Default: 0.

    Returns
    -------
    paths : list of Path
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.linspace(shortest, longest, number)[torch.randperm(number, generator=generator)]
    paths = []
    for index, seconds in enumerate(lengths.tolist()):
        times = torch.arange(int(seconds * sample_rate)) / sample_rate
        rhythm = torch.sin(math.pi * SYLLABLES_PER_SECOND * times) ** 2
        wav = LOUDNESS * rhythm * torch.randn(len(times), generator=generator)
        paths.append(Path(folder) / f"{index:05d}.wav")
        soundfile.write(paths[-1], wav.clamp(-1, 1).numpy(), sample_rate, "PCM_16")
    return paths


def resident_bytes():
    """Memory of the process that is not swapped out; its peak where the system tells only that."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()


def gpu_busy_share(index=0):
    """Share of the last moments in which the GPU computed, as nvidia-smi reports it.

    Arguments
    ---------
    index : int
        Of the GPU. Default: 0.

    Returns
    -------
    share : float or None
        None where nvidia-smi does not tell.
    """
    command = ["nvidia-smi", f"--id={index}", "--query-gpu=utilization.gpu"]
    command += ["--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return float(told.stdout) / 100
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


class Monitor(threading.Thread):
    """Looks at memory and at how busy the GPU is, again and again.

    Arguments
    ---------
    device : str
    interval_s : float
        Seconds between two looks.

    Example
    -------
    >>> with Monitor("cpu", interval_s=0.01) as monitor:
    ...     time.sleep(0.1)
    >>> len(monitor.looks) > 1, monitor.looks[0]["resident_gb"] > 0
    (True, True)
    """

    def __init__(self, device, interval_s):
        super().__init__(daemon=True)
        self.cuda = torch.device(device).type == "cuda"
        self.index = torch.device(device).index or 0
        self.interval_s, self.looks, self.done = interval_s, [], threading.Event()

    def __enter__(self):
        self.begin, self.cpu_begin = time.perf_counter(), time.process_time()
        self.start()
        return self

    def __exit__(self, *error):
        self.done.set()
        self.join()
        self.wall_s = time.perf_counter() - self.begin
        self.cpu_s = time.process_time() - self.cpu_begin

    def run(self):
        while True:
            look = {"at_s": time.perf_counter() - self.begin}
            look["resident_gb"] = resident_bytes() / 1e9
            if self.cuda:
                look["allocated_gb"] = torch.cuda.memory_allocated() / 1e9
                look["reserved_gb"] = torch.cuda.memory_reserved() / 1e9
                look["gpu_busy"] = gpu_busy_share(self.index)
            self.looks.append(look)
            if self.done.wait(self.interval_s):
                return

    def quarters(self, name):
        """The largest value in each quarter of the run.

        Arguments
        ---------
        name : str
            Of what was looked at.

        Returns
        -------
        values : list of float
        """
        found = [[] for _ in range(QUARTERS)]
        end = self.looks[-1]["at_s"] or 1.0
        for look in self.looks:
            found[min(int(QUARTERS * look["at_s"] / end), QUARTERS - 1)].append(look[name])
        return [max(values) for values in found if values]

    def busy_share(self):
        """Share of time in which the GPU computed, or the threads did; None if it is not known."""
        if not self.cuda:
            return self.cpu_s / self.wall_s / torch.get_num_threads()
        told = [look["gpu_busy"] for look in self.looks if look["gpu_busy"] is not None]
        return sum(told) / len(told) if told else None


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
    add("--folder", help="with audio files, in folders below it too (default: files are made)")
    add("--files", type=int, default=1000, help="that are made, or read of --folder at most")
    add("--longest", type=float, help="seconds of those made (default: what the model hears)")
    add("--seed", type=int, default=0, help="of the files that are made")
    add("--batch_size", type=int, default=16, help="files that are decoded together (default: 16)")
    add("--steps", type=int, default=8, help="of denoising, at most (default: 8)")
    add("--setting", default="fused", help="as in speed.py (default: fused)")
    add("--tokens_per_second", type=float, default=6.0, help="for --setting canvas (default: 6)")
    add("--top_tokens", type=int, default=64, help="for --setting top (default: 64)")
    add("--interval", type=float, default=1.0, help="seconds between looks at memory (default: 1)")
    add("--output", help="JSON file for the figures")
    args = parser.parse_args(argv)
    try:
        check_device(args.device)
    except ValueError as error:
        parser.error(f"--device: {error}")
    settings = make_settings(args.tokens_per_second, args.top_tokens)
    if args.setting not in settings:
        parser.error(f"--setting {args.setting}: choose one of {', '.join(settings)}")
    args.setting = settings[args.setting]
    if min(args.files, args.batch_size, args.steps) < 1:
        parser.error("--files, --batch_size, --steps: at least 1")
    return parser, args


def main(argv=None):
    """Runs the command; returns what `--output` would hold."""
    parser, args = parse(argv)
    transformers.utils.logging.set_verbosity_error()
    try:
        asr = load(args.model, args.device, args.random, args.overrides, forced=args.random)
    except (OSError, ValueError) as error:
        parser.error(f"--model {args.model}: {str(error).strip()}")
    args.setting.apply(asr.mods.decoder)
    if args.folder is None:
        longest = min(args.longest or asr.max_seconds, asr.max_seconds)
        with tempfile.TemporaryDirectory() as folder:
            paths = make_files(
                folder, args.files, min(1.0, longest), longest, asr.sample_rate, args.seed
            )
            return measure(asr, paths, args)
    found = sorted(p for p in Path(args.folder).rglob("*") if p.suffix.lower() in AUDIO)
    try:
        paths = [path for path in found if soundfile.info(path).duration <= asr.max_seconds]
        if not paths:
            parser.error(f"--folder {args.folder}: no audio of at most {asr.max_seconds:g} s")
        return measure(asr, paths[: args.files], args)
    except (AudioError, soundfile.LibsndfileError) as error:
        parser.error(str(error))


def measure(asr, paths, args):
    """Transcribes files and tells how that went.

    Arguments
    ---------
    asr : DiffusionASR
    paths : list of Path
    args : argparse.Namespace

    Returns
    -------
    result : dict
    """
    begin = time.perf_counter()
    options = {"steps": args.steps, "batch_size": args.batch_size}
    asr.transcribe_files(paths[: args.batch_size], **options)
    before_s = time.perf_counter() - begin
    cuda = torch.device(args.device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with Monitor(args.device, args.interval) as monitor:
        texts = asr.transcribe_files(paths, progress=True, **options)
    audio_s = sum(soundfile.info(path).duration for path in paths)
    result = {
        "model": Path(args.model).name,
        "random": args.random,
        "overrides": args.overrides,
        "parameters": sum(p.numel() for p in asr.mods.parameters()),
        "setting": vars(args.setting),
        "steps": args.steps,
        "batch_size": args.batch_size,
        "threads": torch.get_num_threads(),
        **environment(args.device),
        "files": len(texts),
        "audio_s": audio_s,
        "before_s": before_s,
        "wall_s": monitor.wall_s,
        "rtfx": audio_s / monitor.wall_s,
        "busy_share": monitor.busy_share(),
        "resident_gb_by_quarter": monitor.quarters("resident_gb"),
    }
    if cuda:
        result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        for name in ("allocated_gb", "reserved_gb"):
            result[f"{name}_by_quarter"] = monitor.quarters(name)
    print(json.dumps(result, indent=1))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    sys.exit(0 if main()["files"] else 1)
