"""Measures the transcription of long audio: memory, speed, and what cutting it costs in words.

    python benchmarks/longform.py
    python benchmarks/longform.py --csv test.csv --seconds 300 900 1800 3600 --output figures.json
    python benchmarks/longform.py --csv test.csv --seconds 600 --seeds 0 1 2 --ways vad fixed
    python benchmarks/longform.py --csv test.csv --language de --seconds 180

Utterances are joined at random, with pauses between them and faint noise below: the samples of a
model, or those of CSV files with the columns ID, wav, wrd and lang. Samples that were chosen
because the model gets them right can only be heard worse when they are joined, so take a test set.

As a reference, the pieces of the recording are transcribed one by one, each cut out where it lies.
What they are compared with:

- vad: as silero-vad cuts it, every stretch of speech by itself;
- packed: as silero-vad cuts it, neighbours in one window as far as they fit;
- fixed: in windows that overlap, and whose texts are joined at their seams;
- known: cut in the pauses that are known, every utterance by itself with a margin;
- known_packed: the same, in one window as many as fit.

WER is against what is said. Seam errors are the word errors against the text of the pieces: what
the way of cutting changes. Those of known are what a margin changes, without any wrong cut: where a
model is not sure, it hears something else whenever a little is changed. Each way is measured in a
process of its own, at every length in --seconds; words are those of the longest. Memory is the peak
of the process.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jiwer
import soundfile
import torch
from common import environment, print_table

from speechbrain_diffasr import AudioError, DiffusionASR, shipped_model
from speechbrain_diffasr.dataio import AudioStream, load_audio, read_rows
from speechbrain_diffasr.evaluation.selection import usable_rows
from speechbrain_diffasr.segmentation.windows import MAX_GAP
from speechbrain_diffasr.text.spacing import join_texts, split_text
from speechbrain_diffasr.text.spelling import normalize_text
from speechbrain_diffasr.utils.errors import CsvError

SAMPLE_RATE = 16000  # of the recordings, in Hz
PAUSES = (0.3, 2.5)  # s
STRETCH = 60.0  # s in which one language is spoken
NOISE = 3e-4  # standard deviation of the noise below everything
REFERENCE = "pieces"
# How a recording is cut, as arguments of `DiffusionASR.stream_files`.
WAYS = {
    "vad": {"segmentation": "vad", "max_gap": 0.0},
    "packed": {"segmentation": "vad", "max_gap": MAX_GAP},
    "fixed": {"segmentation": "fixed"},
    "known": {"max_gap": 0.0},
    "known_packed": {"max_gap": 2 * PAUSES[1]},
}
KINDS = ("substitutions", "deletions", "insertions")


def find_samples(folder):
    """Audio files with texts beside them.

    Arguments
    ---------
    folder : Path

    Returns
    -------
    samples : list of (Path, str, str)
        Audio file, text, and language: what its name begins with, up to a "_".
    """
    return [
        (
            file,
            file.with_suffix(".txt").read_text(encoding="utf-8").strip(),
            file.stem.split("_")[0],
        )
        for file in sorted(folder.glob("*.wav"))
        if file.with_suffix(".txt").is_file()
    ]


def read_samples(csvs, data_root=None):
    """Utterances of CSV files.

    Arguments
    ---------
    csvs : list of str
        With the columns ID, wav and wrd, and lang if there are several languages.
    data_root : str, optional
        What ``$data_root`` stands for. Default: the folder of each file.

    Returns
    -------
    samples : list of (Path, str, str)
        As from `find_samples`, with texts as models write them.

    Raises
    ------
    CsvError
        If one cannot be read.
    """
    rows = [row for path in csvs for row in usable_rows(read_rows(path, data_root))[0]]
    spoken = [(Path(row["wav"]), row["wrd"], row.get("lang") or "") for row in rows]
    return [(path, normalize_text(text, lang), lang) for path, text, lang in spoken]


def make_recording(path, samples, seconds, seed, sample_rate=SAMPLE_RATE):
    """Joins samples with pauses, without ever holding all of it.

    Arguments
    ---------
    path : Path
        The WAV file to write.
    samples : list of (Path, str, str)
        Audio files, their texts and languages. None comes twice before all of its language came.
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
    languages = sorted({language for *_, language in samples})
    decks = {language: [] for language in languages}
    pieces, place = [], 0
    with soundfile.SoundFile(path, "w", sample_rate, 1) as file:

        def write(wav):
            faint = NOISE * torch.randn(len(wav), generator=noise)
            file.write((wav + faint).clamp(-1, 1).numpy())
            return len(wav)

        while place < seconds * sample_rate:
            place += write(torch.zeros(round(chance.uniform(*PAUSES) * sample_rate)))
            # As people do, the recording stays with one language for a while.
            language = languages[int(place / sample_rate / STRETCH) % len(languages)]
            if not decks[language]:
                decks[language] = [one for one in samples if one[2] == language]
                chance.shuffle(decks[language])
            sample, text, _ = decks[language].pop()
            wav = load_audio(sample, sample_rate)
            pieces.append((place, place + len(wav), text))
            place += write(wav)
        write(torch.zeros(sample_rate))
    return pieces


def transcribe(model, path, way, spans, device, batch_size, language=None):
    """Transcribes a recording; run in a process of its own.

    Arguments
    ---------
    model : str
    path : str
    way : str
        A key of `WAYS`, or `REFERENCE`.
    spans : list of (int, int)
        Samples of the pieces.
    device : str
    batch_size : int
    language : str, optional
        That the model is told. Default: none.

    Returns
    -------
    figures : dict
        text, seconds that it took, and peak_mb of memory.

    Raises
    ------
    ValueError
        If a piece is longer than the model hears at once.
    """
    asr = DiffusionASR.from_hparams(model, run_opts={"device": device})
    # The first call makes buffers that later ones find.
    asr.transcribe([0.1 * torch.rand(asr.sample_rate)])
    begin = time.perf_counter()
    if way == REFERENCE:
        longest = max(behind - first for first, behind in spans) / asr.sample_rate
        if longest > asr.max_seconds:
            raise ValueError(
                f"an utterance of {longest:.2f} s, but this model hears {asr.max_seconds:g} s at "
                f"once; leave such out with --longest {asr.max_seconds:g}"
            )
        texts, group = [], []
        wavs = AudioStream(path, asr.sample_rate).pieces(spans)
        for number, wav in enumerate(wavs, start=1):
            group.append(wav)
            if len(group) == batch_size or number == len(spans):
                texts += [one.text for one in asr.transcribe(group, language)]
                group = []
        text = join_texts(texts)
    else:
        options = {**WAYS[way], "language": language}
        if way.startswith("known"):
            times = [[sample / asr.sample_rate for sample in span] for span in spans]
            options["boundaries"] = [times]
        ((_, result),) = asr.stream_files([path], batch_size=batch_size, **options)
        if isinstance(result, Exception):
            raise result
        text = result.text
    seconds = time.perf_counter() - begin
    return {"text": text, "seconds": seconds, "peak_mb": peak_memory() / 1e6}


def peak_memory():
    """Bytes that this process had in memory when it had most, on Linux."""
    # `resource.getrusage` would count what the parent had when it started this process.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def in_process(*arguments):
    """Calls `transcribe` in a new process."""
    given = json.dumps(arguments)
    process = subprocess.run(
        [sys.executable, __file__, "--call"], input=given, capture_output=True, text=True
    )
    if process.returncode:
        raise RuntimeError(process.stderr.strip().splitlines()[-1])
    return json.loads(process.stdout.splitlines()[-1])


def count_errors(reference, hypothesis):
    """Word errors; in scripts without spaces characters count as words.

    Arguments
    ---------
    reference, hypothesis : str

    Returns
    -------
    errors : dict of int
        substitutions, deletions, insertions, and words of the reference.
    """

    def words(text):
        return " ".join(text[start:end] for start, end in split_text(text))

    found = jiwer.process_words(words(reference), words(hypothesis))
    errors = {kind: getattr(found, kind) for kind in KINDS}
    return {**errors, "words": found.hits + found.substitutions + found.deletions}


def error_rate(counts):
    """Percent of words that are wrong.

    Arguments
    ---------
    counts : list of dict
        From `count_errors`; of several recordings errors and words are added up.

    Returns
    -------
    rate : float
    """
    wrong = sum(one[kind] for one in counts for kind in KINDS)
    return 100 * wrong / max(1, sum(one["words"] for one in counts))


def measure(args, samples, folder):
    """Makes the recordings and transcribes them in all ways.

    Arguments
    ---------
    args : argparse.Namespace
    samples : list of (Path, str, str)
    folder : Path
        For the recordings, one at a time for each length.

    Yields
    ------
    row : dict
        Figures of one way, the reference first.
    """
    lengths = sorted(set(args.seconds))
    recordings = {}
    for seed in args.seeds:
        # Memory does not depend on what is said, so that one recording of each length will do.
        for seconds in lengths if seed == args.seeds[0] else lengths[-1:]:
            path = folder / f"{seed}_{seconds:g}.wav"
            pieces = make_recording(path, samples, seconds, seed)
            recordings[seed, seconds] = path, pieces, soundfile.info(path).duration
    alone = {}
    for way in [REFERENCE, *args.ways]:
        errors, seams, peaks, speeds = [], [], {}, []
        for (seed, seconds), (path, pieces, duration) in recordings.items():
            spans = [piece[:2] for piece in pieces]
            found = in_process(
                args.model, str(path), way, spans, args.device, args.batch_size, args.language
            )
            if seed == args.seeds[0]:
                peaks[f"{seconds:g}"] = found["peak_mb"]
            if seconds == lengths[-1]:
                alone.setdefault(seed, found["text"])
                errors.append(count_errors(join_texts(p[2] for p in pieces), found["text"]))
                seams.append(count_errors(alone[seed], found["text"]))
                speeds.append(duration / found["seconds"])
        growth = (peaks[f"{lengths[-1]:g}"] - peaks[f"{lengths[0]:g}"]) * 1e3
        yield {
            "cut": way,
            "wer": error_rate(errors),
            "seam_errors": error_rate(seams),
            "rtfx": sum(speeds) / len(speeds),
            "peak_mb": peaks,
            # From the shortest recording to the longest.
            "kb_per_minute": 60 * growth / max(1.0, lengths[-1] - lengths[0]),
            "errors": errors,
            "differences": seams,
        }


def shown(row):
    """A row for the table: what is a list of counts is for the JSON file."""
    cells = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
    return {**cells, **{f"peak MB of {key} s": round(mb) for key, mb in row["peak_mb"].items()}}


def parse(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default=shipped_model("diffasr-tiny"), help="a pretrained folder"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--samples", help="folder of audio with texts beside it [of the model]")
    source.add_argument("--csv", nargs="+", help="CSV files of utterances")
    parser.add_argument("--data_root", help="what $data_root is in them [the folder of each]")
    parser.add_argument("--language", help="takes this one's utterances, and names it to the model")
    parser.add_argument("--longest", type=float, help="s; utterances that last longer are left out")
    parser.add_argument(
        "--seconds",
        type=float,
        nargs="+",
        default=[300.0, 3600.0],
        help="lengths of recordings (default: 300 3600)",
    )
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batch_size", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="a recording each (default: 0)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="JSON file for the figures")
    return parser, parser.parse_args(argv)


def main(argv=None):
    parser, args = parse(argv)
    folder = Path(args.samples or Path(args.model) / "samples")
    try:
        samples = read_samples(args.csv, args.data_root) if args.csv else find_samples(folder)
        if args.language is not None:
            samples = [one for one in samples if one[2] == args.language]
        if args.longest is not None:
            samples = [one for one in samples if soundfile.info(one[0]).duration <= args.longest]
    except (CsvError, soundfile.LibsndfileError) as err:
        parser.error(str(err))
    if not samples:
        nothing = (
            "no utterances that can be used" if args.csv else "no WAV files with texts beside them"
        )
        parser.error(f"{', '.join(args.csv or [str(folder)])}: {nothing}")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        try:
            for row in measure(args, samples, Path(temporary)):
                rows.append(row)
                print_table([shown(row)])
        except (AudioError, RuntimeError) as err:
            parser.error(str(err))
    result = {
        "model": Path(args.model).name,
        "language": args.language,
        "samples": len(samples),
        "seconds": sorted(set(args.seconds)),
        "seeds": args.seeds,
        "batch_size": args.batch_size,
        "threads": torch.get_num_threads(),
        **environment(args.device),
        "results": rows,
    }
    print_table([shown(row) for row in rows])
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    if sys.argv[1:] == ["--call"]:
        print(json.dumps(transcribe(*json.load(sys.stdin))))
    else:
        main()
