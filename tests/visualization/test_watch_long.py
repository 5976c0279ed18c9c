"""Recordings that are longer than the model hears at once, watched window by window."""

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import wcwidth
from terminals import PROMPT, visible, watch_files

from speechbrain_diffasr import AudioError, DiffusionASR, cli, shipped_model
from speechbrain_diffasr.dataio import load_audio

SAMPLES = Path(shipped_model("diffasr-tiny")) / "samples"
RATE = 16000


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Three sentences with pauses: path, and where they are."""
    pause, parts, spans = np.zeros(RATE), [], []
    for name in ("en_1", "hi_1", "zh_1"):
        wav = load_audio(SAMPLES / f"{name}.wav").numpy()
        start = sum(map(len, parts)) + RATE
        spans.append((start / RATE, (start + len(wav)) / RATE))
        parts += [pause, wav]
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, np.concatenate([*parts, pause]), RATE)
    return path, spans


@pytest.mark.parametrize("columns", [80, 40])
def test_of_each_window_its_text_stays(asr, talk, terminal, columns):
    path, spans = talk
    screen = terminal(columns)
    ((_, result),) = watch_files(asr, [path], screen.file, boundaries=[spans], max_gap=0.0)
    lines = [line for line in screen.look() if line]
    texts = [segment.text for segment in result.segments]
    assert len(texts) == 3 and all(texts)
    starts = [f"{start - 0.1:.1f} to {end + 0.1:.1f} s" for start, end in spans]
    assert lines[0] == PROMPT
    for line, start, text in zip(lines[1:3], starts, texts, strict=False):
        assert visible(line) == visible(f"{start}: {text}")
    assert lines[3] == f"talk.wav, {starts[2]} of {result.duration:.1f} s"
    assert visible(lines[-1]) == visible(texts[2])
    assert sum(line.startswith("step ") for line in lines) == 1
    assert all(wcwidth.wcswidth(line) < columns for line in lines)


def rounded(transcript):
    """Without the last digits of confidences, in which shows what is decoded together."""
    words = [
        (word.text, word.start, word.end, word.space, round(word.confidence, 2))
        for segment in transcript.segments
        for word in segment.words
    ]
    return replace(transcript, segments=(), language_probability=None), words


def test_watching_in_windows_changes_no_transcript(asr, talk, tmp_path):
    """All ways to cut, in the order of the files, among files that fail or are silent."""
    path, _ = talk
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    paths = [SAMPLES / "en_2.wav", "no.wav", path, tmp_path / "silence.wav"]
    for options in ({"words": True}, {"segmentation": "fixed"}, {"max_gap": 9.0}):
        file = io.StringIO()
        seen = list(watch_files(asr, paths, file, 4, language="en", seed=3, **options))
        assert [index for index, _ in seen] == [0, 1, 2, 3]
        expected = dict(asr.stream_files(paths, "en", 4, 3, **options))
        for index in (0, 2, 3):
            assert rounded(seen[index][1]) == rounded(expected[index])
        assert isinstance(seen[1][1], AudioError)
        lines = file.getvalue().splitlines()
        assert lines[0].startswith("en_2.wav: step 1/4, ")
        windows = [re.match(r"talk\.wav, (\S+) to (\S+) s of 8\.9 s: step ", x) for x in lines]
        times = [float(found[1]) for found in windows if found]
        assert times == sorted(times) and len(set(times)) > 1
        assert not any(line.startswith("silence") for line in lines)


def test_the_command_watches_whatever_it_transcribes(asr, talk, tmp_path, monkeypatch, capfd):
    path, spans = talk
    monkeypatch.setattr(cli.common, "load_model", lambda *args: asr)
    rttm, vad = tmp_path / "talk.rttm", tmp_path / "vad.txt"
    rttm.write_text(f"SPEAKER talk 0 {spans[0][0]} 1.0 <NA> <NA> anna <NA> <NA>\n")
    vad.write_text(f"segment_001  {spans[1][0]:.2f}  {spans[1][1]:.2f} SPEECH\n")
    sample = SAMPLES / "en_2.wav"
    for options in (
        [path, "--format", "json"],
        [path, "--format", "srt", "--segment", "fixed"],
        [path, "--boundaries", vad],
        [path, "--rttm", rttm, "--format", "vtt"],
        [path, sample, "--rttm", rttm],
    ):
        told = []
        for watched in ([], ["--watch"]):
            status = cli.main(["transcribe", *map(str, options), *watched])
            out, err = capfd.readouterr()
            told.append((status, out))
            assert ("step 1/8" in err) == bool(watched)
        assert told[0] == told[1]
        assert told[0][1].strip()
    # The recording that the RTTM file is not about fails, here as there.
    assert told[0][0] == 1
    assert f"diffasr: {sample}: " in err


def test_what_cannot_be_watched_is_said_at_once(asr, talk, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cli.common, "load_model", lambda *args: asr)
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    assert cli.main(["transcribe", str(talk[0]), "--watch", "--segment", "vad"]) == 2
    assert "silero-vad is not installed" in capfd.readouterr().err
    command = ["transcribe", "--manifest", str(tmp_path), "--output", str(tmp_path), "--watch"]
    assert cli.main(command) == 2
    assert "--watch: " in capfd.readouterr().err
    assert cli.main(["transcribe", str(talk[0]), "--watch", "--segment", "none"]) == 1
    out, err = capfd.readouterr()
    assert "but this model hears 6 s at once" in err and out == ""
