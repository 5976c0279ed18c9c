"""Files of every format, read back by libraries that others wrote."""

import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
from transcripts import random_transcript

from speechbrain_diffasr import Segment, Transcript
from speechbrain_diffasr.segmentation import read_rttm
from speechbrain_diffasr.transcripts import FORMATS, SCHEMA, parse_json, write_transcript
from speechbrain_diffasr.transcripts.schema import format_json
from speechbrain_diffasr.transcripts.writers import (
    format_ctm,
    format_rttm,
    format_text,
    format_textgrid,
)
from speechbrain_diffasr.utils.atomic import remove_leftovers
from speechbrain_diffasr.utils.errors import WriterError

TALK = 5  # seed of a transcript in which something is said


@pytest.fixture(autouse=True)
def no_warnings(caplog):
    """Whatever a reader warns of or logs is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def written(transcript, kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    write_transcript(path, transcript)
    return path


# JSON


def test_json_fits_its_schema_and_comes_back():
    """The schema is valid by its own standard, and so is what is written."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for seed in range(30):
        transcript = random_transcript(seed, overlap=seed % 2, timed=seed % 3)
        text = format_json(transcript)
        jsonschema.validate(json.loads(text), SCHEMA)
        assert parse_json(text) == transcript


def test_json_of_a_file_whose_name_is_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    path = tmp_path / "x.json"
    write_transcript(path, Transcript((), 1.0, name=name))
    assert json.loads(path.read_text(encoding="utf-8"))["audio"] == name


@pytest.mark.parametrize(
    "change, reason",
    [
        (
            lambda c: c.update(version=3),
            "version 3 of the format; this program reads version 1 and 2",
        ),
        (lambda c: c.update(format="x"), "field 'format' is not 'diffasr-transcript'"),
        (lambda c: c.pop("duration"), "no field 'duration'; transcribe again"),
        (lambda c: c["segments"][0].pop("end"), "no field 'end'; transcribe again"),
        (lambda c: c["segments"][0].update(end=-1), "must start at 0 or later"),
        (lambda c: c["segments"][0].update(start=None), "transcribe again"),
        (lambda c: c["segments"][0]["words"][0].pop("space"), "'space'; transcribe again"),
    ],
)
def test_json_that_is_no_transcript(change, reason):
    content = json.loads(format_json(random_transcript(TALK)))
    change(content)
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(json.dumps(content), "a.json")
    assert str(caught.value).startswith("a.json: ")
    for text in ("[]", "{", ""):
        with pytest.raises(ValueError, match=r"a\.json: "):
            parse_json(text, "a.json")


# CTM and RTTM


def test_lhotse_reads_ctm(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    for seed in range(20):
        transcript = random_transcript(seed)
        path = written(transcript, "ctm", tmp_path)
        whole = lhotse.SupervisionSegment("whole", "day_1", 0.0, transcript.duration)
        read = lhotse.SupervisionSet.from_segments([whole]).with_alignment_from_ctm(path)
        found = next(iter(read)).alignment["word"]
        assert [item.symbol for item in found] == [word.text for word in transcript.words]
        for item, word in zip(found, transcript.words, strict=True):
            assert item.start == pytest.approx(word.start, abs=1e-6)
            assert item.end == pytest.approx(word.end, abs=1e-6)
            assert item.score == pytest.approx(word.confidence, abs=1e-6)


def test_ctm_is_in_the_order_of_time():
    """Also where two speak at once, as sclite demands."""
    for seed in range(20):
        lines = format_ctm(random_transcript(seed, overlap=True)).splitlines()
        starts = [float(line.split()[2]) for line in lines]
        assert starts == sorted(starts)


def test_ctm_needs_times():
    with pytest.raises(
        WriterError, match=r"segment at 0\.50 s has none; transcribe with word times"
    ):
        format_ctm(Transcript((Segment(0.5, 2, "Hello."),), 2.0, name="a.wav"))
    assert format_ctm(Transcript((Segment(0.5, 2, ""),), 2.0, name="a.wav")) == ""


def test_pyannote_reads_rttm(tmp_path):
    """Turns without the words between them, and the words without the turns."""
    load_rttm = pytest.importorskip("pyannote.database.util").load_rttm
    for seed in range(20):
        transcript = random_transcript(seed, overlap=True)
        if not transcript.segments:
            continue
        path = written(transcript, "rttm", tmp_path)
        names = {None: "unknown", "spk 1": "spk_1", 'O"Neil & <Co>': "O'Neil_&_<Co>"}
        for kind, parts in [
            ("SPEAKER", [(part, part.speaker) for part in transcript.segments]),
            ("LEXEME", [(w, part.speaker) for part in transcript.segments for w in part.words]),
        ]:
            turns = load_rttm(path, keep_type=kind)["day_1"]
            found = sorted(
                (s.start, s.end, name) for s, _, name in turns.itertracks(yield_label=True)
            )
            expected = sorted(
                (part.start, part.end, names.get(speaker, speaker))
                for part, speaker in parts
                if part.end > part.start
            )
            assert [row[2] for row in found] == [row[2] for row in expected]
            for place in (0, 1):
                times = [row[place] for row in expected]
                assert [row[place] for row in found] == pytest.approx(times, abs=1e-6)


def test_speechbrain_writes_and_reads_the_same_rttm(tmp_path):
    """The lines of the turns are those of its write_rttm, byte for byte."""
    pytest.importorskip("sklearn", reason="SpeechBrain's diarization needs scikit-learn")
    from speechbrain.integrations.alignment import diarization

    for seed in range(20):
        transcript = random_transcript(seed, speakers=["anna", "ben"])
        if not transcript.segments:
            continue
        path = written(transcript, "rttm", tmp_path)
        rows = [["day_1", part.start, part.end, part.speaker] for part in transcript.segments]
        diarization.write_rttm(rows, tmp_path / "own.rttm")
        own = diarization.read_rttm(tmp_path / "own.rttm")
        assert [line for line in diarization.read_rttm(path) if line.startswith("SPEAKER")] == own
        found = read_rttm(path, "day_1")
        assert found == read_rttm(tmp_path / "own.rttm")


def test_rttm_has_the_columns_of_the_standard():
    """Ten in each line whatever the words are, and no text in those of turns."""
    transcript = random_transcript(TALK)
    lines = [line.split(" ") for line in format_rttm(transcript).splitlines()]
    assert {len(line) for line in lines} == {10}
    assert {line[5] for line in lines if line[0] == "SPEAKER"} == {"<NA>"}
    words = [line[5] for line in lines if line[0] == "LEXEME"]
    assert words == [word.text.replace('"', "'") for word in transcript.words]


# TextGrid


def test_praat_reads_textgrids(tmp_path):
    """Every tier covers the recording without a gap, and its labels are the texts."""
    parselmouth = pytest.importorskip("parselmouth")
    call = parselmouth.praat.call
    for seed in range(20):
        transcript = random_transcript(seed)
        grid = parselmouth.read(str(written(transcript, "textgrid", tmp_path)))
        tiers = {}
        for tier in range(1, call(grid, "Get number of tiers") + 1):
            count = call(grid, "Get number of intervals", tier)
            tiers[call(grid, "Get tier name", tier)] = [
                (
                    call(grid, "Get start time of interval", tier, place),
                    call(grid, "Get end time of interval", tier, place),
                    call(grid, "Get label of interval", tier, place),
                )
                for place in range(1, count + 1)
            ]
        for rows in tiers.values():
            assert (rows[0][0], rows[-1][1]) == (0, pytest.approx(transcript.duration, abs=0.1))
            assert all(a[1] == b[0] for a, b in pairwise(rows))
            assert all(start < end for start, end, _ in rows)
        if not transcript.segments:
            assert [row[2] for row in tiers["segments"]] == [""]
        for speaker in {segment.speaker for segment in transcript.segments}:
            prefix = "" if speaker is None else f"{speaker}: "
            own = [segment for segment in transcript.segments if segment.speaker == speaker]
            assert labels(tiers[f"{prefix}segments"]) == [segment.text for segment in own]
            words = [word for segment in own for word in segment.words]
            rows = [row for row in tiers[f"{prefix}words"] if row[2]]
            assert labels(rows) == [word.text for word in words]
            for row, word in zip(rows, words, strict=True):
                # Words of no length push others, by 1 ms each.
                assert row[0] == pytest.approx(word.start, abs=0.03)


def labels(rows):
    return [label for _, _, label in rows if label]


def test_textgrid_of_people_who_speak_at_once():
    """Each has tiers of their own, so that nobody's times change."""
    parts = Segment(0, 2, "one", (), "a"), Segment(1, 3, "two", (), "b")
    text = format_textgrid(Transcript(parts, 4.0, name="x.wav"))
    for line in ('name = "a: segments"', 'name = "b: segments"', "xmin = 1.000", "xmax = 2.000"):
        assert line in text


# Text


def test_text_is_one_line_or_a_line_for_each_turn(tmp_path):
    parts = [Segment(0, 1, "Good\nmorning."), Segment(1, 2, ""), Segment(2, 3, "Tea?")]
    assert format_text(Transcript(parts, 4.0, name="x.wav")) == "Good morning. Tea?\n"
    assert format_text(Transcript((), 4.0, name="x.wav")) == "\n"
    parts = [Segment(0, 1, "Yes.", (), "a"), Segment(1, 2, "So.", (), "a"), Segment(3, 4, "No.")]
    assert format_text(Transcript(parts, 4.0, name="x.wav")) == "a: Yes. So.\nNo.\n"


# Writing


def test_what_cannot_be_written_gets_one_line(tmp_path):
    transcript = random_transcript(TALK)
    untimed = random_transcript(TALK, timed=False)
    for path, kind, what, reason in [
        (
            tmp_path / "x.doc",
            None,
            transcript,
            r"x\.doc: its ending names no format; known are txt",
        ),
        (tmp_path / "x", "doc", transcript, "x: unknown format 'doc'"),
        (tmp_path / "x.ctm", None, untimed, r"x\.ctm: CTM needs the times of words"),
        (tmp_path / "no" / "x.srt", None, transcript, "cannot be written .No such file"),
        (tmp_path, "srt", transcript, "cannot be written .Is a directory"),
        (Path("/dev/full"), "srt", transcript, "/dev/full: cannot be written .No space left"),
    ]:
        with pytest.raises(WriterError, match=reason) as caught:
            write_transcript(path, what, kind)
        assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, kind):
    path = tmp_path / f"x.{kind}"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriterError, match="No space left"):
        write_transcript(path, random_transcript(TALK))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_permissions_stay(tmp_path):
    target, link = tmp_path / "target.srt", tmp_path / "link.srt"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_transcript(link, random_transcript(TALK))
    assert link.is_symlink() and target.read_text().startswith("1\n")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_killed_process_leaves_the_old_file_or_the_new_one(tmp_path):
    """Killed while it writes 8 MB again and again; what it leaves beside is removed."""
    path = tmp_path / "x.txt"
    texts = {letter: letter * 8_000_000 for letter in "ab"}
    path.write_text(texts["a"])
    program = (
        "import sys\n"
        "from speechbrain_diffasr.utils.atomic import write_atomically\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for letter in 'ab':\n"
        "        write_atomically(sys.argv[1], letter * 8_000_000)\n"
    )
    left = 0
    for seed in range(10):
        process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
        process.stdout.readline()
        remove_leftovers(tmp_path)
        time.sleep(random.Random(seed).uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "a file of a running process was taken away"
        process.stdout.close()
        assert path.read_text() in texts.values()
        left += len(os.listdir(tmp_path)) - 1
    assert left > 0, "no kill came while the file was written"
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_running_processes_stay(tmp_path):
    own = tmp_path / f".diffasr-{os.getpid()}-0.tmp"
    others = tmp_path / "notes.tmp"
    own.touch()
    others.touch()
    remove_leftovers(tmp_path)
    assert own.exists() and others.exists()


def test_the_project_reads_the_turns_that_it_writes(tmp_path):
    transcript = random_transcript(TALK, speakers=["anna"])
    found = read_rttm(written(transcript, "rttm", tmp_path))
    assert [turn.start for turn in found] == [part.start for part in transcript.segments]
    assert [turn.end for turn in found] == pytest.approx([p.end for p in transcript.segments])
    assert {turn.speaker for turn in found} == {"anna"}
