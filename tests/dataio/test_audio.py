"""Any audio file becomes 16 kHz mono, or one line that says what is wrong."""

import math
import os
import struct

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_diffasr import AudioError
from speechbrain_diffasr.dataio import AudioStream, audio, header, load_audio
from speechbrain_diffasr.dataio.audio import check_waveform, silence_mp3_decoder
from speechbrain_diffasr.dataio.resampling import MAX_TAPS, affordable_rate


def tone(rate, seconds=1.0, channels=1, hertz=440.0):
    """A sine that swells and fades, so that filters leave its ends alone, [T, channels]."""
    time = np.arange(round(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * hertz * time) * np.sin(np.pi * time / seconds) ** 2
    return np.repeat(wave[:, None], channels, axis=1)


def write(path, wave, rate=16000, **kwargs):
    soundfile.write(path, wave, rate, **kwargs)
    return path


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def signal_to_noise(wav, reference):
    noise = wav.double().numpy() - reference
    return 10 * np.log10((reference**2).sum() / max((noise**2).sum(), 1e-20))


FORMATS = [
    ("wav", "PCM_U8", 25),
    ("wav", "PCM_16", 60),
    ("wav", "PCM_24", 80),
    ("wav", "PCM_32", 80),
    ("wav", "FLOAT", 80),
    ("wav", "DOUBLE", 80),
    ("wav", "ULAW", 25),
    ("aiff", "PCM_16", 60),
    ("au", "PCM_16", 60),
    ("caf", "PCM_16", 60),
    ("w64", "PCM_16", 60),
    ("flac", "PCM_16", 60),
    ("ogg", "VORBIS", 10),
    ("ogg", "OPUS", 10),
    ("mp3", "MPEG_LAYER_III", 10),
]


@pytest.mark.parametrize(("extension", "subtype", "decibels"), FORMATS)
def test_every_format_is_read(tmp_path, extension, subtype, decibels):
    path = write(tmp_path / f"a.{extension}", tone(16000, channels=2), subtype=subtype)
    wav = load_audio(path)
    assert wav.dtype == torch.float32
    assert wav.shape == (16000,)
    assert signal_to_noise(wav, tone(16000)[:, 0]) > decibels


# 11127 Hz shares no divisor with 16000 Hz: its rate is rounded.
@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 11127])
def test_every_rate_is_resampled(tmp_path, rate):
    wav = load_audio(write(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT"))
    assert abs(len(wav) - 16000) <= 16
    pitch = 440 * 16000 / len(wav)
    assert signal_to_noise(wav, tone(16000, len(wav) / 16000, hertz=pitch)[:, 0]) > 30


def test_channels_are_averaged(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (1600, 8))
    wav = load_audio(write(tmp_path / "a.wav", wave, subtype="FLOAT"))
    torch.testing.assert_close(wav, torch.from_numpy(wave.mean(1)).float())


@pytest.mark.parametrize("target", [8000, 16000, 48000])
def test_resampling_stays_affordable_at_any_rate(target):
    for rate in [*range(1, 400_000, 997), 9999, 44099, 1_000_003, 2_000_000_000]:
        near = affordable_rate(rate, target)
        divisor = math.gcd(near, target)
        assert (near // divisor) * (target // divisor) <= 5 * MAX_TAPS
        assert abs(near - rate) <= 0.01 * rate


def test_ordinary_rates_are_kept():
    for rate in [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000]:
        assert affordable_rate(rate, 16000) == rate


def missing(folder):
    return folder / "a.wav"


def directory(folder):
    (folder / "a.wav").mkdir()
    return folder / "a.wav"


def device(folder):
    return os.devnull


def of_bytes(data, name="a.wav"):
    def make(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return make


def of_samples(wave, rate=16000, **kwargs):
    return lambda folder: write(folder / "a.wav", wave, rate, **kwargs)


def truncated(extension, share, **kwargs):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (32000, 2))
    return lambda folder: cut(write(folder / f"a.{extension}", noise, **kwargs), share)


def header_only(folder):
    path = write(folder / "a.wav", tone(16000))
    path.write_bytes(path.read_bytes()[:44])
    return path


def wrong_rate(folder):
    path = write(folder / "a.wav", tone(16000))
    data = bytearray(path.read_bytes())
    data[24:28] = bytes(4)
    path.write_bytes(data)
    return path


def not_a_number(value):
    wave = tone(16000)
    wave[[5, 7]] = value
    return of_samples(wave, subtype="FLOAT")


BAD = {
    "missing": (missing, "no such file"),
    "directory": (directory, "a folder"),
    "device": (device, "not a regular file"),
    "empty": (of_bytes(b""), "empty (0 bytes)"),
    "no samples": (of_samples(np.zeros((0, 1))), "no samples"),
    "zip": (
        of_bytes(b"PK\x03\x04" + bytes(99)),
        "not audio (file starts with 'PK', a zip archive)",
    ),
    "png as mp3": (of_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99), "a.mp3"), "an image"),
    "text": (of_bytes("Grüße, 你好\n".encode() * 99), "is text and starts with 'Grüße, 你好"),
    "text cut in a character": (of_bytes(b"a" + "你".encode() * 300), "is text"),
    "web page": (of_bytes(b"\n<!DOCTYPE html><html>" * 9), "web page"),
    "lfs pointer": (of_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "mp4": (of_bytes(b"\0\0\0\x20ftypisom" + bytes(99), "a.m4a"), "truncated or damaged"),
    "aac": (of_bytes(b"\xff\xf1\x50\x80" + bytes(99), "a.aac"), "no sound can be decoded"),
    "random": (of_bytes(np.random.default_rng(0).bytes(999)), "no known format"),
    "zero bytes": (of_bytes(bytes(999), "a.mp3"), "zero bytes only"),
    "raw": (of_bytes(bytes(999), "a.raw"), "without a header"),
    "header only": (header_only, "truncated: holds 0 of the 32000 bytes"),
    "half a header": (of_bytes(b"RIFF\x24\x7d\0\0WAVEfmt "), "truncated or damaged WAV"),
    "rate of zero": (wrong_rate, "damaged WAV"),
    "wav, last byte": (truncated("wav", 1 - 1e-6), "truncated: holds 127999 of the 128000 bytes"),
    "wav, half": (truncated("wav", 0.5), "truncated: holds"),
    "wav 24 bit": (truncated("wav", 0.5, subtype="PCM_24"), "truncated: holds"),
    "wav float": (truncated("wav", 0.5, subtype="FLOAT"), "truncated: holds"),
    "rf64": (truncated("rf64", 0.5, format="RF64"), "truncated: holds"),
    "w64": (truncated("w64", 0.5), "truncated: holds"),
    "aiff": (truncated("aiff", 0.5), "truncated: holds"),
    "au": (truncated("au", 0.5), "truncated: holds"),
    "caf": (truncated("caf", 0.5), "truncated: holds"),
    "flac, 90 %": (truncated("flac", 0.9), "truncated or damaged FLAC"),
    "flac, 2 %": (truncated("flac", 0.02), "truncated or damaged FLAC"),
    "vorbis, 90 %": (truncated("ogg", 0.9), "truncated"),
    "vorbis, 2 %": (truncated("ogg", 0.02), "truncated: ends inside a page"),
    "opus, 90 %": (truncated("ogg", 0.9, subtype="OPUS"), "truncated"),
    "mp3, 90 %": (truncated("mp3", 0.9), "truncated: holds"),
    "mp3, 2 %": (truncated("mp3", 0.02), "truncated: holds"),
    "silence": (of_samples(np.zeros((1600, 2))), "all samples are zero"),
    "NaN": (not_a_number(np.nan), "2 of 16000 samples are NaN or infinite"),
    "infinite": (not_a_number(-np.inf), "2 of 16000 samples are NaN or infinite"),
    "beyond float32": (of_samples(np.full(9, 1e300), subtype="DOUBLE"), "NaN or infinite"),
    "cancelling": (of_samples(tone(16000, channels=2) * [1, -1], subtype="FLOAT"), "cancel out"),
    "too long": (
        of_samples(tone(8000, 12.3), 8000),
        "12.3 s of audio, but this model hears 10 s at once; cut it into shorter pieces",
    ),
    "one sample too long": (of_samples(tone(16000, 10 + 1 / 16000)), "10.0001 s of audio"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_get_one_line(tmp_path, kind):
    make, reason = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(AudioError) as caught:
        load_audio(path, max_seconds=10)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert len(message.splitlines()) == 1


def test_unreadable_files_get_one_line(tmp_path, monkeypatch):
    """Root may read everything, so the refusal is simulated."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.wav", tone(16000))
    monkeypatch.setattr(header, "open", refuse, raising=False)
    with pytest.raises(AudioError, match=r"a\.wav: permission denied"):
        load_audio(path)


def test_long_files_are_refused_undecoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.flac", tone(16000, 10.5))
    monkeypatch.setattr(audio.audio_io, "load", lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(AudioError, match=r"10\.5 s of audio"):
        load_audio(path, max_seconds=10)


@pytest.mark.parametrize("rate", [8000, 11124, 11127, 16000, 44100, 48000])
def test_the_longest_audio_allowed_is_accepted(tmp_path, rate):
    path = write(tmp_path / "a.wav", tone(rate, 10.0), rate)
    assert 159_900 <= len(load_audio(path, max_seconds=10)) <= 160_000


def test_a_single_sample_is_accepted(tmp_path):
    assert len(load_audio(write(tmp_path / "a.wav", [0.1], 48000))) == 1


def test_a_streamed_wav_is_not_truncated(tmp_path):
    """What writes into a pipe claims the largest size there is."""
    path = write(tmp_path / "a.wav", tone(16000))
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    assert len(load_audio(path)) == 16000


def test_a_wav_of_an_odd_size_is_not_truncated(tmp_path):
    path = write(tmp_path / "a.wav", tone(16000)[:999], subtype="PCM_U8")
    unpadded = path.read_bytes()[: 44 + 999]
    path.write_bytes(unpadded)
    assert len(load_audio(path)) == 999


def mp3_frame_bytes(header):
    """Size of an MPEG-2 layer III frame at 16 kHz (ISO 13818-3, 2.4.2.3)."""
    kbits = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160][header[2] >> 4]
    return 72 * kbits * 1000 // 16000 + (header[2] >> 1 & 1)


def test_an_mp3_without_a_length_is_not_truncated(tmp_path):
    """libsndfile then guesses the length from the first frames, here far too long."""
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 32000)
    wave[:12000] = 0
    path = write(tmp_path / "a.mp3", wave, bitrate_mode="VARIABLE")
    data = path.read_bytes()
    assert b"Xing" in data[:200]
    path.write_bytes(data[mp3_frame_bytes(data) :])
    with soundfile.SoundFile(path) as file:
        assert len(file.read()) < file.frames - 2304
    assert len(load_audio(path)) > 16000


def test_an_mp3_with_a_tag_is_checked_too(tmp_path):
    path = write(tmp_path / "a.mp3", tone(16000, 2))
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 39, 8]) + bytes(5000)
    path.write_bytes(tag + path.read_bytes())
    assert len(load_audio(path)) == 32000
    with pytest.raises(AudioError, match="truncated"):
        load_audio(cut(path, 0.8))


@pytest.mark.parametrize("name", ["नमस्ते 你好.wav", os.fsdecode(b"caf\xe9.wav"), "a\nb.wav"])
def test_names_in_any_script(tmp_path, name):
    path = write(tmp_path / "a.wav", tone(16000)).rename(tmp_path / name)
    assert len(load_audio(path)) == 16000
    path.write_bytes(b"")
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("wav", "reason"),
    [
        (torch.rand(2, 16000), r"shape \[2, 16000\]"),
        (torch.ones(9, dtype=torch.int16), "int16"),
        (torch.rand(0), "no samples"),
        (torch.zeros(9), "all samples are zero"),
        (torch.tensor([0.1, math.nan]), "1 of 2 samples"),
        (torch.rand(8001), r"1\.0001 s of audio, but this model hears 1 s"),
    ],
)
def test_bad_waveforms(wav, reason):
    with pytest.raises(AudioError, match=f"^call: .*{reason}"):
        check_waveform(wav, "call", max_seconds=1, sample_rate=8000)


def test_good_waveforms_pass():
    check_waveform(torch.rand(8000), "call", max_seconds=1, sample_rate=8000)
    check_waveform(torch.rand(16000).bfloat16(), "call")


def test_the_decoder_is_silenced_for_its_call_only(capfd):
    with silence_mp3_decoder():
        os.write(2, b"inside")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def vary(path, loud_first):
    """An MP3 of frames of many sizes that nowhere says how many they are."""
    noise = 0.3 * np.random.default_rng(0).standard_normal(10 * 16000)
    wave = [noise, np.zeros(20 * 16000)][:: 1 if loud_first else -1]
    write(path, np.concatenate(wave), bitrate_mode="VARIABLE", compression_level=0.5)
    data = path.read_bytes()
    assert b"Xing" in data[:100]
    path.write_bytes(data[data.find(data[:2], 4) :])
    return path


def test_an_mp3_that_soundfile_would_cut_is_heard_whole(tmp_path):
    path = vary(tmp_path / "a.mp3", loud_first=True)
    assert soundfile.info(path).frames < 10 * 16000
    assert len(load_audio(path)) == pytest.approx(30 * 16000, abs=2500)
    whole = vary(tmp_path / "b.mp3", loud_first=False)
    assert len(load_audio(whole)) == pytest.approx(30 * 16000, abs=2500)


@pytest.mark.parametrize(
    ("rate", "extension"),
    [(16000, "wav"), (8000, "wav"), (44100, "flac"), (48000, "ogg"), (11025, "mp3"), (4001, "wav")],
)
def test_blocks_are_what_is_loaded_whole(tmp_path, monkeypatch, rate, extension):
    monkeypatch.setattr(audio, "_BLOCK", 10_001)
    rng = np.random.default_rng(0)
    path = write(tmp_path / f"a.{extension}", 0.1 * rng.standard_normal((7 * rate, 2)), rate)
    whole = load_audio(path)
    stream = AudioStream(path)
    blocks = list(stream.blocks())
    assert len(blocks) > 3
    assert max(map(len, blocks)) < len(whole) / 2
    torch.testing.assert_close(torch.cat(blocks), whole, rtol=0, atol=1e-6)
    spans = [(0, 5), (3, 40_000), (30_000, 90_000), (100_000, 100_001), (100_500, len(whole))]
    for (first, behind), piece in zip(spans, stream.pieces(spans), strict=True):
        torch.testing.assert_close(piece, whole[first:behind], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["nan", "cancel", "cut flac"])
def test_blocks_refuse_what_loading_refuses(tmp_path, kind):
    wave = 0.1 * np.random.default_rng(0).standard_normal((80_000, 2))
    if kind == "nan":
        wave[70_000] = np.nan
    if kind == "cancel":
        wave[:, 1] = -wave[:, 0]
    if kind == "cut flac":
        path = cut(write(tmp_path / "a.flac", wave), 0.5)
    else:
        path = write(tmp_path / "a.wav", wave, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"NaN|cancel out|truncated"):
        load_audio(path)
    with pytest.raises(
        AudioError, match=r"NaN or infinite samples at 4\.38 s|cancel out|truncated"
    ):
        list(AudioStream(path).blocks())
    assert not any(map(torch.any, AudioStream(write(tmp_path / "0.wav", 0 * wave[:9])).blocks()))
