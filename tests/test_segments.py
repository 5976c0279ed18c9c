"""Segments, windows and seams: nothing is lost and nothing doubled."""

import random
from dataclasses import replace
from itertools import pairwise

import jiwer
import pytest
import torch

from speechbrain_diffasr import Segment, Transcript, Word
from speechbrain_diffasr.segmentation import Region
from speechbrain_diffasr.segmentation.levels import quietest_point
from speechbrain_diffasr.segmentation.regions import pad_regions
from speechbrain_diffasr.segmentation.windows import fixed_windows, pack_regions
from speechbrain_diffasr.text.spacing import join_texts, join_words
from speechbrain_diffasr.transcripts.stitching import join_overlapping

RATE = 16000
LONGEST = 30.0
# Few enough that words come again within an overlap.
VOCABULARY = [f"w{number}" for number in range(18)]


def random_regions(random, count):
    """Speech of very different lengths and pauses, by several speakers."""
    regions, time = [], random.uniform(0, 3)
    for _ in range(count):
        length = random.choice([0.1, 1, 5, 29.9995, 30, 31, 70, 400]) * random.uniform(0.9, 1.1)
        regions.append(Region(time, time + length, random.choice([None, None, "a", "b"])))
        time += length + random.choice([0, 0.05, 0.5, 0.9, 1.1, 4])
    return regions


def random_speech(random, seconds):
    """Words one after another, with pauses."""
    words, time = [], random.uniform(0, 1)
    while time < seconds - 0.7:
        end = time + random.uniform(0.15, 0.6)
        words.append(Word(random.choice(VOCABULARY), time, end, 1.0, bool(words)))
        time = end + random.choice([0, 0, 0, 0.1, 0.4])
        if random.random() < 0.02:
            time += random.uniform(2, 9)
    return words


def hear(words, window, random, jitter, timed):
    """What a recognizer makes of a window: wrong words at its edges, times a little off."""
    heard = []
    for word in words:
        if word.end <= window.start or word.start >= window.end:
            continue
        if word.start < window.start or word.end > window.end:
            text = random.choice([word.text, "", "uh"])
            if not text:
                continue
            word = replace(word, text=text)
        shift = random.uniform(-jitter, jitter)
        start = min(max(word.start + shift, window.start), window.end)
        heard.append(replace(word, start=start, end=min(word.end + shift, window.end)))
    segment = Segment.from_words(heard, window.start, window.end)
    return segment if timed else replace(segment, words=())


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


@pytest.mark.parametrize("timed", [True, False])
def test_windows_that_overlap_are_joined_without_a_trace(timed):
    """Heard in windows with wrong words at each edge, the text is that of the whole."""
    texts, found = [], []
    for seed in range(60):
        generator = random.Random(seed)
        words = random_speech(generator, seconds=150)
        windows = fixed_windows(150, overlap=4.0)
        heard = [hear(words, window, generator, 0.1, timed) for window in windows]
        joined = join_overlapping(heard)
        texts.append(" ".join(word.text for word in words))
        found.append(join_texts(segment.text for segment in joined))
        assert all(a.end <= b.start for a, b in pairwise(joined))
        if timed:
            assert [part.text for part in joined] == [join_words(part.words) for part in joined]
    if timed:
        assert found == texts
    else:
        # Where a seam lies in a pause, or in "no no no", the text alone cannot always tell.
        assert jiwer.wer(texts, found) < 0.005


def test_seams_in_a_text_without_spaces():
    """Characters are the words of Chinese."""
    first = Segment(0, 10, "今天天气很好我们去公园走走然后回家吃")
    second = Segment(6, 16, "园走走然后回家吃饭看电视睡觉")
    joined = join_overlapping([first, second])
    assert (
        join_texts(part.text for part in joined)
        == "今天天气很好我们去公园走走然后回家吃饭看电视睡觉"
    )


def words_at(text, start, step=0.5):
    return [
        Word(word, start + place * step, start + (place + 1) * step, 0.9, place > 0)
        for place, word in enumerate(text.split())
    ]


def test_what_only_one_window_heard_is_kept():
    """A window that hears nothing, or nothing of the overlap, takes no words from the other."""
    spoken = Segment.from_words(words_at("one two three four", 26.0), 26.0, 56.0)
    assert join_overlapping([Segment(0.0, 30.0, ""), spoken]) == [spoken]
    assert join_overlapping([spoken, Segment(52.0, 82.0, "")]) == [spoken]
    early = Segment.from_words(words_at("and so on", 0.0), 0.0, 30.0)
    assert [part.text for part in join_overlapping([early, spoken])] == [early.text, spoken.text]


def test_what_both_heard_differently_comes_once():
    """Without a word in common, every moment is written by one of the two."""
    first = Segment.from_words(words_at("ice cream for me too", 26.0, 0.8), 0.0, 30.0)
    second = Segment.from_words(words_at("I scream four mitre tool", 26.0, 0.8), 26.0, 56.0)
    joined = join_overlapping([first, second])
    assert len([word for part in joined for word in part.words]) == 5
    assert all(a.end <= b.start for a, b in pairwise(word for p in joined for word in p.words))


def test_what_a_window_invents_at_its_edge_does_not_replace_a_word():
    """One sure word, and in its place a doubtful one with a sound before it that is none."""
    sure = Word("careful", 28.8, 29.4, 0.9, False)
    doubtful = Word("k", 26.3, 27.8, 0.1, False), Word("cairful", 28.5, 29.4, 0.5, True)
    first = Segment.from_words([sure], 0.0, 30.0)
    second = Segment.from_words(doubtful, 26.0, 56.0)
    assert [part.text for part in join_overlapping([first, second])] == ["careful"]
    first = Segment.from_words(doubtful, 0.0, 30.0)
    second = Segment.from_words([sure], 26.0, 56.0)
    assert [part.text for part in join_overlapping([first, second])] == ["careful"]


def test_a_doubtful_word_that_nothing_contradicts_is_kept():
    first = Segment.from_words([Word("yes", 28.8, 29.4, 0.4, False)], 0.0, 30.0)
    second = Segment.from_words(words_at("we do", 40.0), 26.0, 56.0)
    assert [part.text for part in join_overlapping([first, second])] == ["yes", "we do"]


def test_a_word_said_again_and_again_is_not_merged():
    """Times tell the repetitions apart."""
    first = Segment.from_words(words_at("no " * 60, 0.0), 0.0, 30.0)
    second = Segment.from_words(words_at("no " * 60, 26.1), 26.0, 56.2)
    assert len([word for part in join_overlapping([first, second]) for word in part.words]) == 112


def test_repetitions_are_matched_by_their_times():
    """Each window misheard one at its edge, so that one place further more words are equal."""
    first = Segment.from_words(words_at("one " + "no " * 9 + "uh", 26.0, 0.4), 0.0, 30.4)
    second = Segment.from_words(words_at("uh " + "no " * 9 + "two", 26.4, 0.4), 26.4, 56.0)
    joined = join_overlapping([first, second])
    assert join_texts(part.text for part in joined) == "one " + "no " * 10 + "two"


def test_a_word_said_twice_of_which_each_window_missed_one():
    """Further apart than the tolerance, equal words are two."""
    first = Segment.from_words(words_at("so yes", 25.5), 0.0, 30.0)
    second = Segment.from_words(words_at("yes we", 26.8), 26.0, 56.0)
    joined = join_overlapping([first, second])
    assert [part.text for part in joined] == ["so yes", "yes we"]


def test_segments_side_by_side_are_left_as_they_are():
    parts = [Segment(0, 1, "no", speaker="a"), Segment(1, 2, "no", speaker="b")]
    assert join_overlapping(parts) == parts


def test_a_transcript_is_in_the_order_of_time():
    parts = [Segment(5, 6, "b."), Segment(1, 2, "a."), Segment(7, 8, ""), Segment(8, 9, "c.")]
    transcript = Transcript(parts, 9.0, name="x.wav")
    assert transcript.text == "a. b. c."


@pytest.mark.parametrize("start, end", [(2, 1), (-1, 1), (0, float("inf")), (float("nan"), 1)])
def test_times_that_are_none_are_refused(start, end):
    for kind in (lambda: Region(start, end), lambda: Segment(start, end, "")):
        with pytest.raises(ValueError, match="must start at 0 or later"):
            kind()
