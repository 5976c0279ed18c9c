"""Seconds that one clip takes on the CPU, model beside model in one run.

    python benchmarks/clip.py clip.wav --models pretrained/diffasr-tiny FOLDER
    python benchmarks/clip.py clip.wav --faster_whisper FOLDER      # pip install faster-whisper

Each model reads the clip once to warm up, then they take turns, so that a busy machine is busy for
all. A clip that is longer than a model's window is cut as `diffasr transcribe` cuts it.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import soundfile
import torch

from speechbrain_diffasr import DiffusionASR, default_model
from speechbrain_diffasr.utils.environment import hardware, versions


def load_ours(folder, language, steps, overrides):
    """What transcribes a file with a pretrained folder.

    Arguments
    ---------
    folder : str
    language : str
    steps : int
    overrides : str
        Of its YAML.

    Returns
    -------
    transcribe : callable
        Takes a path, returns a text.
    """
    asr = DiffusionASR.from_hparams(folder, overrides=overrides)
    return partial(asr.transcribe_file, language=language, steps=steps)


def load_faster_whisper(folder, language, threads):
    """The same with faster-whisper, int8 and greedy."""
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads)

    def transcribe(path):
        segments, _ = model.transcribe(path, language=language, beam_size=1)
        return "".join(segment.text for segment in segments).strip()

    return transcribe


def take_turns(models, path, runs):
    """Seconds of each run of each model, and what it heard.

    Arguments
    ---------
    models : dict
        Callables that take a path, by name.
    path : str
    runs : int

    Returns
    -------
    seconds : dict of list of float
    texts : dict of str
    """
    texts = {name: transcribe(path) for name, transcribe in models.items()}
    seconds = {name: [] for name in models}
    for _ in range(runs):
        for name, transcribe in models.items():
            begin = time.perf_counter()
            transcribe(path)
            seconds[name].append(time.perf_counter() - begin)
    return seconds, texts


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("clip", help="a recording, such as of 10 s")
    add("--models", nargs="*", default=[default_model()], help="pretrained folders")
    add("--faster_whisper", metavar="FOLDER", help="a CTranslate2 Whisper to set beside them")
    add("--language", default="en", help="default: %(default)s")
    add("--steps", type=int, default=8, help="denoising steps (default: %(default)s)")
    add("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    add("--runs", type=int, default=5, help="of each; the median counts (default: %(default)s)")
    add("--overrides", default="", help="of every model's YAML")
    add("--output", help="JSON of all times and texts")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    models = {
        Path(folder).name: load_ours(folder, args.language, args.steps, args.overrides)
        for folder in args.models
    }
    if args.faster_whisper:
        name = f"faster-whisper {Path(args.faster_whisper).name}"
        models[name] = load_faster_whisper(args.faster_whisper, args.language, args.threads)
    seconds, texts = take_turns(models, args.clip, args.runs)
    duration = soundfile.info(args.clip).duration
    print(f"{duration:.1f} s, {hardware(torch.device('cpu'))}")
    print("| model | median, s | fastest | slowest | × real time | heard |")
    print("|---|---|---|---|---|---|")
    for name, times in seconds.items():
        median = statistics.median(times)
        row = [name, f"{median:.2f}", f"{min(times):.2f}", f"{max(times):.2f}"]
        print(f"| {' | '.join([*row, f'{duration / median:.1f}', texts[name]])} |")
    if args.output:
        report = {"settings": vars(args), "versions": versions(), "seconds": seconds}
        text = json.dumps({**report, "texts": texts}, indent=1, ensure_ascii=False) + "\n"
        Path(args.output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
