"""Pauses and sound: where nobody speaks, in silence and in noise."""

import pytest
import torch

from speechbrain_diffasr.segmentation.levels import find_pauses, find_sound

RATE = 16000


def speech(seconds, seed=0):
    """Something as loud as speech, [T]."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(round(seconds * RATE), generator=generator).clamp(-3, 3)


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_pauses_are_found_in_silence_and_in_noise(noise):
    lengths = [(0.2, 0.7), (0.3, 0.5), (0.05, 0.6), (0.15, 0.4)]  # silence, then speech
    parts = [part for gap, length in lengths for part in (torch.zeros(round(gap * RATE)),
                                                          speech(length))]  # fmt: skip
    wav = torch.cat([*parts, torch.zeros(round(0.06 * RATE))])
    wav = wav + noise * torch.randn(len(wav), generator=torch.Generator().manual_seed(1))
    pauses = find_pauses(wav, RATE)
    expected = [(0.0, 0.2), (0.9, 1.2), (2.35, 2.5), (2.9, 2.96)]  # 0.05 s are too short
    assert len(pauses) == len(expected)
    for pause, true in zip(pauses, expected, strict=True):
        assert pause == pytest.approx(true, abs=0.025)


@pytest.mark.parametrize("scale", [1.0, 0.001])
def test_pauses_do_not_depend_on_loudness(scale):
    wav = torch.cat([speech(0.5), 0.0005 * speech(0.4), speech(0.5)])
    assert find_pauses(scale * wav, RATE) == find_pauses(wav, RATE) != []


@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.parametrize(("before", "behind"), [(0.0, 0.0), (0.05, 1.0), (1.5, 0.3), (4.0, 4.0)])
def test_sound_is_found_between_silence(noise, before, behind):
    """With its margins, if there is room for them; pauses inside of it stay."""
    parts = [before, speech(0.5), 1.0, speech(0.8), behind]
    wav = torch.cat([p if torch.is_tensor(p) else torch.zeros(round(p * RATE)) for p in parts])
    wav = wav + noise * torch.randn(len(wav), generator=torch.Generator().manual_seed(1))
    first, end = find_sound(wav, RATE, margin=0.1)
    assert first / RATE == pytest.approx(max(0.0, before - 0.1), abs=0.025)
    assert end / RATE == pytest.approx(before + 2.3 + min(behind, 0.1), abs=0.025)


def test_a_faint_speaker_is_sound():
    """40 dB fainter than another one, first and last."""
    wav = torch.cat([0.01 * speech(1.0), torch.zeros(RATE), speech(1.0), 0.01 * speech(1.0)])
    assert find_sound(wav, RATE, margin=0.1) == (0, len(wav))


@pytest.mark.parametrize("wav", [torch.zeros(RATE), torch.zeros(0), speech(1.0)])
def test_where_there_is_no_sound_or_no_silence_all_is_kept(wav):
    assert find_sound(wav, RATE, margin=0.1) == (0, len(wav))


def test_audio_without_sound_or_without_pause():
    assert find_pauses(torch.zeros(RATE), RATE) == [(0.0, 1.0)]
    assert find_pauses(torch.zeros(0), RATE) == []
    assert find_pauses(torch.zeros(7), RATE) == [(0.0, 7 / RATE)]
    assert find_pauses(torch.sin(torch.arange(RATE) / 3), RATE) == []
