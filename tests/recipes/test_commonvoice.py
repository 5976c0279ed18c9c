"""Data preparation of recipes/CommonVoice, on a miniature of a release."""

import shutil
from pathlib import Path

import pytest
import soundfile
from miniature import load_recipe, noise, rows_of, skipped_of, times_of
from miniature_more import make_commonvoice, write_tsv

from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.recipe import run_prepare

recipe = load_recipe("CommonVoice")
UTTERANCES = [
    # Quotes are characters like others: one alone must not swallow the lines behind it.
    (noise(1.1, 1), '"Oh," he said, "it\'s late.', "en"),
    (noise(0.8, 2), "Nobody knows.", "en"),
    (noise(1.0, 3), "你好，世界。", "zh"),
]
TEXTS = ["oh he said it's late", "nobody knows", "你好世界"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commonvoice") / "cv-corpus-25.0-2026-03-09"
    return make_commonvoice(folder, UTTERANCES)


@pytest.fixture
def own_corpus(corpus, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(corpus, tmp_path / "corpus"))


def prepare(corpus, output, **changes):
    settings = {"languages": ["en", "zh-CN"], "workers": 2, "progress": False}
    return recipe.prepare_commonvoice(corpus, output, **{**settings, **changes})


def test_the_csv_files_say_what_the_tables_do(corpus, tmp_path):
    assert prepare(corpus, tmp_path) == {"train": 3, "valid": 3, "test": 3}
    for number, split in enumerate(("train", "valid", "test")):
        rows = rows_of(tmp_path, split)
        assert [row["wrd"] for row in rows] == TEXTS
        assert [row["lang"] for row in rows] == ["en", "en", "zh"]
        assert {row["voice"] for row in rows} == {f"{number:0128x}"}
        assert rows[2]["ID"] == f"common_voice_zh-CN_{20000000 + 1000 * number}"
        for row, (wav, _, _) in zip(rows, UTTERANCES, strict=True):
            path = Path(row["wav"].replace("$data_root", str(corpus)))
            assert path.parent.name == "clips" and path.suffix == ".mp3"
            # What training will load is as long as the CSV file says: an MP3 holds whole frames.
            assert float(row["duration"]) == pytest.approx(len(load_audio(path)) / 16000, abs=1e-3)
            assert float(row["duration"]) == pytest.approx(len(wav) / 16000, abs=0.1)
    assert not list(tmp_path.glob("*.skipped.tsv"))


def test_a_finished_folder_is_left_alone_and_a_lost_split_comes_back(corpus, tmp_path):
    prepare(corpus, tmp_path)
    before = times_of(tmp_path)
    prepare(corpus, tmp_path)
    assert times_of(tmp_path) == before
    content = (tmp_path / "valid.csv").read_bytes()
    (tmp_path / "valid.csv").unlink()
    prepare(corpus, tmp_path)
    assert (tmp_path / "valid.csv").read_bytes() == content
    after = times_of(tmp_path)
    assert {path.name for path in before if after[path] != before[path]} == {"valid.csv"}
    with pytest.raises(ValueError, match=r"made with other settings \(languages"):
        prepare(corpus, tmp_path, languages=["en"])


def test_corrupt_and_missing_clips_are_named_and_left_out(own_corpus, tmp_path, caplog):
    missing, corrupt = sorted((own_corpus / "en" / "clips").glob("*_20000*.mp3"))
    missing.unlink()
    corrupt.write_bytes(b"<html>" + bytes(500))
    with caplog.at_level("WARNING"):
        assert prepare(own_corpus, tmp_path / "data") == {"train": 1, "valid": 3, "test": 3}
    skipped = skipped_of(tmp_path / "data", "train")
    assert skipped[missing.stem] == "no such file"
    assert "not audio" in skipped[corrupt.stem]
    assert "train: 2 of 3 clips left out" in caplog.text
    assert missing.name in caplog.text and corrupt.name in caplog.text


def test_clips_out_of_range_or_without_text_are_named(own_corpus, tmp_path):
    table = own_corpus / "en" / "test.tsv"
    table.write_text(table.read_text("utf-8").replace("Nobody knows.", "..."), "utf-8")
    counts = prepare(own_corpus, tmp_path / "data", max_seconds=1.05, splits=["test"])
    assert counts == {"test": 1}
    assert sorted(skipped_of(tmp_path / "data", "test").values()) == [
        "longer than 1.05 s",
        "no text is left after normalization",
    ]


def test_columns_of_the_first_release_will_do(corpus, tmp_path):
    """Fewer columns, in another order, and paths without their ending."""
    folder = tmp_path / "corpus" / "en"
    (folder / "clips").mkdir(parents=True)
    (clip,) = (corpus / "en" / "clips").glob("*_20000001.mp3")
    shutil.copy(clip, folder / "clips" / "5f3aee.mp3")
    rows = [("path", "client_id", "sentence", "age"), ("5f3aee", "ab", "Nobody knows.", "")]
    write_tsv(folder / "train.tsv", rows)
    prepare(tmp_path / "corpus", tmp_path / "data", languages=["en"], splits=["train"])
    (row,) = rows_of(tmp_path / "data", "train")
    seconds = soundfile.info(clip).duration
    assert float(row.pop("duration")) == pytest.approx(seconds)
    assert row == {
        "ID": "5f3aee", "wav": "$data_root/en/clips/5f3aee.mp3", "lang": "en", "voice": "ab",
        "wrd": "nobody knows",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "encoding", "message"),
    [
        ("\tsentence\t", "\ttext\t", "utf-8", "dev.tsv: no column 'sentence', only 'client_id'"),
        ("\tcommon_voice", "\ncommon_voice", "utf-8", "dev.tsv: line 2 has 1 values, not 13"),
        ("Nobody", "Écoute", "latin-1", r"dev.tsv: damaged \("),
    ],
)
def test_a_damaged_table_is_named(own_corpus, tmp_path, old, new, encoding, message):
    table = own_corpus / "en" / "dev.tsv"
    content = table.read_text("utf-8")
    assert old in content
    table.write_text(content.replace(old, new), encoding)
    with pytest.raises(ValueError, match=message):
        prepare(own_corpus, tmp_path / "data")


def test_bad_arguments_are_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="splits: 'dev' is none of train, valid, test"):
        prepare(corpus, tmp_path / "data", splits=["dev"])
    with pytest.raises(ValueError, match="name at least one"):
        prepare(corpus, tmp_path / "data", languages=[])
    assert not (tmp_path / "data").exists()


def test_a_wrong_folder_is_one_sentence(own_corpus, tmp_path):
    (own_corpus / "zh-CN" / "test.tsv").unlink()
    for folder, language, message in (
        (tmp_path / "nothing", "en", "is no folder; expected a release of Common Voice"),
        (own_corpus / "en", "en", "has no folder 'en'; expected a release of Common Voice"),
        (own_corpus, "fr", "has no folder 'fr'"),
        (own_corpus, "zh-CN", "has no file 'zh-CN/test.tsv'"),
    ):
        command = ["--data_folder", str(folder), "--output_folder", str(tmp_path / "data")]
        with pytest.raises(SystemExit) as stopped:
            run_prepare(recipe.prepare_commonvoice, [*command, "--languages", language])
        assert message in str(stopped.value)
        assert "\n" not in str(stopped.value)
    assert not (tmp_path / "data").exists()
