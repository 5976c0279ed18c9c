"""Captions: what fits on a screen, in the order of time, read back by libraries."""

import html
import logging
import unicodedata
import warnings
from datetime import timedelta
from itertools import pairwise

import pytest
from transcripts import random_transcript

from speechbrain_diffasr import Segment, Transcript, Word
from speechbrain_diffasr.text.spacing import split_text
from speechbrain_diffasr.transcripts import CaptionStyle
from speechbrain_diffasr.transcripts.captions import format_srt, format_vtt, make_captions

STYLES = [None, CaptionStyle(20, 1, 3.0, 0.5), CaptionStyle(2, 3), CaptionStyle(80, 2, 10, 2)]


@pytest.fixture(autouse=True)
def no_warnings(caplog):
    """Whatever a reader warns of or logs is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def columns(text):
    """Of a terminal: what is wide takes two, what combines none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me") for c in text)


def without_spaces(text):
    return "".join(text.split())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("timed", [True, False])
def test_captions_are_of_sane_size_and_order(style, timed):
    """Also where several speak at once and words last no time."""
    limits = style or CaptionStyle()
    for seed in range(40):
        transcript = random_transcript(seed, overlap=seed % 2, timed=timed)
        captions = make_captions(transcript, style)
        for caption in captions:
            assert 1 <= len(caption.lines) <= limits.max_lines
            assert all(0 < columns(line) <= limits.max_columns for line in caption.lines)
            assert all(line == " ".join(line.split()) for line in caption.lines)
            longest = max(limits.max_seconds, limits.min_seconds)
            if len(split_text(" ".join(caption.lines))) > 1:
                assert caption.end - caption.start <= 1000 * longest + 1
            assert 0 <= caption.start < caption.end
        assert all(a.end <= b.start for a, b in pairwise(captions))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("timed", [True, False])
def test_captions_lose_no_character(style, timed):
    for seed in range(40):
        transcript = random_transcript(seed, timed=timed)
        shown = "".join("".join(c.lines) for c in make_captions(transcript, style))
        assert without_spaces(shown) == without_spaces(transcript.text)


def test_captions_stand_where_the_words_are():
    """A caption begins with its first word and ends no earlier than its last one does."""
    for seed in range(40):
        transcript = random_transcript(seed, nasty=False, speakers=[None])
        words = iter(transcript.words)
        free = 0
        for caption in make_captions(transcript):
            rest = without_spaces("".join(caption.lines))
            own = []
            while rest:
                own.append(next(words))
                assert rest.startswith(own[-1].text)
                rest = rest[len(own[-1].text) :]
            # Captions of words that last no time push the next ones.
            assert caption.start == max(round(1000 * own[0].start), free)
            assert caption.end >= min(round(1000 * own[-1].end), caption.start + 500)
            free = caption.end


def test_a_caption_does_not_show_what_is_said_after_a_pause():
    words = [Word("Wait", 0.0, 0.5, 1, False), Word("for", 0.6, 0.8, 1, True)]
    words += [Word("it.", 4.0, 4.4, 1, True)]
    transcript = Transcript((Segment.from_words(words),), 6.0, name="x.wav")
    captions = make_captions(transcript)
    assert [(caption.start, caption.lines) for caption in captions] == [
        (0, ("Wait for",)),
        (4000, ("it.",)),
    ]


def test_who_began_first_gives_way():
    """The caption of who interrupts stands with their words."""
    parts = [Segment(0, 5, "So I told them", (), "a"), Segment(2, 4, "Stop!", (), "b")]
    captions = make_captions(Transcript(parts, 6.0, name="x.wav"))
    assert [(caption.start, caption.end) for caption in captions] == [(0, 2000), (2000, 4000)]


def test_cuts_lie_at_the_ends_of_sentences_and_lines_are_balanced():
    text = "The first sentence is here. The second one follows it at once, and it is longer. Done."
    captions = make_captions(Transcript((Segment(0, 8, text),), 8.0, name="x.wav"))
    assert [caption.lines for caption in captions] == [
        ("The first sentence is here.",),
        ("The second one follows it at once,", "and it is longer. Done."),
    ]


def test_chinese_is_cut_between_characters_and_not_before_a_mark():
    text = "今天天气很好，我们去公园走走，然后回家吃饭，看电视，睡觉。" * 3
    captions = make_captions(Transcript((Segment(0, 30, text),), 30.0, name="x.wav"))
    lines = [line for caption in captions for line in caption.lines]
    assert "".join(lines) == text
    assert all(len(line) <= 21 and line[0] not in "，。" for line in lines)


def test_segments_of_one_speaker_flow_into_one_caption():
    """A seam between two windows is not seen."""
    parts = [
        Segment(0, 1, "one", (), "a"),
        Segment(1, 2, "two", (), "a"),
        Segment(2, 3, "ok", (), "b"),
    ]
    captions = make_captions(Transcript(parts, 4.0, name="x.wav"))
    assert [caption.lines for caption in captions] == [("one two",), ("ok",)]


def test_a_style_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="captions of 0 lines, 42 columns"):
        CaptionStyle(max_lines=0)
    with pytest.raises(ValueError, match="at least 1, 2 and more than 0"):
        CaptionStyle(max_columns=1)


def in_ms(time):
    """Of "01:02:03.004"."""
    hours, minutes, seconds = time.replace(",", ".").split(":")
    delta = timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    return round(delta / timedelta(milliseconds=1))


def test_webvtt_py_reads_vtt():
    """Times, texts and voices; the escapes of HTML are undone by whoever shows it."""
    webvtt = pytest.importorskip("webvtt")
    for seed in range(40):
        transcript = random_transcript(seed, overlap=seed % 2)
        read = list(webvtt.from_string(format_vtt(transcript)))
        captions = make_captions(transcript)
        assert [html.unescape(r.text) for r in read] == ["\n".join(c.lines) for c in captions]
        assert [in_ms(r.start) for r in read] == [c.start for c in captions]
        assert [in_ms(r.end) for r in read] == [c.end for c in captions]
        voices = [None if r.voice is None else html.unescape(r.voice) for r in read]
        assert voices == [c.speaker for c in captions]


def as_in_srt(caption):
    """What is to be read: nothing that could be taken for an arrow or a tag."""
    text = "\n".join(caption.lines)
    for before, after in [("-->", "→"), ("<b>", "‹b>"), ("</v>", "‹/v>"), ("a<b", "a‹b")]:
        text = text.replace(before, after)
    return text.replace("<Co>", "‹Co>").replace("{\\", "(\\")


def test_webvtt_py_reads_srt(tmp_path):
    webvtt = pytest.importorskip("webvtt")
    path = tmp_path / "x.srt"
    for seed in range(40):
        transcript = random_transcript(seed, overlap=seed % 2)
        path.write_text(format_srt(transcript), encoding="utf-8")
        captions = make_captions(transcript, label_speakers=True)
        if not captions:
            assert path.read_text() == ""
            continue
        read = list(webvtt.from_srt(path))
        assert [r.text for r in read] == [as_in_srt(c) for c in captions]
        assert [in_ms(r.start) for r in read] == [c.start for c in captions]
        assert [in_ms(r.end) for r in read] == [c.end for c in captions]


def test_pysubs2_reads_srt_and_vtt():
    """It takes tags out, so that any that were left would be missed."""
    pysubs2 = pytest.importorskip("pysubs2")
    for seed in range(40):
        transcript = random_transcript(seed)
        captions = make_captions(transcript, label_speakers=True)
        if captions:
            read = pysubs2.SSAFile.from_string(format_srt(transcript), format_="srt")
            assert [line.plaintext for line in read] == [as_in_srt(c) for c in captions]
            assert [(line.start, line.end) for line in read] == [(c.start, c.end) for c in captions]
        transcript = random_transcript(seed, nasty=False)
        captions = make_captions(transcript)
        if captions:
            read = pysubs2.SSAFile.from_string(format_vtt(transcript), format_="vtt")
            assert [line.plaintext for line in read] == ["\n".join(c.lines) for c in captions]
            assert [(line.start, line.end) for line in read] == [(c.start, c.end) for c in captions]


def test_speakers_are_named_where_they_change():
    parts = [
        Segment(0, 1, "Tea?", (), "a"),
        Segment(2.5, 3, "Now?", (), "a"),
        Segment(3, 4, "No.", (), "b"),
    ]
    transcript = Transcript(parts, 5.0, name="x.wav")
    shown = [caption.lines for caption in make_captions(transcript, label_speakers=True)]
    assert shown == [("a: Tea?",), ("Now?",), ("b: No.",)]


def test_nothing_said_is_nothing_shown():
    silent = Transcript((Segment(0, 5, " "),), 5.0, name="x.wav")
    assert format_srt(silent) == ""
    assert format_vtt(silent) == "WEBVTT\n"


def test_control_characters_and_line_breaks_do_not_reach_the_file():
    text = "one\n\n2\n00:00:01,000 --> 00:00:02,000\x00\x1b[31m \ud800 end"
    transcript = Transcript((Segment(0, 5, text),), 5.0, name="x.wav")
    for written in (format_srt(transcript), format_vtt(transcript)):
        assert written.count("-->") == len(make_captions(transcript))
        assert "\x00" not in written and "\x1b" not in written
        written.encode("utf-8")
