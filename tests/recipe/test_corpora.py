"""Listing a corpus in CSV files, and the command line of a prepare.py."""

import logging
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from miniature import noise, rows_of, skipped_of, times_of, write_audio
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_diffasr.recipe import Clip, list_corpus, require_folder, run_prepare
from speechbrain_diffasr.recipe.command import prepare_parser
from speechbrain_diffasr.recipe.folders import COLUMNS


def lower(text, lang):
    return text.lower()


def prepare(clips, data, output, **changes):
    options = {"settings": {"corpus": "x"}, "normalize": lower, "progress": False, **changes}
    return list_corpus(clips, data, output, **options)


def clip(name, path=None, text="HELLO", split="train", **others):
    return Clip(name, split, path or f"{name}.flac", "en", text, **others)


@pytest.mark.parametrize(
    ("suffix", "container", "subtype"),
    [
        ("wav", "WAV", "PCM_16"),
        ("wav", "WAV", "FLOAT"),
        ("flac", "FLAC", "PCM_16"),
        ("ogg", "OGG", "VORBIS"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
    ],
)
def test_whole_files_are_listed_where_they_are(tmp_path, suffix, container, subtype):
    data = tmp_path / "corpus"
    write_audio(data / "sub" / f"a.{suffix}", noise(1.5), container, subtype)
    before = times_of(data)
    counts = prepare(
        {"train": [clip("a", f"sub/a.{suffix}", speaker="anna")]}, data, tmp_path / "csv"
    )
    assert counts == {"train": 1}
    (row,) = rows_of(tmp_path / "csv", "train")
    assert tuple(row) == COLUMNS
    assert float(row.pop("duration")) == pytest.approx(1.5, abs=0.1 if suffix == "mp3" else 1e-9)
    assert row == {
        "ID": "a",
        "wav": f"$data_root/sub/a.{suffix}",
        "lang": "en",
        "voice": "anna",
        "wrd": "hello",
    }
    assert times_of(data) == before
    assert not (tmp_path / "csv" / "train.skipped.tsv").exists()
    items = DynamicItemDataset.from_csv(tmp_path / "csv" / "train.csv", {"data_root": data})
    assert soundfile.info(items.data["a"]["wav"]).samplerate == 16000


@pytest.fixture
def spoiled(tmp_path):
    """A corpus of one good clip and one of each kind that cannot be used."""
    data = tmp_path / "corpus"
    for name, seconds in {"good": 2, "short": 0.05, "long": 31, "mute": 1, "money": 1}.items():
        write_audio(data / f"{name}.flac", noise(seconds), "FLAC")
    subtypes = {"FLAC": "PCM_16", "WAV": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}
    for container, subtype in subtypes.items():
        path = data / f"cut.{container.lower()}"
        write_audio(path, noise(2), container, subtype)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (data / "empty.flac").touch()
    write_audio(data / "header.wav", noise(0), "WAV")
    (data / "page.flac").write_text("<html>not found</html>")
    clips = [clip(name) for name in ("good", "short", "long", "cut", "empty", "page", "gone")]
    clips += [clip(f"cut{suffix}", f"cut.{suffix}") for suffix in ("wav", "ogg", "mp3")]
    clips += [clip("header", "header.wav"), clip("folder", ".")]
    clips += [clip("mute", text=" "), clip("money", text="$five"), clip("good")]
    return data, clips


def test_unusable_clips_are_named_and_the_others_stay(spoiled, tmp_path, caplog):
    data, clips = spoiled
    with caplog.at_level(logging.INFO):
        counts = prepare({"train": clips}, data, tmp_path / "csv")
    assert counts == {"train": 1}
    assert [row["ID"] for row in rows_of(tmp_path / "csv", "train")] == ["good"]
    skipped = skipped_of(tmp_path / "csv", "train")
    for name, reason in {
        "short": "shorter than 0.1 s",
        "long": "longer than 30 s",
        "cut": "truncated or damaged FLAC",
        "cutwav": "truncated: holds",
        "cutogg": "truncated: ends inside a page",
        "cutmp3": "truncated: holds",
        "empty": "empty (0 bytes)",
        "header": "no samples",
        "page": "not audio (file is a web page",
        "gone": "no such file",
        "folder": "a folder",
        "mute": "no text",
        "money": "$five",
        "good": "another clip has the same ID",
    }.items():
        assert reason in skipped.pop(name)
    assert not skipped
    assert "train: 14 of 15 clips left out" in caplog.text
    assert "short.flac: shorter than 0.1 s" in caplog.text
    assert "1 no such file" in caplog.text
    assert "train.csv: 1 clips, 0.00 h" in caplog.text


@pytest.mark.parametrize("workers", [1, 7])
def test_the_order_is_that_of_the_corpus(tmp_path, workers):
    seconds = {f"c{number:03d}": 0.2 + 0.001 * (number * 37 % 100) for number in range(100)}
    for name, length in seconds.items():
        write_audio(tmp_path / f"{name}.flac", noise(length), "FLAC")
    prepare({"train": map(clip, reversed(seconds))}, tmp_path, tmp_path / "csv", workers=workers)
    rows = rows_of(tmp_path / "csv", "train")
    assert [row["ID"] for row in rows] == list(reversed(seconds))
    assert [float(row["duration"]) for row in rows] == pytest.approx(
        [seconds[row["ID"]] for row in rows]
    )


def test_a_split_that_is_done_is_not_read_again(tmp_path):
    write_audio(tmp_path / "a.flac", noise(1), "FLAC")
    csv = tmp_path / "csv"
    prepare({"train": [clip("a")], "test": [clip("a", split="test")]}, tmp_path, csv)
    before = times_of(csv)

    def never():
        raise AssertionError("read again")
        yield

    assert prepare({"train": never(), "test": never()}, tmp_path, csv) == {"train": 1, "test": 1}
    assert times_of(csv) == before

    (csv / "test.csv").unlink()
    clips = {"train": [clip("gone")], "test": [clip("a", split="test")]}
    assert prepare(clips, tmp_path, csv) == {"train": 1, "test": 1}
    after = times_of(csv)
    del before[csv / "test.csv"], after[csv / "test.csv"]
    assert after == before


def test_other_settings_are_refused(tmp_path):
    write_audio(tmp_path / "a.flac", noise(1), "FLAC")
    clips = {"train": [clip("a")]}
    prepare(clips, tmp_path, tmp_path / "csv")
    with pytest.raises(ValueError, match=r"other settings \(max_seconds: 30.0 → 5\)"):
        prepare(clips, tmp_path, tmp_path / "csv", max_seconds=5)
    with pytest.raises(ValueError, match=r"other settings \(corpus: x → y\)"):
        prepare(clips, tmp_path, tmp_path / "csv", settings={"corpus": "y"})


def test_an_empty_split_is_an_error_with_its_most_frequent_reason(tmp_path):
    write_audio(tmp_path / "a.flac", noise(1), "FLAC")
    clips = [clip("a"), clip("b"), clip("c")]
    with pytest.raises(ValueError) as error:
        prepare({"train": clips}, tmp_path, tmp_path / "csv", min_seconds=2)
    assert str(error.value) == (
        f"{tmp_path}: no clip is left for train (2 of 3: no such file, such as 'b.flac')"
    )
    with pytest.raises(ValueError, match=r"for train \(the corpus lists none\)"):
        prepare({"train": []}, tmp_path, tmp_path / "csv")
    assert not list((tmp_path / "csv").glob("*.csv"))
    # Nothing was made, so other settings are no conflict.
    assert prepare({"train": clips}, tmp_path, tmp_path / "csv") == {"train": 1}


def test_files_outside_of_the_corpus_keep_their_path(tmp_path, monkeypatch):
    write_audio(tmp_path / "corpus" / "in.flac", noise(1), "FLAC")
    write_audio(tmp_path / "out.flac", noise(1), "FLAC")
    clips = [clip(name, str(tmp_path / path)) for name, path in
             {"in": "corpus/in.flac", "out": "out.flac"}.items()]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    prepare({"train": clips}, "corpus", "csv")
    rows = rows_of(tmp_path / "csv", "train")
    assert [row["wav"] for row in rows] == ["$data_root/in.flac", str(tmp_path / "out.flac")]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """10 s of stereo at 48 kHz whose n-th second is a tone of 100 (n + 1) Hz."""
    folder = tmp_path_factory.mktemp("recording")
    time = np.arange(480000) / 48000
    tone = 0.5 * np.sin(2 * np.pi * 100 * (np.floor(time) + 1) * time)
    soundfile.write(folder / "long.wav", np.stack([tone, tone], axis=1), 48000)
    return folder


def test_stretches_are_cut_out_of_their_recording(recording, tmp_path):
    clips = [
        clip("one", "long.wav", start=3.0, stop=4.0),
        clip("half", "long.wav", start=6.25, stop=6.75),
        clip("end", "long.wav", start=9.0),
        clip("rounded", "long.wav", start=9.0, stop=10.04),
        clip("whole", "long.wav"),
        clip("behind", "long.wav", start=9.5, stop=12.0),
        clip("inverted", "long.wav", start=5.0, stop=4.0),
        clip("brief", "long.wav", start=5.0, stop=5.05),
        clip("../escape", "long.wav", start=5.0, stop=6.0),
        clip("gone", start=5.0, stop=6.0),
    ]
    assert prepare({"train": clips}, recording, tmp_path) == {"train": 5}
    rows = {row["ID"]: row for row in rows_of(tmp_path, "train")}
    lengths = {name: float(row["duration"]) for name, row in rows.items()}
    assert lengths == {"one": 1, "half": 0.5, "end": 1, "rounded": 1, "whole": 10}
    for name, tone in {"one": 400, "half": 700, "end": 1000}.items():
        assert rows[name]["wav"] == f"$data_root/wavs/train/{name}.flac"
        samples, rate = soundfile.read(tmp_path / "wavs" / "train" / f"{name}.flac")
        assert rate == 16000 and samples.ndim == 1
        loudest = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
        assert loudest == pytest.approx(tone, abs=1)
        assert np.abs(samples).max() == pytest.approx(0.5, abs=0.05)
    skipped = skipped_of(tmp_path, "train")
    assert skipped["behind"] == "outside of its recording (9.5 to 12 s of 10.00 s)"
    assert skipped["inverted"].startswith("outside of its recording")
    assert skipped["brief"] == "shorter than 0.1 s"
    assert skipped["../escape"] == "its ID is no file name"
    assert skipped["gone"] == "no such file"
    assert times_of(recording).keys() == {recording / "long.wav"}
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("escape*"))


def test_clips_that_were_cut_are_kept(recording, tmp_path):
    clips = [clip(f"c{n}", "long.wav", start=float(n), stop=n + 1.0) for n in range(8)]
    prepare({"train": clips}, recording, tmp_path)
    wanted = rows_of(tmp_path, "train")
    (tmp_path / "train.csv").unlink()
    (tmp_path / "wavs" / "train" / "c3.flac").unlink()
    before = times_of(tmp_path / "wavs")
    prepare({"train": clips}, recording, tmp_path)
    after = times_of(tmp_path / "wavs")
    assert after.pop(tmp_path / "wavs" / "train" / "c3.flac")
    assert after == before
    assert rows_of(tmp_path, "train") == wanted


INTERRUPTED = """
from speechbrain_diffasr.recipe import Clip, list_corpus
from speechbrain_diffasr.recipe import run_prepare

def prepare(data_folder, output_folder):
    '''Makes data.

    Arguments
    ---------
    data_folder : str
    output_folder : str
    '''
    clips = [
        Clip(f"c{n}", "train", "long.wav", "en", "x", start=n / 1000, stop=n / 1000 + 4)
        for n in range(5000)
    ]
    list_corpus({"train": clips}, data_folder, output_folder, {}, lambda text, lang: text)

run_prepare(prepare)
"""


def test_an_interrupt_leaves_nothing_half_done(recording, tmp_path):
    script = tmp_path / "prepare.py"
    script.write_text(INTERRUPTED, encoding="utf-8")
    command = [sys.executable, script, "--data_folder", recording, "--output_folder", tmp_path]
    # What is started in the background of a shell ignores interrupts.
    run = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while run.poll() is None and not list(tmp_path.rglob("*.flac")):
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, log = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "prepare.py: stopped; run the same command again to continue" in log
    assert "Traceback" not in log
    assert not (tmp_path / "train.csv").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    files = list(tmp_path.rglob("*.flac"))
    assert 0 < len(files) < 5000
    assert {soundfile.info(path).frames for path in files} == {64000}


def test_a_missing_part_of_a_corpus_is_one_sentence(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "list.tsv").touch()
    require_folder(tmp_path, ["here", "list.tsv"], "Corpus")
    for name, kind in {"dev-clean": "folder", "dev.tsv": "file"}.items():
        with pytest.raises(FileNotFoundError) as error:
            require_folder(tmp_path, ["here", name], "LibriSpeech")
        assert str(error.value) == (
            f"data_folder: '{tmp_path}' has no {kind} '{name}'; expected the unpacked LibriSpeech"
        )


def make_data(
    data_folder,
    output_folder,
    names=("a", "b"),
    lang=None,
    max_seconds=30.0,
    workers=None,
    clean=False,
    table={},
    progress=True,
):
    """Makes data.

    Arguments
    ---------
    data_folder : str or Path
        The corpus, 100 % of it.
    output_folder : str or Path
        Goes into ``$data_root``.
    names : list of str
        Which parts.
    lang : str or None
        Language.
    max_seconds : float
        Longer ones are left out.
    workers : int or None
        Threads.
    clean, progress : bool
        Switches.
    table : dict
        Not for the command line.

    Raises
    ------
    ValueError
        Always : never
    """
    if workers == 13:
        raise KeyboardInterrupt
    raise ValueError(f"{names} {lang} {max_seconds} {workers} {clean} {progress}")


REQUIRED = ["--data_folder", "x", "--output_folder", "y"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "prepare.py: ('a', 'b') None 30.0 None False True"),
        (["--names", "c", "d", "--lang", "en"], "prepare.py: ['c', 'd'] en 30.0 None False True"),
        (["--names"], "prepare.py: [] None 30.0 None False True"),
        (
            ["--max_seconds", "9.5", "--workers", "3", "--clean", "--no-progress"],
            "prepare.py: ('a', 'b') None 9.5 3 True False",
        ),
        (["--workers", "13"], "prepare.py: stopped; run the same command again to continue"),
    ],
)
def test_the_command_line_is_that_of_the_function(arguments, message):
    with pytest.raises(SystemExit) as stop:
        run_prepare(make_data, [*REQUIRED, *arguments])
    assert stop.value.code == message


@pytest.mark.parametrize("arguments", [REQUIRED[:2], [*REQUIRED, "--table", "1"]])
def test_wrong_usage_is_said(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run_prepare(make_data, arguments)
    assert stop.value.code == 2
    assert re.search(r"prepare.py: error: .*(--output_folder|--table)", capsys.readouterr().err)


def test_help_teaches():
    text = " ".join(prepare_parser(make_data).format_help().split())
    assert __doc__ in text
    assert "--data_folder PATH The corpus, 100 % of it." in text
    assert "Goes into $data_root." in text
    assert "Which parts. [default: a b]" in text
    assert "[default: 30.0]" in text
    assert "Always" not in text and "--table" not in text
