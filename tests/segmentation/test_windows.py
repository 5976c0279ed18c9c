"""Speech packed into windows: nothing is lost and nothing heard twice."""

import random
from itertools import pairwise

import pytest
import torch

from speechbrain_diffasr.segmentation import Region
from speechbrain_diffasr.segmentation.levels import quietest_point
from speechbrain_diffasr.segmentation.regions import pad_regions
from speechbrain_diffasr.segmentation.windows import fixed_windows, pack_regions

RATE = 16000
LONGEST = 30.0


def random_regions(random, count):
    """Speech of very different lengths and pauses, by several speakers."""
    regions, time = [], random.uniform(0, 3)
    for _ in range(count):
        length = random.choice([0.1, 1, 5, 29.9995, 30, 31, 70, 400]) * random.uniform(0.9, 1.1)
        regions.append(Region(time, time + length, random.choice([None, None, "a", "b"])))
        time += length + random.choice([0, 0.05, 0.5, 0.9, 1.1, 4])
    return regions


def test_packing_loses_and_doubles_nothing():
    """Cut at quiet points, pieces of regions are the regions, each in one window."""
    for seed in range(200):
        generator = random.Random(seed)
        regions = random_regions(generator, 30)
        windows = pack_regions(
            regions, quietest=lambda low, high, draw=generator.uniform: draw(low, high)
        )
        pieces = [piece for window in windows for piece in window.regions]
        joined = []
        for piece in pieces:
            if joined and joined[-1].end == piece.start and piece.start not in starts(regions):
                piece = Region(joined.pop().start, piece.end, piece.speaker)
            joined.append(piece)
        assert joined == regions
        for window in windows:
            assert window.start == window.regions[0].start
            assert window.end == window.regions[-1].end
            first, behind = window.samples(RATE)
            assert behind - first <= LONGEST * RATE
            assert len({piece.speaker for piece in window.regions}) == 1
            assert all(b.start - a.end <= 1.0 for a, b in pairwise(window.regions))
        for left, right in pairwise(windows):
            assert left.samples(RATE)[1] <= right.samples(RATE)[0]


def starts(regions):
    return {region.start for region in regions}


def test_packing_joins_what_fits():
    """Two neighbouring windows are two for a reason: length, silence or speaker."""
    for seed in range(100):
        generator = random.Random(seed)
        windows = pack_regions(random_regions(generator, 30), quietest=lambda low, high: high)
        for left, right in pairwise(windows):
            assert (
                right.regions[0].end - left.start > LONGEST - 0.01
                or right.start - left.end > 1.0
                or left.speaker != right.speaker
            )


@pytest.mark.parametrize("duration", [30.1, 60.2, 90.1, 1000.1])
@pytest.mark.parametrize("choose", [min, max])
def test_a_long_region_is_cut_into_pieces_worth_hearing(duration, choose):
    """No snippet is left over at the end, wherever the quiet points are."""
    windows = pack_regions([Region(0, duration)], quietest=lambda *span: choose(span))
    assert min(window.duration for window in windows) > LONGEST / 4.1


def test_a_search_outside_of_its_span_cannot_break_the_limit():
    windows = pack_regions([Region(5, 100)], quietest=lambda low, high: high + 60)
    assert max(window.duration for window in windows) <= LONGEST


def test_without_a_quiet_point_pieces_overlap():
    """Every moment of speech is heard, and where it is cut, twice."""
    for seed in range(100):
        regions = random_regions(random.Random(seed), 20)
        windows = pack_regions(regions, overlap=3.0)
        assert all(window.duration <= LONGEST for window in windows)
        for region in regions:
            parts = [p for w in windows for p in w.regions if region.start <= p.start < region.end]
            assert (parts[0].start, parts[-1].end) == (region.start, region.end)
            assert {part.speaker for part in parts} == {region.speaker}
            assert all(a.end - b.start == pytest.approx(3.0) for a, b in pairwise(parts))


@pytest.mark.parametrize("duration", [0.01, 29.999, 30, 30.001, 56, 56.01, 82, 3600, 40000])
def test_fixed_windows_cover_the_audio(duration):
    """From the first sample to the last, with as few windows as the overlap allows."""
    windows = fixed_windows(duration, overlap=4.0)
    assert (windows[0].start, windows[-1].end) == (0, duration)
    assert all(window.duration <= LONGEST for window in windows)
    assert all(a.end - b.start == pytest.approx(4.0) for a, b in pairwise(windows))
    # No more than two at any time, or a word could come three times.
    triples = zip(windows, windows[2:], strict=False)
    assert all(a.end < c.start for a, c in triples)
    assert len(windows) <= 2 + (duration - 4) // 25.9


def test_fixed_windows_refuse_an_overlap_that_is_most_of_them():
    with pytest.raises(ValueError, match="at most a third of the 30 s"):
        fixed_windows(100, 30, 11)
    assert fixed_windows(0) == []


def test_overlapping_regions_are_not_packed_silently():
    with pytest.raises(ValueError, match=r"regions overlap at 1\.00 s"):
        pack_regions([Region(0, 2), Region(1, 3)])


def test_margins_stay_within_the_audio_and_half_of_the_gaps():
    for seed in range(100):
        regions = random_regions(random.Random(seed), 10)
        duration = regions[-1].end + 0.05
        padded = pad_regions(regions, 0.2, duration)
        assert len(padded) == len(regions)
        assert all(a.end <= b.start for a, b in pairwise(padded))
        assert padded[0].start >= 0 and padded[-1].end <= duration
        for narrow, wide in zip(regions, padded, strict=True):
            assert wide.start <= narrow.start and narrow.end <= wide.end
            assert wide.duration <= narrow.duration + 0.4 + 1e-9


def test_the_quietest_point_is_the_pause_and_not_a_dip():
    torch.manual_seed(0)
    wav = torch.randn(10 * RATE)
    wav[2 * RATE : 2 * RATE + 800] = 0  # 50 ms, as before a plosive
    wav[7 * RATE : 7 * RATE + 4800] *= 0.01  # 0.3 s
    assert 7.05 < quietest_point(wav, RATE) < 7.25
    assert quietest_point(torch.randn(100), RATE) == pytest.approx(50 / RATE)
