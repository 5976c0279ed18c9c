"""Several channels: cancelled, apart, or the same."""

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_diffasr.dataio import AudioStream, load_audio
from speechbrain_diffasr.dataio.audio import check_audio
from speechbrain_diffasr.utils.errors import AudioError

RATE = 16000


def voice(seed, seconds=4.0, pauses=True):
    """What comes and goes as speech does: a hum of changing pitch in syllables."""
    rng = np.random.default_rng(seed)
    count = round(RATE * seconds)
    pitch = 110 * 2 ** np.interp(
        np.arange(count), np.arange(0, count, 3000), rng.random(len(range(0, count, 3000)))
    )
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 20))
    loud = rng.random(-(-count // 2400)) > (0.4 if pauses else 0)
    return 0.1 * wave * np.repeat(loud, 2400)[:count]


def room(wav, seed, t60=0.5):
    """A microphone somewhere in a room."""
    rng = np.random.default_rng(seed)
    echo = rng.normal(size=RATE // 2) * np.exp(-6.9 * np.arange(RATE // 2) / RATE / t60)
    echo /= np.sqrt((echo**2).sum())
    echo[rng.integers(10, 100)] += 1
    size = 2 ** (len(wav) + len(echo)).bit_length()
    return np.fft.irfft(np.fft.rfft(wav, size) * np.fft.rfft(echo, size))[: len(wav)]


def noise(level, seed=0, seconds=4.0):
    return level * np.random.default_rng(seed).normal(size=round(RATE * seconds))


ONE, OTHER = voice(1), voice(2)
GAP = np.zeros(4 * RATE)
PAIRS = {
    "both talk at once": (ONE, OTHER, True),
    "one after the other": (np.append(ONE, GAP), np.append(GAP, OTHER), True),
    "with noise on the line": (ONE + noise(0.002), OTHER + noise(0.002, 1), True),
    "one is softer": (ONE, 0.1 * OTHER, True),
    "one word on the other side": (np.append(ONE, ONE), np.append(GAP, OTHER[:RATE]), True),
    "the same": (ONE, ONE, False),
    "the same, softer": (ONE, 0.3 * ONE, False),
    "the same with noise": (ONE + noise(0.02), ONE + noise(0.02, 1), False),
    "a little later": (ONE, np.roll(ONE, 160), False),
    "much later": (ONE, np.roll(ONE, 1600), False),
    "two microphones in a room": (room(ONE, 1), room(ONE, 2), False),
    "in a church": (room(ONE, 1, 1.5), room(ONE, 2, 1.5), False),
    "silence": (ONE, 0 * ONE, False),
    "next to silence": (ONE, 1e-5 * OTHER, False),
    "noise": (ONE, noise(0.05), False),
    "a hum": (ONE, 0.1 * np.sin(2 * np.pi * 50 * np.arange(len(ONE)) / RATE), False),
    "two noises": (noise(0.1), noise(0.1, 1), False),
    "a constant": (ONE, 0 * ONE + 0.2, False),
}


def saved(folder, *channels, name="a.wav", **options):
    length = max(map(len, channels))
    wav = np.stack([np.pad(one, (0, length - len(one))) for one in channels], axis=1)
    soundfile.write(folder / name, wav, RATE, **options)
    return folder / name


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_different_speech_is_told_from_the_same(name, scale, tmp_path):
    one, other, expected = PAIRS[name]
    for pair in ((one, other), (other, one)):
        path = saved(tmp_path, *(scale * wav for wav in pair), subtype="FLOAT")
        assert AudioStream(path).compare_channels() == expected


def test_blocks_make_no_difference(tmp_path, monkeypatch):
    from speechbrain_diffasr.dataio import audio

    path = saved(tmp_path, ONE, OTHER)
    monkeypatch.setattr(audio, "_BLOCK", 9_999)
    assert AudioStream(path).compare_channels()
    assert not AudioStream(saved(tmp_path, ONE, ONE)).compare_channels()


WAYS = [("wav", "PCM_16"), ("wav", "ULAW"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("ogg", "OPUS")]


@pytest.mark.parametrize(("ending", "subtype"), [*WAYS, ("mp3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_cancelling_is_found_by_energy(ending, subtype, offset, tmp_path):
    path = saved(tmp_path, ONE + offset, -ONE + offset, name=f"a.{ending}", subtype=subtype)
    for read in (
        load_audio,
        lambda path: list(AudioStream(path).blocks()),
        lambda path: AudioStream(path).compare_channels(),
    ):
        with pytest.raises(AudioError, match="the channels cancel out when mixed"):
            read(path)
    assert check_audio(path).channels == 2
    left = load_audio(path, channel=0)
    right = load_audio(path, channel=1)
    assert np.corrcoef(left, ONE[: len(left)])[0, 1] > 0.9
    assert np.corrcoef(left, right)[0, 1] < -0.9
    torch.testing.assert_close(
        torch.cat(list(AudioStream(path, channel=1).blocks())), right, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_what_is_partly_left_is_heard(share, tmp_path):
    assert load_audio(saved(tmp_path, ONE, -share * ONE)).any()
    assert load_audio(saved(tmp_path, ONE, OTHER, -ONE)).any()


def test_a_channel_that_is_not_there(tmp_path):
    path = saved(tmp_path, ONE, OTHER)
    with pytest.raises(AudioError, match="no channel 2; it has 2, from 0"):
        load_audio(path, channel=2)
