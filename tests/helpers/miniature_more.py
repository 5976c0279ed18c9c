"""Miniatures of VoxPopuli and Common Voice, as the ones in miniature.py.

Every split holds all utterances (wav, text, lang).
"""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import soundfile
import torchaudio

from speechbrain_diffasr.dataio import load_audio

RATE = 16000
COMMONVOICE_RATE = 32000
SPLITS = ("train", "dev", "test")
GAP = 0.5  # seconds of noise between two stretches of a recording of VoxPopuli
LOCALES = {"zh": "zh-CN"}  # Common Voice's codes, where they are others
ANNOTATION = (
    "session_id", "id_", "paragraph_id", "original_text", "normed_text", "speaker_id",
    "start_time", "end_time", "vad", "split", "gender",
)  # fmt: skip
MANIFEST = (
    "id", "raw_text", "normalized_text", "speaker_id", "split", "gender", "is_gold_transcript",
    "accent",
)  # fmt: skip
CLIPS = (
    "client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes",
    "age", "gender", "accents", "variant", "locale", "segment",
)  # fmt: skip


def make_voxpopuli(folder, utterances, cut=False):
    """raw_audios and the annotation in transcribed_data, or if cut transcribed_data alone.

    There is one session for each language. In its recording each utterance is two stretches, with
    noise before, between and after. Raw texts begin with a capital and end with a full stop.
    """
    folder = Path(folder)
    for number, lang in enumerate(sorted({lang for _, _, lang in utterances})):
        year = str(2010 + number)
        session = f"{year}0908-0900-PLENARY-{number}"
        target = folder / "transcribed_data" / lang
        target.mkdir(parents=True)
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, int(GAP * RATE))
        recording, annotation = [noise], []
        manifests = {split: [MANIFEST] for split in SPLITS}
        chosen = [(wav, text) for wav, text, other in utterances if other == lang]
        for position, (split, (wav, text)) in enumerate(
            (split, utterance) for split in SPLITS for utterance in chosen
        ):
            samples = _samples(wav)
            utterance_id = f"{lang}_{year}0908-09:06:43_{position}"
            clip_id = f"{session}-{utterance_id}"
            if cut:
                _write(target / year / f"{clip_id}.ogg", samples, RATE)
            vad = []
            for part in np.array_split(samples, 2):
                start = sum(map(len, recording)) / RATE
                vad.append([start, start + len(part) / RATE])
                recording += [part, noise]
            raw, speaker = f"{text.capitalize()}.", str(100 + SPLITS.index(split))
            annotation.append(
                (session, utterance_id, position, raw, text, speaker, vad[0][0], vad[1][1], vad,
                 split, "female")
            )  # fmt: skip
            manifests[split].append((clip_id, raw, text, speaker, split, "female", "False", "None"))
        if cut:
            for split, rows in manifests.items():
                write_tsv(target / f"asr_{split}.tsv", rows)
        else:
            path = folder / "raw_audios" / "original" / year / f"{session}_original.ogg"
            _write(path, np.concatenate(recording), RATE)
        with gzip.open(target / f"asr_{lang}.tsv.gz", "wt", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="|").writerows([ANNOTATION, *annotation])
    return folder


def make_commonvoice(folder, utterances):
    """LANG/{train,dev,test}.tsv and LANG/clips/*.mp3; the folder is one release."""
    folder = Path(folder)
    for lang in sorted({lang for _, _, lang in utterances}):
        locale = LOCALES.get(lang, lang)
        durations = [("clip", "duration[ms]")]
        chosen = [(wav, text) for wav, text, other in utterances if other == lang]
        for split_number, split in enumerate(SPLITS):
            rows = [CLIPS]
            for position, (wav, text) in enumerate(chosen):
                name = f"common_voice_{locale}_{20000000 + 1000 * split_number + position}.mp3"
                samples = _samples(wav, COMMONVOICE_RATE)
                _write(folder / locale / "clips" / name, samples, COMMONVOICE_RATE)
                row = {
                    **dict.fromkeys(CLIPS, ""),
                    "client_id": f"{split_number:0128x}",
                    "path": name,
                    "sentence_id": f"{position:064x}",
                    "sentence": text,
                    "up_votes": "2",
                    "down_votes": "0",
                    "locale": locale,
                }
                rows.append(row.values())
                durations.append((name, str(1000 * len(samples) // COMMONVOICE_RATE)))
            write_tsv(folder / locale / f"{split}.tsv", rows)
        write_tsv(folder / locale / "clip_durations.tsv", durations)
    return folder


def write_tsv(path, rows):
    """Writes rows with tabs between and no quoting."""
    text = "".join("\t".join(row) + "\n" for row in rows)
    Path(path).write_text(text, encoding="utf-8")


def _samples(wav, rate=RATE):
    wav = load_audio(wav) if isinstance(wav, str | os.PathLike) else wav  # [T]
    return torchaudio.functional.resample(wav, RATE, rate).numpy()


def _write(path, samples, rate):
    """Writes OGG (Vorbis) or MP3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subtype = {"format": "OGG", "subtype": "VORBIS"} if path.suffix == ".ogg" else {"format": "MP3"}
    with soundfile.SoundFile(path, "w", rate, 1, **subtype) as file:
        # libsndfile crashes on long blocks of Vorbis.
        for start in range(0, len(samples), rate):
            file.write(samples[start : start + rate])
