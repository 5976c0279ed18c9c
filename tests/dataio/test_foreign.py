"""What phones and browsers record, which libsndfile cannot open."""

import fractions

import numpy as np
import pytest
import torch

from speechbrain_diffasr.dataio import AudioStream, audio, foreign, load_audio
from speechbrain_diffasr.dataio.audio import check_audio
from speechbrain_diffasr.utils.errors import AudioError

av = pytest.importorskip("av")

RATE = 48000
TIME = np.arange(3 * RATE) / RATE
TONES = np.where(
    TIME < 1, 0.4 * np.sin(2 * np.pi * 440 * TIME), 0.4 * np.sin(2 * np.pi * 1320 * TIME)
)
KINDS = {
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "mov": ("mov", "aac"),
    "webm": ("webm", "libopus"),
    "mka": ("matroska", "flac"),
    "mkv": ("matroska", "pcm_s16le"),
    "aac": ("adts", "aac"),
    "3gp": ("3gp", "aac"),
    "wma": ("asf", "wmav2"),
    "ac3": ("ac3", "ac3"),
    "wav": ("wav", "wmav2"),
    "avi": ("avi", "mp2"),
    "flv": ("flv", "aac"),
}


def encoded(path, kind, channels=1, wav=TONES, video=False):
    container, codec = KINDS[kind]
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=RATE, layout=layout)
        stream.bit_rate = 96_000
        if video:
            film = file.add_stream("mpeg4", rate=10)
            film.width = film.height = 64
            film.codec_context.time_base = fractions.Fraction(1, 10)
            for index in range(30):
                frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, fractions.Fraction(1, 10)
                file.mux(film.encode(frame))
        samples = np.repeat(wav[None], channels, axis=0).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = RATE, 0
        frame.time_base = fractions.Fraction(1, RATE)
        for part in av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=RATE,
            frame_size=stream.codec_context.frame_size or 1024,
        ).resample(frame):  # fmt: skip
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
        if video:
            file.mux(film.encode(None))
    return path


def loudness(wav, hertz):
    """How loud a tone is in every tenth of a second."""
    wav = wav[: len(wav) // 1600 * 1600].reshape(-1, 1600)
    return (wav * torch.exp(2j * torch.pi * hertz * torch.arange(1600) / 16000)).mean(dim=1).abs()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_all_of_it_is_heard(kind, channels, tmp_path, monkeypatch):
    path = encoded(tmp_path / f"a.{kind}", kind, channels)
    wav = load_audio(path)
    assert len(wav) == pytest.approx(3 * 16000, abs=0.2 * 16000)
    assert (loudness(wav, 440) > 0.1).sum() in range(9, 12)
    assert (loudness(wav, 1320) > 0.1).sum() in range(18, 22)
    header = check_audio(path)
    assert header.duration == pytest.approx(3, abs=0.2) and header.channels == channels
    monkeypatch.setattr(audio, "_BLOCK", 20_001)
    blocks = list(AudioStream(path).blocks())
    assert len(blocks) > 3
    torch.testing.assert_close(torch.cat(blocks), wav, atol=1e-5, rtol=0)


def test_the_sound_of_a_film(tmp_path):
    path = encoded(tmp_path / "a.mp4", "mp4", video=True)
    assert (loudness(load_audio(path), 1320) > 0.1).sum() in range(18, 22)


@pytest.mark.parametrize("kind", ["mkv", "webm", "mp4", "flv"])
def test_what_was_cut_is_not_taken_for_whole(kind, tmp_path):
    path = encoded(tmp_path / f"a.{kind}", kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="truncated"):
        load_audio(path)
    with pytest.raises(AudioError, match="truncated"):
        check_audio(path)


@pytest.mark.parametrize("name", ["m4a", "webm", "aac", "wav"])
def test_without_the_extra_the_line_names_it(name, tmp_path, monkeypatch):
    path = encoded(tmp_path / f"a.{name}", name)
    monkeypatch.setattr(foreign, "is_installed", lambda: False)
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    (line,) = str(caught.value).splitlines()
    assert "soundfile cannot read" in line
    assert "pip install 'speechbrain_diffasr[av]'" in line and "ffmpeg -i IN OUT.wav" in line


def test_a_film_without_sound(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        film = file.add_stream("mpeg4", rate=10)
        film.width = film.height = 64
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        file.mux(film.encode(frame))
        file.mux(film.encode(None))
    with pytest.raises(AudioError, match="without sound; name another file"):
        load_audio(path)


def test_channels_and_length_are_looked_at_as_ever(tmp_path):
    path = encoded(tmp_path / "a.m4a", "m4a", 2)
    assert not AudioStream(path).compare_channels()
    assert len(load_audio(path, channel=1)) == len(load_audio(path))
    with pytest.raises(AudioError, match="but this model hears 2 s at once"):
        load_audio(path, max_seconds=2)
