"""Silence says nothing, however long it is and however it is stored; faint speech is not lost."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_diffasr import AudioError, DiffusionASR, cli, shipped_model
from speechbrain_diffasr.dataio import AudioStream, load_audio
from speechbrain_diffasr.segmentation import Segmenter, SileroVAD, segmenter

RATE = 16000
SAMPLES = sorted(Path(shipped_model("diffasr-tiny")).glob("samples/*.wav"))
WAYS = ("auto", "vad", "fixed", "none")
HEARD_AT_ONCE = 6.0  # s
TELLS = "no speech was found in it; its transcript is empty"


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))


@pytest.fixture(params=["with silero-vad", "without"])
def silero(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(segmenter.importlib.util, "find_spec", lambda name: None)
    else:
        pytest.importorskip("silero_vad")
    return request.param != "without"


def ways(silero, seconds):
    """Those in which a file of this length can be cut."""
    for way in WAYS:
        if (way != "vad" or silero) and (way != "none" or seconds <= HEARD_AT_ONCE):
            yield way


def dithered(wave):
    """As 16 bits, with triangular noise of one step."""
    chance = np.random.default_rng(0)
    noise = chance.random(len(wave)) - chance.random(len(wave))
    return np.round(32768 * wave + noise).astype(np.int16)


@pytest.mark.parametrize("seconds", [0.5, 3, 10, 60])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "24 bits", "dither", "44100 Hz"])
def test_digital_silence_is_empty(asr, tmp_path, silero, kind, seconds):
    path = tmp_path / f"a.{kind if kind in ('flac', 'mp3', 'ogg') else 'wav'}"
    wave, rate = np.zeros(round(seconds * RATE)), RATE
    if kind == "44100 Hz":
        wave, rate = np.zeros((round(seconds * 44100), 2)), 44100
    wave = dithered(wave) if kind == "dither" else wave
    soundfile.write(path, wave, rate, subtype="PCM_24" if kind == "24 bits" else None)
    for way in ways(silero, seconds):
        assert asr.transcribe_file(path, segmentation=way) == ""
        transcript = asr.transcribe_long(path, segmentation=way, language="en")
        assert (transcript.text, transcript.segments) == ("", ())
        assert transcript.duration == pytest.approx(seconds, abs=0.1)
    assert asr.transcribe_file(path, boundaries=[(0.1, 0.4)]) == ""


def test_silence_that_is_too_long_for_none_is_refused_as_such(asr, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(10 * RATE), RATE)
    with pytest.raises(AudioError, match="this model hears 6 s at once"):
        asr.transcribe_file(tmp_path / "a.wav", segmentation="none")


@pytest.mark.parametrize("format", ["text", "srt", "vtt", "json", "ctm", "rttm", "textgrid"])
def test_the_command_tells_and_succeeds(asr, tmp_path, monkeypatch, capfd, format):
    monkeypatch.setattr(cli.common, "load_model", lambda *args: asr)
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    for watched in ([], ["--watch"]):
        assert cli.main(["transcribe", str(path), "--format", format, *watched]) == 0
        out, err = capfd.readouterr()
        assert err == f"diffasr: {path}: {TELLS}\n"
        if format == "json":
            (told,) = json.loads(out)
            assert (told["text"], told["duration"], told["segments"]) == ("", 1.0, [])
        else:
            assert "uh" not in out
    manifest = ["transcribe", "--manifest", str(tmp_path), "--output", str(tmp_path / "out")]
    assert cli.main([*manifest, "--format", format]) == 0
    assert capfd.readouterr().out.startswith("1 file transcribed, 1 of them empty, ")
    assert cli.main(["transcribe", str(SAMPLES[0]), "--format", format]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("level", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("seconds", [0.5, 3, 10])
def test_faint_noise_is_empty_where_silero_listens(asr, tmp_path, level, seconds):
    pytest.importorskip("silero_vad")
    noise = level * np.random.default_rng(0).standard_normal(round(seconds * RATE))
    soundfile.write(tmp_path / "a.wav", noise, RATE)
    for way in ("auto", "vad"):
        assert asr.transcribe_file(tmp_path / "a.wav", segmentation=way) == ""


def write_faint(path, wave, gain, noise=0.0, knock=False):
    """Exact in floats, so that nothing is lost but loudness."""
    wave = gain * wave + noise * np.random.default_rng(0).standard_normal(len(wave))
    if knock:
        wave[len(wave) // 3 :][:80] = 0.9
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    return AudioStream(path)


def test_faint_speech_is_heard(tmp_path, silero):
    """What a model makes of it is another matter."""
    for sample in SAMPLES[::3]:
        for gain in (2.0**-6, 2.0**-15):
            stream = write_faint(tmp_path / "a.wav", load_audio(sample).numpy(), gain)
            for way in ways(silero, 1):
                segmenter = Segmenter(HEARD_AT_ONCE, way)
                assert segmenter.fits_one_window(stream) or segmenter.plan(stream).windows


@pytest.mark.parametrize(
    ("gain", "noise", "knock"),
    [(1e-2, 0, False), (1e-3, 0, False), (0.02, 2e-4, False), (0.02, 0, True)],
)
def test_silero_empties_no_speech(tmp_path, gain, noise, knock):
    pytest.importorskip("silero_vad")
    segmenter = Segmenter(HEARD_AT_ONCE)
    for sample in SAMPLES:
        wave = load_audio(sample).numpy()
        assert segmenter.fits_one_window(
            write_faint(tmp_path / "a.wav", wave, gain, noise, knock)
        ), sample.name
    alone = np.concatenate([np.zeros(2 * RATE), wave[: RATE // 4], np.zeros(2 * RATE)])
    assert segmenter.fits_one_window(write_faint(tmp_path / "a.wav", alone, 1.0, 1e-4))


def test_a_detector_that_does_not_work_empties_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    wave = load_audio(SAMPLES[0]).numpy()
    assert Segmenter(HEARD_AT_ONCE).fits_one_window(write_faint(tmp_path / "a.wav", wave, 0.01))
    assert not Segmenter(HEARD_AT_ONCE).fits_one_window(write_faint(tmp_path / "a.wav", wave, 0.0))


def test_a_long_faint_recording_is_heard(tmp_path):
    """silero-vad by itself finds nothing of it."""
    pytest.importorskip("silero_vad")
    names = [path for path in SAMPLES if path.stem in ("de_1", "en_1", "en_2", "fr_1")]
    parts = [part for path in names for part in (np.zeros(RATE), load_audio(path).numpy())]
    wave = np.concatenate([*parts, np.zeros(RATE)])
    segmenter = Segmenter(HEARD_AT_ONCE, max_gap=0.0)
    expected = segmenter.plan(write_faint(tmp_path / "a.wav", wave, 1.0)).windows
    assert len(expected) == len(names)
    for gain in (2.0**-6, 2.0**-9, 2.0**-15):
        stream = write_faint(tmp_path / "a.wav", wave, gain)
        assert gain > 2.0**-10 or SileroVAD()(stream.blocks()) == []
        for own, loud in zip(segmenter.plan(stream).windows, expected, strict=True):
            assert (own.start, own.end) == pytest.approx((loud.start, loud.end), abs=0.3)
