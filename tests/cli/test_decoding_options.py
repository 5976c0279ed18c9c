"""How canvases start and what is chosen among, from the command line, with the small model."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_diffasr import DiffusionASR, cli, shipped_model
from speechbrain_diffasr.transcripts.schema import format_json, parse_json
from speechbrain_diffasr.visualization.trace import watch_starts

SAMPLES = Path(shipped_model("diffasr-tiny")) / "samples"
TEXTS = {path.stem: path.read_text("utf-8").strip() for path in SAMPLES.glob("*.txt")}
PAPER = {
    "start": "noise",
    "ctc_weight": 0.0,
    "noise": "seed",
    "candidates": 1,
    "choose": "likelihood",
    "readings": 0,
}


@pytest.fixture(scope="module")
def loaded():
    return DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))


@pytest.fixture
def asr(loaded, monkeypatch, tmp_path):
    """The model that commands load, which decodes as in the paper, in a folder with two samples."""
    loaded.mods.decoder.configure(**PAPER)
    monkeypatch.setattr(cli.common, "load_model", lambda source, device, verbose: loaded)
    monkeypatch.chdir(tmp_path)
    for name in ("de_2.wav", "en_1.wav"):
        shutil.copy(SAMPLES / name, name)
    return loaded


@pytest.fixture
def starts(asr):
    """What canvases of the test start from, as far as it was given: a text for each."""
    seen = []

    def see(canvases, given):
        for row, held in zip(canvases.canvas, given, strict=True):
            seen.append(asr.tokenizer.decode_ids(row[held].tolist()) if held.any() else None)

    with watch_starts(asr.mods.decoder, see):
        yield seen


def run(*arguments):
    return cli.main([*map(str, arguments)])


def transcribe_json(capfd, *arguments):
    assert run("transcribe", *arguments, "--format", "json") == 0
    out, err = capfd.readouterr()
    assert err == ""
    return json.loads(out)


def write_drafts(capfd, *files, path="drafts.json"):
    """What another run of the command wrote."""
    assert run("transcribe", *files, "--format", "json", "--output", path) == 0
    assert capfd.readouterr() == ("", "")
    return json.loads(Path(path).read_text("utf-8"))


# Drafts


def test_a_text_file_is_what_the_canvas_starts_from(starts, capfd):
    Path("draft.txt").write_text("Do you,\nwant… at?\n")
    assert run("transcribe", "en_1.wav", "--draft", "draft.txt") == 0
    assert starts == ["do you want at"]
    assert capfd.readouterr() == (f"{TEXTS['en_1']}\n", "")


def test_what_the_command_wrote_is_a_draft_of_both_files(asr, starts, capfd):
    written = write_drafts(capfd, "de_2.wav", "en_1.wav")
    starts.clear()
    entries = transcribe_json(capfd, "en_1.wav", "de_2.wav", "--draft", "drafts.json")
    assert sorted(starts) == [TEXTS["de_2"], TEXTS["en_1"]]
    assert [entry["text"] for entry in entries] == [entry["text"] for entry in written][::-1]


def test_words_of_a_draft_that_are_unsure_are_noise(starts, capfd):
    drafts = write_drafts(capfd, "de_2.wav")
    words = drafts[0]["segments"][0]["words"]
    assert [word["text"] for word in words] == ["das", "ist", "nicht", "gut"]
    for word, sure in zip(words, (0.9, 0.1, 0.9, 0.4), strict=True):
        word["confidence"] = sure
    Path("unsure.json").write_text(json.dumps(drafts))
    starts.clear()
    assert run("transcribe", "de_2.wav", "--draft", "unsure.json") == 0
    assert starts == ["das nicht"]


def test_files_of_which_the_draft_says_nothing_start_as_ever(asr, starts, capfd):
    write_drafts(capfd, "de_2.wav")
    starts.clear()
    assert run("transcribe", "en_1.wav", "de_2.wav", "--draft", "drafts.json") == 0
    assert sorted(starts, key=str) == [None, TEXTS["de_2"]]


def test_a_text_for_a_file_of_several_windows_is_told_in_one_line(asr, capfd):
    wav, rate = soundfile.read("en_1.wav")
    pause = np.zeros(6 * rate)
    soundfile.write("long.wav", np.concatenate([wav, pause, wav]), rate)
    Path("draft.txt").write_text("do you want it do you want it")
    arguments = "long.wav", "--segment", "fixed", "--draft", "draft.txt"
    assert run("transcribe", *arguments) == 1
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("diffasr: long.wav: a text is no draft for audio")


@pytest.mark.parametrize("kind", ["column", "no column"])
def test_evaluate_starts_from_the_column_draft(asr, starts, capfd, kind):
    with open("test.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = ["ID", "wav", "wrd", "lang"] + ["draft"] * (kind == "column")
        rows = [["a", "de_2.wav", TEXTS["de_2"], "de", "Das war gut!"]]
        rows += [["b", "en_1.wav", TEXTS["en_1"], "en", ""]]
        writer.writerows([names, *(row[: len(names)] for row in rows)])
    options = ["--csv", "test.csv", "--steps", 4, "--output", "out.json"]
    assert run("evaluate", *options, "--start", "draft") == 0
    given = "das war gut" if kind == "column" else None
    assert set(starts) == {given, None}
    starts.clear()
    report = json.loads(Path("out.json").read_text("utf-8"))
    assert report["decoding"] == PAPER | {"start": "draft"}
    (result,) = report["results"]
    assert {one["ID"]: one["hypothesis"] for one in result["utterances"]} == {
        "a": TEXTS["de_2"],
        "b": TEXTS["en_1"],
    }
    assert run("evaluate", *options, "--start", "noise") == 0
    assert set(starts) == {None}


# How canvases start, and what is joined


def test_canvases_start_from_what_ctc_reads(asr, starts):
    assert run("transcribe", "en_1.wav", "--start", "ctc") == 0
    assert starts and starts[0].split()[0] == "do"
    starts.clear()
    assert run("transcribe", "en_1.wav", "--start", "noise") == 0
    assert starts == [None]


@pytest.mark.parametrize("name", ["en_1", "de_2"])
def test_with_a_great_weight_ctc_has_the_last_word(asr, starts, capfd, name):
    """From a draft of another text, that the denoiser alone does not leave in one step."""
    Path("draft.txt").write_text("three one six")
    options = f"{name}.wav", "--steps", 1, "--draft", "draft.txt", "--ctc-weight"
    assert run("transcribe", *options, 8) == 0
    assert asr.decoding == PAPER | {"ctc_weight": 8.0}
    assert capfd.readouterr() == (f"{TEXTS[name]}\n", "")
    assert starts == ["three one six"]


def test_the_report_of_evaluate_says_how_was_decoded(asr, capfd):
    Path("test.csv").write_text(f"ID,wav,wrd,lang\na,en_1.wav,{TEXTS['en_1']},en\n")
    Path("words.txt").write_text("# of the evening\nwant\n")
    options = "--start", "ctc", "--ctc-weight", "1.5", "--noise", "audio", "--candidates", "2"
    options += "--choose", "consensus", "--keywords", "words.txt", "--n-best", "2"
    assert run("evaluate", "--csv", "test.csv", *options, "--output", "out.json") == 0
    report = json.loads(Path("out.json").read_text("utf-8"))
    assert report["decoding"] == {
        "start": "ctc",
        "ctc_weight": 1.5,
        "noise": "audio",
        "candidates": 2,
        "choose": "consensus",
        "readings": 0,
    }
    assert (report["keywords"], report["n_best"]) == (["want"], 2)
    (utterance,) = report["results"][0]["utterances"]
    assert utterance["alternatives"][0]["text"] == utterance["hypothesis"] == TEXTS["en_1"]
    assert "best_of" in report["results"][0]


# What is chosen among


@pytest.mark.parametrize(
    "options",
    [
        ["--readings", "8"],
        ["--candidates", "3", "--steps", "1"],
        ["--candidates", "3", "--steps", "1", "--choose", "consensus"],
        ["--candidates", "2", "--readings", "4", "--ctc-weight", "1"],
    ],
)
def test_the_best_texts_are_listed_with_scores(asr, capfd, options):
    shutil.copy(SAMPLES / "fr_2.wav", "fr_2.wav")
    entries = transcribe_json(capfd, "fr_2.wav", "en_1.wav", *options, "--n-best", 3)
    listed = 0
    for entry in entries:
        for segment in entry["segments"]:
            texts = [one["text"] for one in segment["alternatives"]]
            scores = [one["score"] for one in segment["alternatives"]]
            assert texts[0] == segment["text"]
            assert scores == sorted(scores, reverse=True)
            assert 1 <= len(texts) == len(set(texts)) <= 3
            listed += len(texts)
        text = json.dumps(entry, ensure_ascii=False)
        transcript = parse_json(text)
        assert json.loads(format_json(transcript)) == entry
        assert [len(one.alternatives) for one in transcript.segments] == [
            len(one["alternatives"]) for one in entry["segments"]
        ]
    assert listed > 2 or "consensus" in options


def test_without_being_asked_no_alternatives_are_listed(asr, capfd):
    (entry,) = transcribe_json(capfd, "en_1.wav", "--readings", 4)
    assert "alternatives" not in entry["segments"][0]
    (entry,) = transcribe_json(capfd, "en_1.wav", "--readings", 0, "--n-best", 4)
    assert "alternatives" not in entry["segments"][0]  # one canvas, and nothing beside it


def test_so_many_candidates_are_so_many_canvases(asr, starts):
    assert run("transcribe", "en_1.wav", "--candidates", 3) == 0
    assert starts == [None] * 3


@pytest.mark.parametrize("choose", ["likelihood", "consensus"])
def test_what_was_chosen_is_one_of_the_candidates(asr, capfd, choose):
    shutil.copy(SAMPLES / "fr_2.wav", "fr_2.wav")
    options = "fr_2.wav", "--steps", 1, "--candidates", 5, "--choose", choose, "--n-best", 5
    (entry,) = transcribe_json(capfd, *options)
    assert asr.decoding == PAPER | {"candidates": 5, "choose": choose}
    (segment,) = entry["segments"]
    scores = [one["score"] for one in segment["alternatives"]]
    # Expected word errors are none or more, log-likelihoods of a text less than none.
    assert scores[0] <= 0 and len(scores) > 1
    assert entry["text"] == segment["alternatives"][0]["text"]


def test_of_words_that_sound_alike_the_expected_one_is_heard(asr, capfd):
    shutil.copy(SAMPLES / "fr_2.wav", "fr_2.wav")
    Path("words.txt").write_text("# spelled as it is heard\n\nAllez\n")
    options = "transcribe", "fr_2.wav", "--start", "ctc", "--ctc-weight", 8
    assert run(*options) == 0
    assert run(*options, "--keywords", "words.txt") == 0
    assert capfd.readouterr() == ("on va y aller\non va y allez\n", "")


# What cannot be


@pytest.fixture
def others(asr, capfd):
    """Files that do not go with the recordings."""
    entry = json.loads(format_json(asr.transcribe_long("en_1.wav")))
    Path("other.json").write_text(json.dumps(entry | {"path": "x.wav", "audio": "x.wav"}))
    Path("text.txt").write_text("do you want it")
    Path("unspelled.txt").write_text("want\nЩука\n")
    Path("words.txt").write_text("want\n")
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("empty.txt").write_text("\n")


GIVE = "give a text file, or what diffasr transcribe --format json writes"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--draft", "no.txt"], f"--draft: no.txt: no such file; {GIVE}"),
        (["--draft", "."], "--draft: .: cannot be read"),
        (["--draft", "empty.txt"], f"--draft: empty.txt: nothing is in it; {GIVE}"),
        (["--draft", "latin.txt"], f"--draft: latin.txt: not text in UTF-8; {GIVE}"),
        (["--draft", "other.json"], "--draft: other.json has x, and nothing of en_1.wav; give the"),
        (
            ["de_2.wav", "--draft", "text.txt"],
            "--draft: text.txt is a text, and of one recording; for several give what diffasr",
        ),
        (["--n-best", "3"], "--n-best: text has no place for them; use --format json"),
        (["--n-best", "3", "--format", "srt"], "--n-best: srt has no place for them; use --format"),
        (["--n-best", "0"], "--n-best: '0' is not a whole number of 1 or more"),
        (["--start", "silence"], "--start: invalid choice: 'silence'"),
        (["--ctc-weight", "-1"], "--ctc-weight: '-1' is not a number of 0 or more, such as 1.5"),
        (["--ctc-weight", "nan"], "--ctc-weight: 'nan' is not a number of 0 or more"),
        (["--candidates", "0"], "--candidates: '0' is not a whole number of 1 or more"),
    ],
)
def test_what_transcribe_cannot_use_gets_one_line(others, capfd, options, reason):
    assert run("transcribe", "en_1.wav", *options) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == "" and reason in line


@pytest.mark.parametrize("command", ["transcribe", "evaluate"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--choose", "consensus", "--readings", "4"],
            "--choose: consensus is of canvases, and readings have no vote; set readings to 0",
        ),
        (
            ["--keywords", "words.txt"],
            "--keywords: they are heard by CTC, which has no say here; set ctc_weight or readings",
        ),
        (
            ["--keywords", "unspelled.txt", "--ctc-weight", "1"],
            "--keywords: keyword 'щука': the model's tokenizer does not know",
        ),
        (
            ["--keywords", "no.txt", "--ctc-weight", "1"],
            "--keywords: no.txt: no such file; give a text file with a word a line",
        ),
        (
            ["--keywords", "empty.txt", "--ctc-weight", "1"],
            "--keywords: empty.txt: no keywords in it; write a word or phrase on each line",
        ),
        (["--keywords", "latin.txt", "--ctc-weight", "1"], "--keywords: latin.txt: not UTF-8 text"),
        (["--choose", "best"], "--choose: invalid choice: 'best'"),
    ],
)
def test_what_does_not_go_together_gets_one_line(others, capfd, command, options, reason):
    Path("test.csv").write_text("ID,wav,wrd,lang\na,en_1.wav,do you want it,en\n")
    given = ["en_1.wav"] if command == "transcribe" else ["--csv", "test.csv"]
    assert run(command, *given, *options) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("diffasr: ") and reason in line


# Manifests


def test_a_manifest_with_drafts_goes_on_and_is_not_mixed(asr, starts, capfd):
    write_drafts(capfd, "de_2.wav", "en_1.wav")
    shutil.copy("drafts.json", "same.json")
    Path("in").mkdir()
    for name in ("de_2.wav", "en_1.wav"):
        os.rename(name, f"in/{name}")
    command = "transcribe", "--manifest", "in", "--output", "out", "--format", "json"
    drafted = *command, "--draft", "drafts.json"
    starts.clear()
    assert run(*drafted) == 0
    assert sorted(starts) == [TEXTS["de_2"], TEXTS["en_1"]]
    first = {path.name: path.read_bytes() for path in Path("out").glob("*.json")}
    assert set(first) == {"de_2.wav.json", "en_1.wav.json"}

    Path("out/en_1.wav.json").unlink()
    kept = Path("out/de_2.wav.json").stat().st_mtime_ns
    assert run(*drafted) == 0
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.json")} == first
    assert Path("out/de_2.wav.json").stat().st_mtime_ns == kept
    capfd.readouterr()

    starts.clear()
    for others, reason in [
        ([*command], "draft 'drafts.json', now None"),
        ([*command, "--draft", "same.json"], "draft 'drafts.json', now 'same.json'"),
        ([*drafted, "--candidates", "2"], "candidates None, now 2"),
        ([*drafted, "--start", "ctc"], "start None, now 'ctc'"),
        ([*drafted, "--n-best", "2"], "n_best None, now 2"),
    ]:
        assert run(*others) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert f"out: begun with other settings ({reason}); name another folder" in line
    assert starts == []
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.json")} == first


def test_a_manifest_refuses_drafts_of_other_recordings(others, capfd):
    Path("in").mkdir()
    os.rename("en_1.wav", "in/en_1.wav")
    command = "transcribe", "--manifest", "in", "--output", "out"
    assert run(*command, "--draft", "other.json") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "--draft: other.json has x, and nothing of in" in line
    assert list(Path("out").glob("*.txt")) == []
