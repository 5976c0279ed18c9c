"""Measures the transcription of long audio: memory, speed, and what cutting it costs in words.

    python benchmarks/longform.py
    python benchmarks/longform.py --seconds 600 --output figures.json

Samples of a model are joined at random, with pauses between them and faint noise below. The
recording is transcribed as silero-vad cuts it, every stretch of speech by itself or packed into
windows, and in fixed windows that overlap; and its pieces one by one, as a reference. Each is
measured in a process of its own, beside the same on a recording of a twelfth of the length.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jiwer
import soundfile
import torch
from common import environment, print_table

from speechbrain_diffasr.audio import AudioStream, load_audio
from speechbrain_diffasr.inference import DiffusionASR, default_model
from speechbrain_diffasr.segments import join_texts, split_text

SHORT = 12  # times shorter is the recording that memory is compared with
PAUSES = (0.3, 2.5)  # s
STRETCH = 60.0  # s in which one language is spoken
NOISE = 3e-4  # standard deviation of the noise below everything
# How a recording is cut, as arguments of `DiffusionASR.stream_files`.
WAYS = {
    "pieces": None,
    "vad": {"segmentation": "vad", "max_gap": 0.0},
    "vad, packed": {"segmentation": "vad"},
    "fixed": {"segmentation": "fixed"},
}


def make_recording(path, samples, seconds, seed, sample_rate):
    """Joins samples with pauses, without ever holding all of it.

    Arguments
    ---------
    path : Path
        The WAV file to write.
    samples : list of (Path, str)
        Audio files and their texts. What begins alike, up to a "_", is of one language.
    seconds : float
        Length at least.
    seed : int
    sample_rate : int

    Returns
    -------
    pieces : list of (int, int, str)
        First sample of each, the one behind its last, and its text.
    """
    chance, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    wavs = [
        (load_audio(file, sample_rate), text, file.stem.split("_")[0]) for file, text in samples
    ]
    pieces, place = [], 0
    with soundfile.SoundFile(path, "w", sample_rate, 1) as file:

        def write(wav):
            faint = NOISE * torch.randn(len(wav), generator=noise)
            file.write((wav + faint).clamp(-1, 1).numpy())
            return len(wav)

        while place < seconds * sample_rate:
            place += write(torch.zeros(round(chance.uniform(*PAUSES) * sample_rate)))
            # As people do, the recording stays with one language for a while.
            groups = sorted({name for *_, name in wavs})
            name = groups[int(place / sample_rate / STRETCH) % len(groups)]
            wav, text, _ = chance.choice([one for one in wavs if one[2] == name])
            pieces.append((place, place + len(wav), text))
            place += write(wav)
        write(torch.zeros(sample_rate))
    return pieces


def transcribe(model, path, way, spans, device, batch_size):
    """Transcribes a recording; run in a process of its own.

    Arguments
    ---------
    model : str
    path : str
    way : str
        A key of `WAYS`.
    spans : list of (int, int)
        Samples of the pieces.
    device : str
    batch_size : int

    Returns
    -------
    figures : dict
        text, seconds that it took, and peak_mb of memory.
    """
    asr = DiffusionASR.from_hparams(model, run_opts={"device": device})
    # The first call makes buffers that later ones find.
    asr.transcribe([torch.zeros(asr.sample_rate)])
    begin = time.perf_counter()
    if way == "pieces":
        wavs = AudioStream(path, asr.sample_rate).pieces(spans)
        texts, group = [], []
        for number, wav in enumerate(wavs, start=1):
            group.append(wav)
            if len(group) == batch_size or number == len(spans):
                texts += [one.text for one in asr.transcribe(group)]
                group = []
        text = join_texts(texts)
    else:
        ((_, result),) = asr.stream_files([path], batch_size=batch_size, **WAYS[way])
        if isinstance(result, Exception):
            raise result
        text = result.text
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return {"text": text, "seconds": seconds, "peak_mb": peak}


def in_process(*arguments):
    """Calls `transcribe` in a new process."""
    given = json.dumps(arguments)
    process = subprocess.run(
        [sys.executable, __file__, "--call"], input=given, capture_output=True, text=True
    )
    if process.returncode:
        raise RuntimeError(process.stderr.strip().splitlines()[-1])
    return json.loads(process.stdout.splitlines()[-1])


def error_rate(reference, hypothesis):
    """Word errors in percent; in scripts without spaces characters count as words."""

    def words(text):
        return " ".join(text[start:end] for start, end in split_text(text))

    return 100 * jiwer.wer(words(reference), words(hypothesis))


def parse(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=default_model(), help="a pretrained folder")
    parser.add_argument("--samples", help="folder of audio with texts beside it [of the model]")
    parser.add_argument("--seconds", type=float, default=3600.0, help="(default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="JSON file for the figures")
    return parser, parser.parse_args(argv)


def main(argv=None):
    parser, args = parse(argv)
    folder = Path(args.samples or Path(args.model) / "samples")
    samples = [
        (file, file.with_suffix(".txt").read_text(encoding="utf-8").strip())
        for file in sorted(folder.glob("*.wav"))
        if file.with_suffix(".txt").is_file()
    ]
    if not samples:
        parser.error(f"{folder}: no WAV files with texts beside them")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        recordings = []
        for number, seconds in enumerate((args.seconds, args.seconds / SHORT)):
            path = Path(temporary) / f"{number}.wav"
            pieces = make_recording(path, samples, seconds, args.seed, 16000)
            recordings.append((str(path), pieces, soundfile.info(path).duration))
        for way in args.ways:
            found = []
            for path, pieces, _ in recordings:
                spans = [piece[:2] for piece in pieces]
                found.append(in_process(args.model, path, way, spans, args.device, args.batch_size))
            (_, pieces, duration), long = recordings[0], found[0]
            row = {
                "cut": way,
                "wer": round(error_rate(join_texts(p[2] for p in pieces), long["text"]), 2),
                "rtfx": round(duration / long["seconds"], 1),
                "peak_mb": round(long["peak_mb"]),
                "peak_mb_of_short": round(found[1]["peak_mb"]),
            }
            rows.append(row)
            print_table([row])
    result = {
        "model": Path(args.model).name,
        "seconds": [round(duration, 1) for *_, duration in recordings],
        "pieces": len(recordings[0][1]),
        "seed": args.seed,
        "batch_size": args.batch_size,
        **environment(args.device),
        "results": rows,
    }
    print_table(rows)
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    if sys.argv[1:] == ["--call"]:
        print(json.dumps(transcribe(*json.load(sys.stdin))))
    else:
        main()
