"""What augmentation does to waveforms and features, and what it leaves alone."""

import pytest
import torch

from speechbrain_diffasr.pretraining import FeatureAugmenter, WaveformAugmenter

NOTHING = {"max_stretch": 0.0, "tilt": 0.0, "noise": 0.0}
ALL = {
    "rooms": 1.0, "babble": 1.0, "noise": 1.0, "max_colour": 1.5, "equalizer": 10.0,
    "band_limit": 0.5, "companding": 0.5, "clipping": 0.5, "holes": 1.0,
}  # fmt: skip


def speech(batch=4, seconds=1.0):
    """Waveforms of one second with a second of silence behind them."""
    generator = torch.Generator().manual_seed(5)
    wavs = torch.randn(batch, int(16000 * seconds), generator=generator) * 0.1
    wavs = torch.nn.functional.pad(wavs, (0, 16000))
    return wavs, torch.full((batch, 1), int(16000 * seconds))


def apply(augment, wavs, ends, seed=1):
    return augment(wavs, ends, torch.Generator().manual_seed(seed))


def test_without_shares_nothing_changes():
    wavs, ends = speech()
    changed, new_ends = apply(WaveformAugmenter(**NOTHING), wavs, ends)
    torch.testing.assert_close(changed, wavs)
    assert torch.equal(new_ends, ends)


@pytest.mark.parametrize("kind", ["noise", "babble"])
def test_noise_comes_at_the_level_that_is_asked_for(kind):
    """12 dB under the speech, measured over what was recorded."""
    wavs, ends = speech(batch=8)
    augment = WaveformAugmenter(**{**NOTHING, kind: 1.0, "min_snr": 12.0, "max_snr": 12.0})
    added = apply(augment, wavs, ends)[0] - wavs
    level = added[:, :16000].square().mean(dim=1)
    ratio = 10 * torch.log10(wavs[:, :16000].square().mean(dim=1) / level)
    assert (ratio - 12).abs().max() < 3.2  # half of the backgrounds stop with the recording


def test_a_telephone_has_no_highs():
    wavs, ends = speech()
    changed, _ = apply(WaveformAugmenter(**NOTHING, band_limit=1.0), wavs, ends)
    power = torch.fft.rfft(changed).abs().square()
    hertz = torch.linspace(0, 8000, power.shape[1])
    assert power[:, hertz > 4010].sum() < 1e-6 * power.sum()
    assert power[:, hertz < 3390].sum() > 0.8 * power.sum()


def test_a_room_adds_a_tail_and_moves_nothing():
    """A click stays where it is, and what follows it dies away."""
    click = torch.zeros(1, 16000)
    click[0, 1000] = 1.0
    augment = WaveformAugmenter(**NOTHING, rooms=1.0, max_reverberation=0.5)
    changed, _ = apply(augment, click, torch.tensor([[16000]]))
    assert not changed[0, :1000].abs().max() > 1e-4
    assert changed[0, 1000] == pytest.approx(1.0, abs=1e-3)
    early, late = changed[0, 1001:4000].square().sum(), changed[0, 6000:9000].square().sum()
    assert early > 10 * late > 0


@pytest.mark.parametrize("seed", range(3))
def test_with_everything_on_it_is_finite_and_repeats(seed):
    wavs, ends = speech()
    augment = WaveformAugmenter(**ALL)
    first, first_ends = apply(augment, wavs, ends, seed)
    again, again_ends = apply(augment, wavs, ends, seed)
    assert first.shape == wavs.shape and bool(first.isfinite().all())
    assert torch.equal(first, again) and torch.equal(first_ends, again_ends)
    assert not torch.allclose(first, apply(augment, wavs, ends, seed + 1)[0])


def test_silence_stays_finite():
    silence = torch.zeros(2, 16000)
    changed, _ = apply(WaveformAugmenter(**ALL), silence, torch.full((2, 1), 16000))
    assert bool(changed.isfinite().all())


def test_masks_cover_no_more_than_they_may():
    """Two of at most 40 frames and two of at most 12 bins."""
    mels = torch.ones(16, 80, 500)
    masked = FeatureAugmenter()(mels, torch.Generator().manual_seed(0)) == 0
    rows, columns = masked.all(dim=2).sum(dim=1), masked.all(dim=1).sum(dim=1)
    assert 0 < rows.max() <= 24 and 0 < columns.max() <= 80


def test_formants_move_and_time_does_not():
    """A line at one bin and one moment goes to a bin near by, at the same moment."""
    mels = torch.zeros(8, 80, 100)
    mels[:, 40, 50] = 1.0
    augment = FeatureAugmenter(time_masks=0, freq_masks=0, max_warp=0.1)
    moved = augment(mels, torch.Generator().manual_seed(0))
    assert not moved[:, :, :50].any() and not moved[:, :, 51:].any()
    places = moved[:, :, 50].argmax(dim=1)
    assert (places - 40).abs().max() <= 5 and len(places.unique()) > 2
