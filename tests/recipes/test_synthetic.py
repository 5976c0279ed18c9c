"""Data preparation of recipes/SyntheticSpeech, on a miniature corpus."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from miniature import load_recipe
from real_data import real_data
from speechbrain.dataio.dataset import DynamicItemDataset

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "SyntheticSpeech" / "prepare.py"
TEXTS = real_data("text")
SPLITS = ("train", "valid", "test", "test_unseen_voices")

synthetic = load_recipe("SyntheticSpeech")
needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="needs espeak-ng")

NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
ENGLISH = [
    *NUMBERS.split(), "good morning", "Good morning!", "it's me", "-v is an option",
    "see you, later", "caf\u00e9", "cafe\u0301", "  what   now ", "what now", "...",
]  # fmt: skip
MANDARIN = ["你好", "谢谢", "再见", "好的", "是的", "不是", "什么", "为什么", "我爱你", "对不起"]


def write_texts(folder):
    (folder / "en.txt").write_text("\n".join(ENGLISH) + "\n", encoding="utf-8")
    (folder / "en_words.txt").write_text("\n".join([*ENGLISH, "only here"]), encoding="utf-8")
    (folder / "zh.txt").write_text("\n".join(MANDARIN), encoding="utf-8")


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    write_texts(folder)
    return folder


def prepare(texts, output, **changes):
    settings = {
        "languages": ["en", "zh"],
        "train_utterances_per_language": 30,
        "num_valid": 2,
        "num_test": 2,
        "workers": 2,
        "progress": False,
    }
    synthetic.prepare_synthetic_speech(texts, output, **{**settings, **changes})


def rows_of(output, split):
    with open(output / f"{split}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(output):
    return {path.relative_to(output): path.read_bytes() for path in output.rglob("*.*")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    if not shutil.which("espeak-ng"):
        pytest.skip("needs espeak-ng")
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder)
    output = tmp_path_factory.mktemp("data")
    prepare(folder, output)
    return output


def test_splits_share_no_sentence(prepared):
    keys = {
        split: {
            (row["lang"], synthetic.sentence_key(row["wrd"])) for row in rows_of(prepared, split)
        }
        for split in SPLITS
    }
    assert not keys["train"] & keys["valid"]
    assert not keys["train"] & keys["test"]
    assert not keys["valid"] & keys["test"]
    assert keys["test"] == keys["test_unseen_voices"]
    # 20 English sentences differ in more than punctuation, case or composition.
    assert [sum(lang == "en" for lang, _ in keys[split]) for split in ("valid", "test")] == [2, 2]
    assert [sum(lang == "zh" for lang, _ in keys[split]) for split in ("valid", "test")] == [1, 1]


def test_splits_of_real_texts_share_no_sentence():
    if not TEXTS.is_dir():
        pytest.skip(f"needs {TEXTS}")
    for lang in ("en", "hi", "zh"):
        sentences, words, _ = synthetic.read_texts(TEXTS, lang)
        parts = synthetic.split_sentences(sentences, words, lang, 40, 200, seed=1986)
        keys = [set(map(synthetic.sentence_key, parts[split])) for split in parts]
        assert sum(map(len, keys)) == len(set().union(*keys)) == len({**sentences, **words})
        assert len(parts["test"]) == min(200, len(sentences) // 10)


def test_words_are_for_training_only(prepared):
    held_out = [row["wrd"] for split in SPLITS[1:] for row in rows_of(prepared, split)]
    assert "only here" in [row["wrd"] for row in rows_of(prepared, "train")]
    assert "only here" not in held_out


def test_every_line_is_spoken_once_before_any_twice(prepared):
    lines = [row["wrd"] for row in rows_of(prepared, "train") if row["lang"] == "en"]
    assert len(lines) == 30
    turn = len(set(lines))
    assert turn == 17  # 20 sentences less 4, and one from the words
    assert len(set(lines[:turn])) == turn
    voices = {(row["wrd"], row["voice"]) for row in rows_of(prepared, "train")}
    assert len(voices) > turn + 8  # most repetitions have another voice


def test_unseen_voices_are_in_no_other_split(prepared):
    def variants(split):
        return {row["voice"].partition("+")[2] for row in rows_of(prepared, split)}

    unseen = variants("test_unseen_voices")
    assert unseen <= set(synthetic.UNSEEN_VARIANTS)
    for split in ("train", "valid", "test"):
        assert variants(split) <= set(synthetic.VARIANTS)
        assert not variants(split) & unseen


@pytest.mark.parametrize("split", SPLITS)
def test_speechbrain_reads_what_the_csv_says(prepared, split):
    data = DynamicItemDataset.from_csv(prepared / f"{split}.csv", {"data_root": prepared})
    assert len(data) > 0
    for row in data.data.values():
        info = soundfile.info(row["wav"])
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert row["duration"] == pytest.approx(info.frames / 16000, abs=1e-4)
        assert 0.15 <= row["duration"] <= 9.5
        assert soundfile.read(row["wav"])[0].any()


def test_a_line_that_looks_like_an_option_is_spoken(prepared):
    rows = [row for split in SPLITS for row in rows_of(prepared, split)]
    assert [row for row in rows if row["wrd"] == "-v is an option"]


@needs_espeak
def test_an_interrupted_run_continues_and_ends_the_same(texts, tmp_path, prepared):
    output = tmp_path / "data"
    shutil.copytree(prepared, output)
    wavs = sorted(output.rglob("*.wav"))
    kept = {path: path.stat().st_mtime_ns for path in wavs[1::2]}
    for path in [*wavs[::2], *output.glob("*.csv")]:
        path.unlink()
    prepare(texts, output, workers=1)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(output) == contents(prepared)


@needs_espeak
def test_a_finished_folder_is_left_alone(texts, tmp_path, prepared):
    output = tmp_path / "data"
    shutil.copytree(prepared, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.*")}
    prepare(texts, output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.*")} == before


@needs_espeak
def test_other_settings_or_texts_are_refused(texts, tmp_path, prepared):
    output = tmp_path / "data"
    shutil.copytree(prepared, output)
    before = contents(output)
    with pytest.raises(ValueError, match=r"made with other settings \(seed: 1986 → 7\)"):
        prepare(texts, output, seed=7)
    with open(texts / "en.txt", "a", encoding="utf-8") as file:
        file.write("\none more")
    with pytest.raises(ValueError, match=r"other settings \(texts"):
        prepare(texts, output)
    assert contents(output) == before


@needs_espeak
def test_too_long_lines_are_skipped_and_named(texts, tmp_path, caplog):
    (texts / "de.txt").write_text("ja\n" + "sehr " * 80, encoding="utf-8")
    with caplog.at_level("WARNING"):
        prepare(texts, tmp_path / "data", languages=["de"], train_utterances_per_language=4)
    assert [row["wrd"] for row in rows_of(tmp_path / "data", "train")] == ["ja", "ja"]
    assert "train: 2 of 4 skipped" in caplog.text
    assert "sehr sehr" in caplog.text and "longer than 9.5 s" in caplog.text


@needs_espeak
def test_variants_change_the_voice(tmp_path):
    """espeak-ng speaks some voices the same with and without a variant, and says nothing."""
    for base in {base for bases in synthetic.VOICES.values() for base in bases}:
        spoken = [
            synthetic.run_espeak(
                "-v", synthetic.join_voice(base, variant), "--stdout", "-b1", "1 2"
            )
            for variant in ("", "m1", "f4")
        ]
        assert len(set(spoken)) == 3, base


@needs_espeak
def test_a_sentence_stays_in_its_split_when_others_come(texts):
    sentences, words, _ = synthetic.read_texts(texts, "en")
    more = {**sentences, **{str(number): str(number) for number in range(100)}}
    few = synthetic.split_sentences(sentences, words, "en", 2, 2, seed=1)
    many = synthetic.split_sentences(more, words, "en", 12, 12, seed=1)
    assert set(few["test"]) <= set(many["test"]) | set(many["valid"])


@needs_espeak
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ["xx"]}, "languages: no voice for 'xx'"),
        ({"languages": []}, "languages: name at least one"),
        ({"languages": ["fr"]}, "has no file 'fr.txt'"),
        ({"variants": ["f1", "nobody"]}, "no voice file 'nobody'"),
        ({"voices": {"en": ["en-gb"], "zh": ["cmn"]}}, "no voice file 'en-gb'"),
        ({"unseen_variants": ["f1"]}, r"\['f1'\] are in variants too"),
        ({"min_rate": 300}, "300 to 210 is no range"),
    ],
)
def test_bad_arguments_are_named(texts, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(texts, tmp_path / "data", **changes)
    assert not (tmp_path / "data").exists()


def test_missing_espeak_is_one_sentence(texts, tmp_path):
    command = [sys.executable, RECIPE, "--text_folder", texts, "--output_folder", tmp_path / "data"]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "espeak-ng is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_kept_with_the_data(prepared):
    settings = json.loads((prepared / "settings.json").read_text(encoding="utf-8"))
    assert settings["seed"] == 1986
    assert settings["max_seconds"] == 9.5
    assert not list(prepared.rglob("*.tmp"))


@needs_espeak
def test_an_interrupt_ends_the_run_and_leaves_nothing_half_done(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    write_texts(texts)
    output = tmp_path / "data"
    command = [sys.executable, RECIPE, "--text_folder", texts, "--output_folder", output]
    command += ["--languages", "en", "--train_utterances_per_language", "3000", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # What is started in the background of a shell ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while run.poll() is None and not list(output.rglob("*.wav")):
        time.sleep(0.05)
    # An impatient user presses Ctrl-C twice.
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGINT)
    _, log = run.communicate(timeout=60)
    assert run.returncode != 0
    assert not (output / "train.csv").exists()
    assert "stopped; run the same command again" in log or "KeyboardInterrupt" in log
    assert not list(output.rglob("*.tmp"))
    assert all(soundfile.info(path).frames for path in output.rglob("*.wav"))
