"""The edges of words between frames and pauses."""

import random

import pytest

from speechbrain_diffasr.transcripts.alignment import place_edges


@pytest.mark.parametrize("seed", range(200))
def test_edges_rise_and_stay_inside(seed):
    rng = random.Random(seed)
    frame, duration = rng.choice([0.08, 0.16]), rng.uniform(0.01, 6.0)
    marks = sorted(rng.uniform(0, duration) for _ in range(2 * rng.randint(1, 12)))
    if rng.random() < 0.5:  # words side by side, as when they are spread
        marks = sorted(marks[::2] * 2)[1:-1] or marks[:2]
    spans = list(zip(marks[::2], marks[1::2], strict=True))
    silent = sorted(rng.uniform(0, duration) for _ in range(2 * rng.randint(0, 5)))
    pauses = list(zip(silent[::2], silent[1::2], strict=True))
    if pauses and rng.random() < 0.5:
        pauses[0], pauses[-1] = (0.0, pauses[0][1]), (pauses[-1][0], duration)
    edges = place_edges(spans, pauses, duration, frame)
    assert len(edges) == len(spans)
    times = [time for edge in edges for time in edge]
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] <= duration + 1e-9
    assert all(start < end for (start, end), (a, b) in zip(edges, spans, strict=True) if a < b)


def test_a_pause_belongs_to_no_word_and_a_gap_to_both():
    spans = [(0.5, 0.66), (0.98, 1.14), (2.1, 2.26)]
    edges = place_edges(spans, [(0.0, 0.4), (1.3, 2.0), (2.7, 3.0)], 3.0, 0.16)
    (first, second, third) = edges
    assert (first[0], second[1], *third) == (0.4, 1.3, 2.0, 2.7)
    assert first[1] == second[0] == pytest.approx(0.66 + 0.6 * 0.32)


def test_a_word_that_is_recognized_in_silence_starts_with_its_sound():
    edges = place_edges([(0.0, 0.08), (0.96, 1.04)], [(0.0, 0.3)], 1.5, 0.08)
    assert edges[0][0] == 0.3
    edges = place_edges([(0.0, 0.08), (0.32, 0.4), (1.2, 1.28)], [(0.2, 0.7)], 1.5, 0.08)
    assert edges[0][1] == 0.2 and edges[1][0] == 0.7


def test_without_a_pause_words_do_not_fill_a_long_gap():
    (first, second) = place_edges([(0.1, 0.3), (5.0, 5.2)], [], 9.0, 0.16)
    assert first[1] == pytest.approx(0.7) and second == pytest.approx((4.6, 5.6))
    assert place_edges([], [], 1.0, 0.16) == []
