"""Segments and seams: nothing is lost and nothing doubled."""

import random
from dataclasses import replace
from itertools import pairwise

import jiwer
import pytest

from speechbrain_diffasr import Segment, Transcript, Word
from speechbrain_diffasr.segmentation import Region
from speechbrain_diffasr.segmentation.windows import fixed_windows
from speechbrain_diffasr.text.spacing import join_texts, join_words
from speechbrain_diffasr.transcripts.stitching import join_overlapping

RATE = 16000
LONGEST = 30.0
# Few enough that words come again within an overlap.
VOCABULARY = [f"w{number}" for number in range(18)]


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
