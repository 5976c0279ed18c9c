"""Data preparation of recipes/SpokenDigits, on a miniature corpus."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature import load_recipe
from real_data import real_data
from speechbrain.dataio.dataset import DynamicItemDataset

REPOSITORY = Path(__file__).parents[2]
CORPUS = real_data("fsdd")
SPLITS = ("train", "valid", "test", "test_singles")

digits = load_recipe("SpokenDigits")


def level(digit, speaker, index):
    """A sample value that tells which recording it comes from."""
    return 2400 * (digit + 1) + 100 * index + 50 * (speaker == "bela")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recordings of 0.2 s at 8 kHz, each of one value between short ramps, index 0 to 11."""
    folder = tmp_path_factory.mktemp("corpus") / "recordings"
    folder.mkdir()
    ramps = np.clip(np.minimum(np.arange(1600), np.arange(1600)[::-1]) / 40, 0, 1)
    for digit in range(10):
        for speaker in ("anna", "bela"):
            for index in range(12):
                samples = (ramps * level(digit, speaker, index)).astype(np.int16)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", samples, 8000)
    return folder.parent


def prepare(corpus, output, **changes):
    settings = {
        "num_train_strings": 60,
        "num_valid_strings": 40,
        "num_test_strings": 30,
        "workers": 2,
        "progress": False,
    }
    digits.prepare_spoken_digits(corpus, output, **{**settings, **changes})


def rows_of(output, split):
    with open(output / f"{split}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("data")
    prepare(corpus, output)
    return output


def runs(samples):
    """Splits 16 kHz samples into their runs of speech: (mean level, seconds) and the gaps (s)."""
    voiced = np.abs(samples) > 300
    edges = np.flatnonzero(np.diff(voiced.astype(int), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    middles = [np.median(samples[start:end]) for start, end in zip(starts, ends, strict=True)]
    return middles, (starts[1:] - ends[:-1]) / 16000


@pytest.mark.parametrize(
    ("split", "indices"), [("train", range(10, 12)), ("valid", range(5, 10)), ("test", range(5))]
)
def test_strings_hold_what_they_say(prepared, split, indices):
    """Each part is its word's recording, of the row's speaker and the split's indices."""
    rows = [row for row in rows_of(prepared, split) if "string" in row["ID"]]
    lengths = set()
    for row in rows:
        words = row["wrd"].split()
        lengths.add(len(words))
        samples, rate = soundfile.read(
            row["wav"].replace("$data_root", str(prepared)), dtype="int16"
        )
        middles, gaps = runs(samples.astype(float))
        assert rate == 16000 and len(middles) == len(words)
        for word, middle in zip(words, middles, strict=True):
            digit = digits.WORDS.index(word)
            possible = [level(digit, row["voice"], index) for index in indices]
            assert min(abs(middle - value) for value in possible) < 20
        assert gaps.min() >= 0.05 and gaps.max() <= 0.4 + 0.01  # the ramps add up to 10 ms
    assert lengths == {3, 4, 5, 6, 7}


def test_each_recording_is_a_single_of_its_split(prepared):
    def singles(split):
        return {row["ID"].removeprefix(f"{split}_") for row in rows_of(prepared, split)}

    for split, indices in (
        ("train", range(10, 12)),
        ("valid", range(5, 10)),
        ("test_singles", range(5)),
    ):
        expected = {f"{d}_{s}_{i}" for d in range(10) for s in ("anna", "bela") for i in indices}
        assert {name for name in singles(split) if "string" not in name} == expected
    assert all("string" in row["ID"] for row in rows_of(prepared, "test"))


@pytest.mark.parametrize("split", SPLITS)
def test_speechbrain_reads_what_the_csv_says(prepared, split):
    data = DynamicItemDataset.from_csv(prepared / f"{split}.csv", {"data_root": prepared})
    counts = {"train": 60 + 40, "valid": 40 + 100, "test": 30, "test_singles": 100}
    assert len(data) == counts[split]
    for row in data.data.values():
        info = soundfile.info(row["wav"])
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert row["duration"] == pytest.approx(info.frames / 16000, abs=1e-4)
        assert row["lang"] == "en" and row["voice"] in ("anna", "bela")


def test_an_interrupted_run_continues_and_ends_the_same(corpus, prepared, tmp_path):
    output = tmp_path / "data"
    shutil.copytree(prepared, output)
    wavs = sorted(output.rglob("*.wav"))
    kept = {path: path.stat().st_mtime_ns for path in wavs[1::2]}
    for path in [*wavs[::2], *output.glob("*.csv")]:
        path.unlink()
    prepare(corpus, output, workers=1)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for path in prepared.rglob("*.*"):
        assert (output / path.relative_to(prepared)).read_bytes() == path.read_bytes()


def test_other_settings_are_refused(corpus, prepared):
    with pytest.raises(ValueError, match=r"other settings \(gaps: \[0.05, 0.4\] → \[0.05, 0.9\]\)"):
        prepare(corpus, prepared, max_gap=0.9)


def test_the_folder_recordings_itself_is_accepted(corpus, prepared, tmp_path):
    prepare(corpus / "recordings", tmp_path)
    assert rows_of(tmp_path, "test") == rows_of(prepared, "test")


def test_a_speaker_left_out_is_alone_in_the_tests(corpus, tmp_path):
    prepare(corpus, tmp_path, leave_out_speaker="bela")
    voices = {split: {row["voice"] for row in rows_of(tmp_path, split)} for split in SPLITS}
    assert voices == {
        "train": {"anna"}, "valid": {"anna"}, "test": {"bela"}, "test_singles": {"bela"}
    }  # fmt: skip
    with pytest.raises(ValueError, match="'carl' is none of anna, bela"):
        prepare(corpus, tmp_path, leave_out_speaker="carl")


def test_strings_over_the_limit_are_skipped(corpus, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        prepare(corpus, tmp_path, max_seconds=2.0)
    rows = rows_of(tmp_path, "test")
    assert 0 < len(rows) < 30
    assert max(float(row["duration"]) for row in rows) <= 2.0
    assert f"test: {30 - len(rows)} of 30 skipped" in caplog.text


@pytest.mark.parametrize("make", [False, True])
def test_a_wrong_folder_is_one_sentence(tmp_path, make):
    if make:
        (tmp_path / "wrong").mkdir()
        (tmp_path / "wrong" / "hello.wav").touch()
    with pytest.raises(FileNotFoundError, match="expected the unpacked Free Spoken Digit Dataset"):
        prepare(tmp_path / "wrong", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_damaged_recording_is_named(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "corpus" / "recordings" / "3_anna_2.wav").write_bytes(b"PK")
    with pytest.raises(ValueError, match=re.escape("3_anna_2.wav: ")):
        prepare(tmp_path / "corpus", tmp_path / "data")


def test_the_real_corpus_keeps_its_own_split():
    if not CORPUS.is_dir():
        pytest.skip(f"needs {CORPUS}")
    recordings = digits.list_recordings(digits.find_recordings(CORPUS))
    splits = digits.split_recordings(recordings, num_valid_indices=5)
    assert {name: len(chosen) for name, chosen in splits.items()} == {
        "train": 2000, "valid": 250, "test": 250
    }  # fmt: skip
    assert {index for _, _, index in splits["test"]} == set(range(5))
