"""Turns of speakers: as SpeechBrain's diarization writes them, and what becomes of them."""

import random
from itertools import pairwise

import numpy as np
import pytest

from speechbrain_diffasr import Segment, Word
from speechbrain_diffasr.segmentation import Region, flatten_turns, read_rttm
from speechbrain_diffasr.segmentation.regions import merge_regions
from speechbrain_diffasr.transcripts.assembly import attribute_speakers


def random_turns(generator, count, speakers):
    """Turns on a grid of tenths, so that edges meet often."""
    turns = []
    for _ in range(count):
        start = generator.randrange(0, 100)
        end = start + generator.randrange(1, 30)
        turns.append(Region(start / 10, end / 10, generator.choice(speakers)))
    return turns


def covered(regions):
    """Middles of the fine steps of time that are in a region."""
    grid = np.arange(0.0005, 14, 0.001)
    return {
        float(time)
        for region in regions
        for time in grid[(grid > region.start) & (grid < region.end)]
    }


@pytest.fixture(scope="module")
def diarization():
    pytest.importorskip("sklearn", reason="SpeechBrain's diarization needs scikit-learn")
    from speechbrain.integrations.alignment import diarization

    return diarization


def test_what_speechbrain_s_clustering_writes(diarization, tmp_path):
    """Two speakers in sub-segments of 3 s every 1.5 s, clustered and written by SpeechBrain."""
    from speechbrain.processing.PLDA_LDA import StatObject_SB

    generator = np.random.default_rng(0)
    voices = generator.normal(size=(2, 32))
    starts = np.arange(0, 60, 1.5)
    who = (starts // 12).astype(int) % 2
    embeddings = voices[who] + 0.1 * generator.normal(size=(len(starts), 32))
    names = np.array([f"ES2014c_{start}_{start + 3.0}" for start in starts], dtype="|O")
    diary = StatObject_SB(names, names, starts, starts + 3, np.ones((len(starts), 1)), embeddings)
    path = tmp_path / "ES2014c.rttm"
    diarization.do_spec_clustering(diary, str(path), "ES2014c", 2, 0.3, "cos", 10)
    turns = read_rttm(path)
    rows = [line.split(" ") for line in diarization.read_rttm(path)]
    assert [(t.start, round(t.duration, 4), t.speaker) for t in turns] == [
        (float(row[3]), float(row[4]), row[7]) for row in rows
    ]
    assert len(turns) == 5 and len({turn.speaker for turn in turns}) == 2
    assert [turn.start for turn in turns] == pytest.approx([0, 12.75, 24.75, 36.75, 48.75], abs=0.8)
    # SpeechBrain has divided the overlaps already, so there is nothing left to do.
    assert flatten_turns(turns) == turns


def test_what_speechbrain_s_write_rttm_writes(diarization, tmp_path):
    for seed in range(50):
        turns = random_turns(random.Random(seed), 9, ["a", "b", "c"])
        path = tmp_path / "x.rttm"
        rows = [["x", turn.start, turn.end, turn.speaker] for turn in turns]
        diarization.write_rttm(rows, path)
        found = read_rttm(path, "x")
        expected = sorted(turns, key=lambda turn: (turn.start, turn.end))
        assert [turn.start for turn in found] == [turn.start for turn in expected]
        assert [turn.end for turn in found] == pytest.approx([turn.end for turn in expected])


def test_merging_keeps_all_speech_and_no_overlap():
    for seed in range(200):
        generator = random.Random(seed)
        regions = random_turns(generator, 12, ["a", "b"])
        merged = merge_regions(regions)
        assert covered(merged) == covered(regions)
        assert all(a.end < b.start for a, b in pairwise(merged))


def test_flat_turns_give_every_moment_to_one_of_those_who_speak():
    """Nothing is lost, nothing is doubled, and nobody gets time that was not theirs."""
    for seed in range(200):
        turns = random_turns(random.Random(seed), 8, ["a", "b", "c"])
        flat = flatten_turns(turns)
        assert all(left.end <= right.start for left, right in pairwise(flat))
        assert covered(flat) == covered(turns)
        for speaker in "abc":
            own = [turn for turn in turns if turn.speaker == speaker]
            given = [turn for turn in flat if turn.speaker == speaker]
            assert covered(given) <= covered(own)
        assert flatten_turns(flat) == flat


def test_overlaps_are_divided_as_speechbrain_divides_them(diarization):
    """Turns of which each runs into the next at most."""
    for seed in range(50):
        generator = random.Random(seed)
        rows, end = [], 0.0
        for place in range(10):
            start = end - generator.choice([-1.0, 0.25, 0.5])
            end = start + generator.uniform(2, 5)
            rows.append(["x", max(0.0, start), end, "abc"[place % 3]])
        flat = flatten_turns([Region(*row[1:]) for row in rows])
        expected = diarization.distribute_overlap(rows)
        assert [turn.speaker for turn in flat] == [row[3] for row in expected]
        found = [time for turn in flat for time in (turn.start, turn.end)]
        assert found == pytest.approx([time for row in expected for time in row[1:3]])


def test_a_turn_inside_of_another_keeps_its_time():
    """However many are inside of each other."""
    turns = [Region(0, 10, "a"), Region(2, 8, "b"), Region(4, 5, "c"), Region(10, 11, "a")]
    assert flatten_turns(turns) == [
        Region(0, 2, "a"),
        Region(2, 4, "b"),
        Region(4, 5, "c"),
        Region(5, 8, "b"),
        Region(8, 11, "a"),
    ]


def test_words_go_to_the_speaker_of_their_time():
    """None is lost or moved, and each is with a turn that it touches, or the nearest."""
    for seed in range(100):
        generator = random.Random(seed)
        turns = random_turns(generator, 6, ["a", "b"])
        words, time = [], 0.0
        for place in range(30):
            end = time + generator.uniform(0.05, 0.5)
            words.append(Word(f"w{place}", time, end, 0.5, place > 0))
            time = end + generator.choice([0, 0.2])
        segments = [Segment.from_words(words[:10]), Segment.from_words(words[10:], language="en")]
        parts = attribute_speakers(segments, turns)
        assert " ".join(part.text for part in parts) == " ".join(word.text for word in words)
        assert (parts[0].start, parts[-1].end) == (segments[0].start, segments[1].end)
        assert all(left.end <= right.start + 1e-9 for left, right in pairwise(parts))
        assert parts[-1].language == "en"
        flat = flatten_turns(turns)
        for part in parts:
            for word in part.words:
                distances = {}
                for turn in flat:
                    gap = max(turn.start - word.end, word.start - turn.end)
                    distances[turn.speaker] = min(gap, distances.get(turn.speaker, gap))
                if min(distances.values()) > 1.0:
                    assert part.speaker is None
                elif distances[part.speaker] > 0:
                    assert distances[part.speaker] == min(distances.values())


def test_a_segment_without_word_times_belongs_to_who_speaks_most_of_it():
    turns = [Region(0, 2, "anna"), Region(2, 2.5, "carl"), Region(2.5, 7, "ben")]
    found = attribute_speakers([Segment(1, 4, "yes"), Segment(20, 21, "no")], turns)
    assert [part.speaker for part in found] == ["ben", None]
    assert attribute_speakers([Segment(1, 4, "yes")], []) == [Segment(1, 4, "yes")]
