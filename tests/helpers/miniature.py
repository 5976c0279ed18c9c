"""Corpora of a few utterances, laid out as the real ones are distributed.

An utterance is (wav, text, lang); wav is a path, or a tensor [T] at 16 kHz.
"""

import csv
import importlib.util
import io
import os
import sys
import tarfile
from pathlib import Path

import soundfile
import torch

from speechbrain_diffasr.dataio import load_audio

REPOSITORY = Path(__file__).parents[2]
SAMPLES = REPOSITORY / "pretrained" / "diffasr-tiny" / "samples"
RATE = 16000
FLEURS_CODES = {
    "en": "en_us", "de": "de_de", "fr": "fr_fr", "es": "es_419", "hi": "hi_in", "zh": "cmn_hans_cn"
}  # fmt: skip


def load_recipe(name, file="prepare.py"):
    """Imports a script of a recipe, under a name of its own."""
    path = REPOSITORY / "recipes" / name / file
    module_name = f"recipe_{name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    # Worker processes look functions up by the name of their module.
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def sample_utterances(*langs):
    """Real utterances of some languages: the samples that come with diffasr-tiny."""
    return [
        (path, path.with_suffix(".txt").read_text(encoding="utf-8").strip(), lang)
        for lang in langs
        for path in sorted(SAMPLES.glob(f"{lang}_*.wav"))
    ]


def noise(seconds, seed=0):
    """A waveform [T] where only its length matters."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(round(seconds * RATE), generator=generator).clamp(-5, 5)


def rows_of(folder, split):
    """The rows of a CSV file as dictionaries."""
    with open(Path(folder) / f"{split}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def skipped_of(folder, split):
    """{ID: reason} of the clips that were left out."""
    path = Path(folder) / f"{split}.skipped.tsv"
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[2] for line in lines}


def times_of(folder):
    """{path: time of its last change} of all files."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def write_audio(path, wav, container, subtype="PCM_16"):
    """Writes an utterance's audio, 16 kHz mono, to a path or a binary file."""
    samples = load_audio(wav) if isinstance(wav, str | os.PathLike) else wav  # [T]
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.numpy(), RATE, subtype, format=container)


def make_librispeech(folder, utterances, splits=("train-clean-100", "dev-clean", "test-clean")):
    """SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac and .trans.txt, text in upper case.

    Every split holds all utterances, by a speaker of its own.
    """
    for number, split in enumerate(splits):
        speaker, chapter = str(84 + number), str(121123 + number)
        place = Path(folder) / split / speaker / chapter
        lines = []
        for index, (wav, text, _) in enumerate(utterances):
            clip_id = f"{speaker}-{chapter}-{index:04d}"
            write_audio(place / f"{clip_id}.flac", wav, "FLAC")
            lines.append(f"{clip_id} {text.upper()}\n")
        (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines), encoding="utf-8")
    return Path(folder)


def make_fleurs(folder, utterances, packed=True):
    """data/CODE/{train,dev,test}.tsv and audio/{train,dev,test}.tar.gz, or unpacked folders.

    Every split holds all utterances of a language; raw_transcription ends with a full stop.
    """
    for lang in sorted({lang for _, _, lang in utterances}):
        code = FLEURS_CODES[lang]
        place = Path(folder) / "data" / code
        (place / "audio").mkdir(parents=True)
        chosen = [(wav, text) for wav, text, other in utterances if other == lang]
        for split_number, split in enumerate(("train", "dev", "test")):
            lines, files = [], {}
            for index, (wav, text) in enumerate(chosen):
                name = f"{10004088536354799741 + 1000 * split_number + index}.wav"
                content = io.BytesIO()
                write_audio(content, wav, "WAV", subtype="FLOAT")
                files[name] = content.getvalue()
                num_samples = soundfile.info(io.BytesIO(files[name])).frames
                letters = " ".join(text.replace(" ", "|")) + " |"
                row = (903 + index, name, f"{text.capitalize()}.", text, letters, num_samples)
                lines.append("\t".join(map(str, (*row, "FEMALE"))) + "\n")
            (place / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
            if packed:
                with tarfile.open(place / "audio" / f"{split}.tar.gz", "w:gz") as tar:
                    for name, content in files.items():
                        member = tarfile.TarInfo(f"{split}/{name}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
            else:
                (place / "audio" / split).mkdir()
                for name, content in files.items():
                    (place / "audio" / split / name).write_bytes(content)
    return Path(folder)


def make_csv(folder, utterances):
    """train.csv, valid.csv and test.csv with ID, wav, lang and wrd, and wavs/*.wav.

    Every split holds all utterances; the paths of its wavs start at the folder.
    """
    folder = Path(folder)
    rows = []
    for index, (wav, text, lang) in enumerate(utterances):
        write_audio(folder / "wavs" / f"{lang}_{index}.wav", wav, "WAV")
        rows.append((f"{lang}_{index}", f"wavs/{lang}_{index}.wav", lang, text))
    for split in ("train", "valid", "test"):
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("ID", "wav", "lang", "wrd"))
            writer.writerows(rows)
    return folder
