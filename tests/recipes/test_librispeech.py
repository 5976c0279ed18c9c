"""Data preparation of recipes/LibriSpeech, on a miniature corpus."""

import subprocess
import sys

import pytest
import soundfile
from miniature import (
    REPOSITORY,
    load_recipe,
    make_librispeech,
    noise,
    rows_of,
    sample_utterances,
    skipped_of,
    times_of,
)
from speechbrain.dataio.dataset import DynamicItemDataset

librispeech = load_recipe("LibriSpeech")
SPLITS = ("train-clean-100", "train-other-500", "dev-clean", "test-clean", "test-other")
TRAIN = SPLITS[:2]


def prepare(corpus, output, **changes):
    options = {"train_splits": TRAIN, "progress": False, **changes}
    return librispeech.prepare_librispeech(corpus, output, **options)


@pytest.fixture
def corpus(tmp_path):
    utterances = [*sample_utterances("en"), (noise(0.7), "It's noise", "en")]
    return make_librispeech(tmp_path / "LibriSpeech", utterances, SPLITS)


def test_csv_files_say_what_the_corpus_holds(corpus, tmp_path):
    counts = prepare(corpus, tmp_path / "csv")
    assert counts == {"train": 6, "valid": 3, "test-clean": 3, "test-other": 3}
    files = {path.name for path in (tmp_path / "csv").iterdir()}
    assert files == {"settings.json", *(f"{split}.csv" for split in counts)}
    row = rows_of(tmp_path / "csv", "test-clean")[2]
    assert row == {
        "ID": "87-121126-0002",
        "duration": "0.7",
        "wav": "$data_root/test-clean/87/121126/87-121126-0002.flac",
        "lang": "en",
        "voice": "87",
        "wrd": "it's noise",
    }
    texts = [text for _, text, _ in sample_utterances("en")] + ["it's noise"]
    assert [row["wrd"] for row in rows_of(tmp_path / "csv", "train")] == texts * 2
    for split in counts:
        items = DynamicItemDataset.from_csv(
            tmp_path / "csv" / f"{split}.csv", {"data_root": corpus}
        )
        for item in items.data.values():
            info = soundfile.info(item["wav"])
            assert item["duration"] == info.frames / info.samplerate
    wavs = {split: {row["wav"] for row in rows_of(tmp_path / "csv", split)} for split in counts}
    assert sum(map(len, wavs.values())) == len(set.union(*wavs.values()))


def test_a_second_run_changes_nothing(corpus, tmp_path):
    prepare(corpus, tmp_path / "csv")
    before = times_of(tmp_path)
    assert prepare(corpus, tmp_path / "csv")["train"] == 6
    assert times_of(tmp_path) == before
    with pytest.raises(ValueError, match="holds data made with other settings"):
        prepare(corpus, tmp_path / "csv", train_splits=TRAIN[:1])


def test_damaged_recordings_are_left_out(corpus, tmp_path, caplog):
    place = corpus / "dev-clean" / "86" / "121125"
    damaged = place / "86-121125-0000.flac"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    (place / "86-121125-0001.flac").unlink()
    assert prepare(corpus, tmp_path / "csv")["valid"] == 1
    skipped = skipped_of(tmp_path / "csv", "valid")
    assert skipped.keys() == {"86-121125-0000", "86-121125-0001"}
    assert "damaged FLAC" in skipped["86-121125-0000"]
    assert skipped["86-121125-0001"] == "no such file"
    assert "valid: 2 of 3 clips left out" in caplog.text
    assert "dev-clean/86/121125/86-121125-0001.flac: no such file" in caplog.text


def test_splits_can_be_left_out(corpus, tmp_path):
    counts = prepare(corpus, tmp_path / "csv", train_splits=(), test_splits=["test-other"])
    assert counts == {"valid": 3, "test-other": 3}
    assert not (tmp_path / "csv" / "train.csv").exists()


def test_a_wrong_folder_is_one_sentence(corpus, tmp_path):
    command = [sys.executable, REPOSITORY / "recipes" / "LibriSpeech" / "prepare.py"]
    command += ["--output_folder", tmp_path / "csv", "--data_folder"]
    done = subprocess.run([*command, corpus], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == (
        f"prepare.py: data_folder: '{corpus}' has no folder 'train-clean-360'; "
        "expected the unpacked LibriSpeech\n"
    )
    with pytest.raises(FileNotFoundError, match="is no folder; expected the unpacked LibriSpeech"):
        prepare(corpus / "nowhere", tmp_path / "csv")
    assert not (tmp_path / "csv").exists()


def test_the_command_line_prepares(corpus, tmp_path):
    command = [sys.executable, REPOSITORY / "recipes" / "LibriSpeech" / "prepare.py"]
    command += ["--data_folder", corpus, "--output_folder", tmp_path / "csv"]
    command += ["--train_splits", *TRAIN, "--test_splits", "test-clean"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train.csv: 6 clips" in done.stderr and "12/12" in done.stderr
    assert len(rows_of(tmp_path / "csv", "test-clean")) == 3


def test_a_transcript_in_another_encoding_is_named(corpus, tmp_path):
    path = corpus / "dev-clean" / "86" / "121125" / "86-121125.trans.txt"
    path.write_bytes(b"86-121125-0000 CAF\xc9\n")
    with pytest.raises(ValueError, match=r"86-121125.trans\.txt: not UTF-8"):
        prepare(corpus, tmp_path / "csv")
