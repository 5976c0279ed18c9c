"""Recordings whose headers are wrong, in the corpora that recipes list."""

import io

import numpy as np
import pytest
import soundfile
import torch
from miniature import rows_of, skipped_of

from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.recipe import Clip, list_corpus

RATE = 16000
NOISE = 0.1 * np.random.default_rng(0).standard_normal(5 * RATE)


def encoded(wav, kind):
    file = io.BytesIO()
    soundfile.write(file, wav, RATE, format=kind)
    return file.getvalue()


def sized(data, size):
    place = data.index(b"data") + 4
    return data[:place] + size.to_bytes(4, "little") + data[place + 4 :]


WAV = encoded(NOISE, "WAV")
FILES = {
    "joined.ogg": (encoded(NOISE[: 2 * RATE], "OGG") + encoded(NOISE[2 * RATE :], "OGG"), 5),
    "joined.mp3": (encoded(NOISE[: 2 * RATE], "MP3") + encoded(NOISE[2 * RATE :], "MP3"), 5),
    "joined.flac": (encoded(NOISE[: 2 * RATE], "FLAC") + encoded(NOISE[2 * RATE :], "FLAC"), 5),
    "early.wav": (sized(WAV, 2 * RATE), 5),
    "zero.wav": (sized(WAV, 0), 5),
    "pipe.wav": (sized(WAV, 0xFFFFFFFF), 5),
    "cut.wav": (sized(WAV, 2**31 + 2**29), "truncated: holds"),
    "rates.wav": (WAV + encoded(NOISE, "WAV")[:24] + b"\x40\x1f" + WAV[26:], "of different kinds"),
}


@pytest.fixture
def corpus(tmp_path):
    for name, (data, _) in FILES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def listed(corpus, clips):
    settings = {"normalize": lambda text, _: text, "settings": {}, "progress": False}
    list_corpus({"train": clips}, corpus, corpus / "csv", **settings)
    return {row["ID"]: row for row in rows_of(corpus / "csv", "train")}


def test_durations_are_those_of_all_that_is_heard(corpus):
    clips = [Clip(name, "train", name, "en", "hello") for name in FILES]
    rows = listed(corpus, clips)
    skipped = skipped_of(corpus / "csv", "train")
    for name, (_, expected) in FILES.items():
        if isinstance(expected, str):
            assert expected in skipped[name]
            continue
        seconds = float(rows[name]["duration"])
        assert seconds == pytest.approx(expected, abs=0.3), name
        assert len(load_audio(corpus / name)) / RATE == pytest.approx(seconds, abs=0.15)


@pytest.mark.parametrize("name", [n for n in FILES if FILES[n][1] == 5])
def test_clips_are_cut_from_what_the_header_leaves_out(corpus, name):
    clip = Clip("late", "train", name, "en", "hello", start=1.5, stop=4.5)
    rows = listed(corpus, [clip])
    wav = load_audio(corpus / "csv" / rows["late"]["wav"].removeprefix("$data_root/"))
    whole = load_audio(corpus / name)[int(1.5 * RATE) : int(4.5 * RATE)]
    assert len(wav) == 3 * RATE
    assert torch.corrcoef(torch.stack([wav, whole]))[0, 1] > 0.99
