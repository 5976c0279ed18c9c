"""The command line: what it writes where, and how it ends."""

import json
import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_recognizer import transcribe

from speechbrain_diffasr import cli
from speechbrain_diffasr.segmentation import Region
from speechbrain_diffasr.transcripts.schema import FORMAT, VERSION
from speechbrain_diffasr.utils import atomic as files


def test_one_file_gives_the_text_alone(model, folder, capfd):
    assert transcribe("3.wav") == 0
    assert capfd.readouterr() == ("स्तर 3\n", "")


def test_several_files_give_a_line_each(model, folder, capfd):
    assert transcribe("3.wav", "1.wav", "3.wav") == 0
    assert capfd.readouterr() == ("3.wav\tस्तर 3\n1.wav\tस्तर 1\n3.wav\tस्तर 3\n", "")


def test_json_is_a_list_in_the_order_of_the_inputs(model, folder, capfd):
    assert transcribe("2.wav", "1.wav", "--format", "json", "--language", "hi", "--steps", 4) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "स्तर" in out
    told = json.loads(out)
    first = ("path", "text", "language", "duration", "steps")
    assert [list(entry)[:5] for entry in told] == [list(first)] * 2
    assert [tuple(entry[name] for name in first) for entry in told] == [
        ("2.wav", "स्तर 2", "hi", 0.2, 4),
        ("1.wav", "स्तर 1", "hi", 0.1, 4),
    ]
    assert [(entry["format"], entry["version"]) for entry in told] == [(FORMAT, VERSION)] * 2
    (segment,) = told[0]["segments"]
    assert [word["text"] for word in segment["words"]] == ["स्तर", "2"]
    assert (segment["start"], segment["end"], segment["words"][0]["confidence"]) == (0, 0.2, 0.75)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("srt", "1\n00:00:00,000 --> 00:00:00,200\nस्तर 2\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:00.200\nस्तर 2\n"),
        ("ctm", "2 1 0.000 0.100 स्तर 0.7500\n2 1 0.100 0.100 2 0.5000\n"),
        ("rttm", "SPEAKER 2 0 0.0 0.2 <NA> <NA> unknown <NA> <NA>\n"),
        ("textgrid", 'File type = "ooTextFile"\n'),
    ],
)
def test_every_format(model, folder, capfd, kind, expected):
    assert transcribe("2.wav", "--format", kind) == 0
    assert capfd.readouterr().out.startswith(expected)
    assert model.options.words


def test_recordings_share_a_file_of_columns(model, folder, capfd):
    assert transcribe("2.wav", "1.wav", "--format", "ctm") == 0
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == list("2211")


def test_the_options_of_long_audio_reach_the_model(model, folder):
    Path("vad.txt").write_text("segment_001  0.00  0.05 SPEECH\n")
    Path("a.rttm").write_text("SPEAKER x 0 0 0.1 <NA> <NA> anna <NA> <NA>\n")
    options = ["--boundaries", "vad.txt", "--rttm", "a.rttm", "--segment", "fixed"]
    assert transcribe("1.wav", *options, "--max-gap", "0.5") == 0
    told = model.options
    assert (told.segmentation, told.boundaries) == ("fixed", ["vad.txt"])
    assert told.turns.turns_of_audio("1.wav") == [Region(0.0, 0.1, "anna")]
    assert (told.words, told.max_gap) == (False, 0.5)


def test_the_options_reach_the_model(model, folder):
    options = ["--language", "en", "--steps", 3, "--seed", 0, "--batch-size", 2]
    assert transcribe(*[f"{n}.wav" for n in range(1, 6)], *options) == 0
    assert model.asked == [(5, "en", 3, 0, 2)]


def test_without_options_the_model_decides(model, folder):
    assert transcribe("1.wav") == 0
    assert model.asked == [(1, None, None, None, 8)]


def bad_inputs(folder):
    wave = np.full(1600, 0.1)
    soundfile.write(folder / "zeros.wav", 0 * wave, 16000)
    soundfile.write(folder / "nan.wav", np.nan * wave, 16000, subtype="FLOAT")
    soundfile.write(folder / "long.wav", np.full(33600, 0.1), 16000)
    soundfile.write(folder / "whole.wav", wave, 16000)
    soundfile.write(folder / "none.wav", wave[:0], 16000)
    (folder / "truncated.wav").write_bytes((folder / "whole.wav").read_bytes()[:1000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "notes.wav").write_bytes(b"PK\x03\x04" + bytes(99))
    # libmpg123 writes to stderr by itself about this one.
    (folder / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(5000))
    return {
        "zeros.wav": "all samples are zero",
        "nan.wav": "1600 of 1600 samples are NaN",
        "long.wav": "2.1 s of audio, but this model hears 2 s at once",
        "none.wav": "no samples",
        "truncated.wav": "truncated: holds 956 of the 3200 bytes",
        "empty.wav": "the file is empty (0 bytes)",
        "notes.wav": "not audio (file starts with 'PK', a zip archive)",
        "noise.mp3": "not audio",
        "absent.wav": "no such file",
        ".": "a folder",
    }


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_bad_files_get_a_line_each_and_the_others_go_on(model, folder, capfd, batch_size):
    bad = bad_inputs(folder)
    assert transcribe("1.wav", *bad, "2.wav", "--batch-size", batch_size) == 1
    out, err = capfd.readouterr()
    assert out == "1.wav\tस्तर 1\n2.wav\tस्तर 2\n"
    lines = err.splitlines()
    assert len(lines) == len(bad)
    for name, reason in bad.items():
        (line,) = [line for line in lines if line.startswith(f"diffasr: {name}: ")]
        assert reason in line


def test_when_all_files_are_bad(model, folder, capfd):
    assert transcribe("absent.wav", "--format", "json") == 1
    assert capfd.readouterr() == ("[]\n", "diffasr: absent.wav: no such file\n")


@pytest.mark.parametrize("name", ["नमस्ते 你好.wav", os.fsdecode(b"caf\xe9.wav")])
@pytest.mark.parametrize("to_file", [False, True])
def test_names_in_any_script(model, folder, capfdbinary, name, to_file):
    Path("1.wav").rename(name)
    output = ["--output", "out"] if to_file else []

    def written():
        return Path("out").read_bytes() if to_file else capfdbinary.readouterr().out

    assert transcribe(name, "2.wav", *output) == 0
    assert written().splitlines()[0] == os.fsencode(name) + "\tस्तर 1".encode()
    assert transcribe(name, "--format", "json", *output) == 0
    assert json.loads(written())[0]["path"] == name


def test_the_output_replaces_a_file_and_keeps_its_mode(model, folder, capfd):
    output = folder / "out.txt"
    output.write_text("before")
    output.chmod(0o640)
    assert transcribe("1.wav", "--output", output) == 0
    assert output.read_text(encoding="utf-8") == "स्तर 1\n"
    assert output.stat().st_mode & 0o777 == 0o640
    assert capfd.readouterr() == ("", "")
    assert not list(folder.glob("*.tmp"))


def test_the_output_is_all_or_nothing(model, folder, monkeypatch):
    output = folder / "out.txt"
    output.write_text("before")

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    assert transcribe("1.wav", "--output", output) == 130
    assert output.read_text() == "before"
    assert not list(folder.glob("*.tmp"))


def test_an_output_that_cannot_be_written_is_not_lost(model, folder, monkeypatch, capfd):
    """Its folder is there at first, but no more when all is done."""
    (folder / "out").mkdir()
    hear = model.stream_files

    def slow(*args, **kwargs):
        yield from hear(*args, **kwargs)
        (folder / "out").rmdir()

    monkeypatch.setattr(model, "stream_files", slow)
    assert transcribe("1.wav", "2.wav", "--output", "out/a.tsv") == 2
    out, err = capfd.readouterr()
    assert out == "1.wav\tस्तर 1\n2.wav\tस्तर 2\n"
    assert len(err.splitlines()) == 1 and "the transcripts are on stdout" in err


def test_the_output_may_be_a_device(model, folder):
    assert transcribe("1.wav", "--output", os.devnull) == 0
    assert not Path(os.devnull).is_file()


def test_an_interrupt_is_silent(model, folder, capfd, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "stream_files", interrupt)
    assert transcribe("1.wav") == 130
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["transcribe"], "FILE"),
        (["transcribe", "1.wav", "--steps", "0"], "--steps: '0' is not"),
        (["transcribe", "1.wav", "--steps", "2.5"], "--steps: '2.5' is not"),
        (["transcribe", "1.wav", "--batch-size", "-1"], "--batch-size"),
        (["transcribe", "1.wav", "--seed", str(2**63)], "--seed"),
        (["transcribe", "1.wav", "--format", "xml"], "invalid choice: 'xml'"),
        (["transcribe", "1.wav", "--device", "abacus"], "'abacus' is not a device"),
        (["transcribe", "1.wav", "--device", "meta"], "'meta' is not a device"),
        (["transcribe", "1.wav", "--language", "xx"], "'xx'; the model knows en, hi"),
        (["transcribe", "1.wav", "--model", "nowhere"], "'nowhere' is neither a folder nor"),
        (["transcribe", "1.wav", "--model", "1.wav"], "'1.wav' is neither a folder nor"),
        (["transcribe", "1.wav", "--model", "."], "'.' has no hyperparams.yaml"),
        (["transcribe", "1.wav", "--output", "."], "'.' is a folder"),
        (["transcribe", "1.wav", "--output", "no/where"], "there is no folder"),
        (["transcribe", "2.wav", "1.wav", "--output", "./1.wav"], "one of the audio files"),
        (["transcribe", "1.wav", "2.wav", "--format", "srt"], "srt holds one recording"),
        (["transcribe", "1.wav", "2.wav", "--boundaries", "v"], "they are of one recording"),
        (["transcribe", "1.wav", "--boundaries", "v.txt"], "v.txt: no such file"),
        (["transcribe", "1.wav", "--rttm", "1.wav"], "1.wav: not a text file"),
        (["transcribe", "1.wav", "--max-gap", "-1"], "'-1' is not a number of seconds"),
        (["transcribe", "1.wav", "--segment", "words"], "invalid choice: 'words'"),
        (["transcribe", "--manifest", ".", "--watch", "--output", "o"], "--watch: shows files"),
        (["transcribe", "1.wav", "--manifest", "."], "or a --manifest"),
        (["transcribe", "--manifest", "."], "name a folder for the transcripts with --output"),
        (["transcribe", "--manifest", ".", "--output", ""], "name a folder for the transcripts"),
        (["transcribe", "--manifest", "a.csv", "--output", "out"], "a.csv: cannot be read"),
        (["transcribe", "--manifest", "1.wav", "--output", "out"], "no column 'wav'"),
    ],
)
def test_wrong_usage_gets_one_line(model, folder, capfd, arguments, reason):
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("diffasr: ")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert model.asked == []


def test_an_interrupt_while_the_model_loads_is_silent(folder, capfd, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    Path("model").mkdir()
    Path("model/hyperparams.yaml").write_text("a: !new:interrupted.Class\n")
    Path("interrupted.py").write_text("raise KeyboardInterrupt")
    assert transcribe("1.wav", "--model", "model") == 130
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", ["", "window: [", "window: !new:no.such.Class\n"])
def test_a_broken_model_gets_one_line(folder, capfd, content):
    Path("model").mkdir()
    Path("model/hyperparams.yaml").write_text(content)
    assert transcribe("1.wav", "--model", "model") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("diffasr: --model: cannot load 'model': ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("files", "terminal", "shown"),
    [
        (["1.wav", "2.wav"], True, True),
        (["1.wav", "2.wav"], False, False),
        (["1.wav"], True, False),
    ],
)
def test_a_terminal_shows_progress_for_several_files(
    model, folder, capsys, monkeypatch, files, terminal, shown
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert transcribe(*files) == 0
    err = capsys.readouterr().err
    assert ("2/2" in err) == shown
    assert bool(err) == shown


@pytest.mark.parametrize("verbose", [False, True])
def test_libraries_are_heard_only_on_request(model, folder, monkeypatch, recwarn, caplog, verbose):
    logger = logging.getLogger("some.library")
    hear = model.stream_files

    def chatty(*args, **kwargs):
        warnings.warn("old", stacklevel=1)
        logger.warning("slow")
        return hear(*args, **kwargs)

    monkeypatch.setattr(model, "stream_files", chatty)
    assert transcribe("1.wav", *["--verbose"] * verbose) == 0
    assert caplog.messages == ["slow"] * verbose
    assert [str(w.message) for w in recwarn.list].count("old") == verbose
    logger.warning("afterwards")
    assert caplog.messages[-1] == "afterwards"
