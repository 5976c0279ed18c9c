"""What people give to a recognizer by mistake: a line for each, and the rest goes on."""

import csv
import os
import struct

import numpy as np
import pytest
import soundfile

from speechbrain_diffasr import AudioError, DiffusionASR, cli

RATE = 16000
CHANCE = np.random.default_rng(0)
WAVE = 0.1 * CHANCE.standard_normal(RATE)
LONG = 0.1 * CHANCE.standard_normal(5 * RATE)  # longer than the model hears at once


def audio(path, wave=WAVE, rate=RATE, **kwargs):
    soundfile.write(path, wave, rate, **kwargs)


def data(content):
    return lambda path: path.write_bytes(content)


def wav_bytes(path, wave=WAVE):
    soundfile.write(path, wave, RATE)
    return bytearray(path.read_bytes())


def patched(offset, layout, value, wave=WAVE):
    """A WAV file with another value in its header."""

    def make(path):
        content = wav_bytes(path, wave)
        struct.pack_into(layout, content, offset, value)
        path.write_bytes(content)

    return make


def cut(share, wave=WAVE, **kwargs):
    def make(path):
        soundfile.write(path, wave, RATE, **kwargs)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return make


def with_value(value, place, wave):
    def make(path):
        changed = wave.copy()
        changed[place] = value
        audio(path, changed, subtype="FLOAT")

    return make


def link(target):
    return lambda path: path.symlink_to(target)


def opposite(path, wave=WAVE):
    audio(path, np.stack([wave, -wave], axis=1), subtype="FLOAT")


# Name, how it is made, and a part of the line about it.
BAD = [
    ("empty.wav", data(b""), "the file is empty"),
    ("one byte.wav", data(b"R"), "not audio"),
    ("magic only.wav", data(b"RIFF"), "truncated or damaged WAV"),
    ("no samples.wav", lambda path: audio(path, WAVE[:0]), "no samples"),
    ("no samples.flac", lambda path: audio(path, WAVE[:0]), ""),
    ("half.wav", cut(0.5), "truncated"),
    ("half.flac", cut(0.5), "truncated"),
    ("half.ogg", cut(0.5), "truncated"),
    ("half.mp3", cut(0.5), "truncated"),
    ("half long.wav", cut(0.5, LONG), "truncated"),
    ("half long.flac", cut(0.5, LONG), "truncated"),
    ("huge claim.wav", patched(40, "<I", 0x7FFFE000), "truncated: holds"),
    ("no rate.wav", patched(24, "<I", 0), ""),
    ("no channels.wav", patched(22, "<H", 0), ""),
    ("3000 channels.wav", patched(22, "<H", 3000), ""),
    ("no width.wav", patched(34, "<H", 0), ""),
    ("unknown codec.wav", patched(20, "<H", 0x1234), ""),
    ("nan.wav", with_value(np.nan, 5, WAVE), "NaN or infinite"),
    ("infinite.wav", with_value(np.inf, 5, WAVE), "NaN or infinite"),
    ("late nan.wav", with_value(np.nan, 4 * RATE, LONG), "NaN or infinite samples at 4.00 s"),
    ("opposite.wav", opposite, "the channels cancel out"),
    ("long opposite.wav", lambda path: opposite(path, LONG), "the channels cancel out"),
    ("zip.wav", data(b"PK\x03\x04" + bytes(99)), "a zip archive"),
    ("gzip.wav", data(b"\x1f\x8b" + bytes(99)), "gzip-compressed"),
    ("pdf.mp3", data(b"%PDF-1.7"), "a PDF document"),
    ("png.flac", data(b"\x89PNG\r\n"), "an image"),
    ("jpeg.ogg", data(b"\xff\xd8\xff\xe0" + bytes(99)), "a JPEG image"),
    ("program.wav", data(b"\x7fELF" + bytes(99)), "a program"),
    ("array.wav", data(b"\x93NUMPY" + bytes(99)), "a saved array"),
    ("lfs.wav", data(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    ("page.mp3", data(b"<!DOCTYPE html><html></html>"), "a web page"),
    ("text.wav", data("не аудио".encode()), "is text"),
    ("zero bytes.wav", data(bytes(4096)), "zero bytes only"),
    ("random.wav", data(CHANCE.bytes(4096)), "not audio"),
    ("random.mp3", data(CHANCE.bytes(4096)), ""),
    ("film.wav", data(bytes(4) + b"ftypisom" + bytes(99)), "MP4 or M4A"),
    ("web film.wav", data(b"\x1aE\xdf\xa3" + bytes(99)), "WebM"),
    ("aac.wav", data(b"\xff\xf1" + bytes(99)), "AAC"),
    ("amr.wav", data(b"#!AMR\n" + bytes(99)), "AMR"),
    ("broken link.wav", link("nowhere.wav"), "no such file"),
    ("loop.wav", link("loop.wav"), "cannot be read"),
    ("link to folder.wav", link("."), "a folder"),
    ("pipe.wav", lambda path: os.mkfifo(path), "not a regular file"),
    ("evil\nname\x1b[2J.wav", data(b""), "the file is empty"),
    ("имя 名前 नाम.wav", data(b""), "the file is empty"),
    (os.fsdecode(b"latin-\xe9.wav"), data(b""), "the file is empty"),
]
# Odd, but audio: name and how it is made.
ODD = [
    ("good.wav", audio),
    ("double.wav", lambda path: audio(path, subtype="DOUBLE")),
    ("eight bits.wav", lambda path: audio(path, subtype="PCM_U8")),
    ("24 bits.wav", lambda path: audio(path, subtype="PCM_24")),
    ("8 channels.wav", lambda path: audio(path, np.tile(WAVE[:, None], 8))),
    ("clipped.wav", lambda path: audio(path, np.sign(WAVE), subtype="FLOAT")),
    ("too loud.wav", lambda path: audio(path, 1000 * WAVE, subtype="FLOAT")),
    ("11127 Hz.wav", lambda path: audio(path, WAVE, 11127)),
    ("192 kHz.flac", lambda path: audio(path, WAVE, 192000)),
    ("100 Hz.wav", lambda path: audio(path, WAVE[:150], 100)),
    ("one sample.wav", lambda path: audio(path, WAVE[:1])),
    ("of a pipe.wav", patched(40, "<I", 0xFFFFFFFF)),
    ("mp3 called.wav", lambda path: audio(path, format="MP3")),
    ("link.wav", link("good.wav")),
    ("new\nline.wav", audio),
    ("long.wav", lambda path: audio(path, LONG)),
    ("long.ogg", lambda path: audio(path, LONG)),
    ("silence.wav", lambda path: audio(path, 0 * WAVE)),
    ("silence.mp3", lambda path: audio(path, 0 * WAVE)),
    ("long silence.wav", lambda path: audio(path, 0 * LONG)),
]


@pytest.fixture(scope="module")
def asr(random_model):
    return DiffusionASR.from_hparams(random_model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name, make, *_ in [*ODD, *BAD]:
        make(folder / name)
    return folder


def test_there_are_forty_kinds():
    assert len({name for name, *_ in BAD}) == len(BAD) >= 40


def test_each_gets_a_line_and_the_others_go_on(asr, folder, tmp_path, monkeypatch, capfd):
    """One batch of all: those that are audio say what they say alone."""
    monkeypatch.setattr(cli.common, "load_model", lambda *args: asr)
    manifest, output = tmp_path / "list.csv", tmp_path / "out"
    names = [name for name, *_ in [*BAD, *ODD]] + ["absent.wav", "zero\0byte.wav", "sub/"]
    (folder / "sub").mkdir(exist_ok=True)
    with open(manifest, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["wav"], *([str(folder / name)] for name in names)])
    command = ["transcribe", "--manifest", str(manifest), "--output", str(output)]
    assert cli.main(command) == 1
    out, err = capfd.readouterr()
    expected = {str(folder / name): reason for name, _, reason in BAD}
    for name, reason in [("absent.wav", "no such"), ("zero\0byte.wav", "zero"), ("sub/", "a f")]:
        expected[str(folder / name)] = reason
    alone = {name: asr.transcribe_file(folder / name) for name, _ in ODD}
    empty = list(alone.values()).count("")
    assert {alone[name] for name, _ in ODD if "silence" in name} == {""}
    assert f"{len(ODD)} files transcribed, {empty} of them empty, " in out
    assert f", {len(expected)} failed, listed in " in out
    lines = err.splitlines()
    assert len(lines) == len(expected)
    assert all(line.startswith(f"diffasr: {folder}") for line in lines)
    with open(
        output / "failures.csv", encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        told = {row["wav"]: row["reason"] for row in csv.DictReader(file)}
    assert set(told) == set(expected)
    for path, reason in expected.items():
        start = " ".join(f"{path}: ".splitlines())
        assert told[path].startswith(start)
        assert reason in told[path][len(start) :]
        assert len(told[path].splitlines()) == 1
    texts = {path.read_text(encoding="utf-8") for path in output.glob("*.txt")}
    assert texts == {text + "\n" for text in alone.values()}
    assert len(texts) > 3 and "\n" in texts  # else this could not fail


@pytest.mark.parametrize("segmentation", ["auto", "fixed"])
@pytest.mark.parametrize("name", [name for name, *_ in BAD])
def test_the_interface_raises_one_kind_of_error(asr, folder, name, segmentation):
    with pytest.raises(AudioError) as caught:
        asr.transcribe_file(folder / name, segmentation=segmentation)
    assert len(str(caught.value).splitlines()) == 1
