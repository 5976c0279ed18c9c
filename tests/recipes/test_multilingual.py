"""Joining what other recipes prepared: recipes/Multilingual."""

import csv
import shutil
from pathlib import Path

import pytest
from miniature import load_recipe, make_fleurs, make_librispeech, noise, rows_of, times_of
from miniature_more import make_voxpopuli
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.recipe import run_prepare

recipe = load_recipe("Multilingual")
UTTERANCES = [
    (noise(1.0, 1), "hello", "en"),
    (noise(1.5, 2), "guten tag, sagte er", "de"),
    (noise(0.7, 3), "नमस्ते", "hi"),
]
EXPECTED = {
    "train": 1 + 3 + 2,
    "valid": 1 + 3 + 2,
    "test_librispeech-clean": 1,
    "test_fleurs": 3,
    "test_voxpopuli": 2,
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Three corpora, prepared by their recipes: two with audio elsewhere, one with its own."""
    root = tmp_path_factory.mktemp("corpora")
    quiet = {"workers": 2, "progress": False}
    make_librispeech(root / "LibriSpeech", UTTERANCES[:1])
    load_recipe("LibriSpeech").prepare_librispeech(
        root / "LibriSpeech", root / "csv" / "librispeech", ["train-clean-100"], ["dev-clean"],
        ["test-clean"], **quiet,
    )  # fmt: skip
    make_fleurs(root / "fleurs", UTTERANCES)
    load_recipe("FLEURS").prepare_fleurs(
        root / "fleurs", root / "csv" / "fleurs", ["en_us", "de_de", "hi_in"], **quiet
    )
    make_voxpopuli(root / "voxpopuli", UTTERANCES[:2])
    load_recipe("VoxPopuli").prepare_voxpopuli(
        root / "voxpopuli", root / "csv" / "voxpopuli", ["en", "de"], **quiet
    )
    return [
        {"name": "librispeech", "folder": root / "csv" / "librispeech",
         "data_root": root / "LibriSpeech"},
        {"name": "fleurs", "folder": root / "csv" / "fleurs", "data_root": root / "fleurs"},
        {"name": "voxpopuli", "folder": root / "csv" / "voxpopuli"},
    ]  # fmt: skip


def prepare(corpora, output):
    return recipe.prepare_multilingual(corpora, output, progress=False)


def test_every_utterance_of_every_corpus_is_there_once(corpora, tmp_path):
    assert prepare(corpora, tmp_path) == EXPECTED
    assert {path.stem for path in tmp_path.glob("*.csv")} == set(EXPECTED)
    for split in ("train", "valid"):
        joined = {row["ID"]: row for row in rows_of(tmp_path, split)}
        for corpus in corpora:
            for row in rows_of(corpus["folder"], split):
                other = joined.pop(f"{corpus['name']}-{row['ID']}")
                for column in ("duration", "lang", "voice", "wrd"):
                    assert other[column] == row[column]
        assert not joined


def test_speechbrain_reads_them_whatever_the_root(corpora, tmp_path):
    prepare(corpora, tmp_path)
    for split in EXPECTED:
        data = DynamicItemDataset.from_csv(tmp_path / f"{split}.csv", {"data_root": "/nowhere"})
        assert len(data) == EXPECTED[split]
        for row in data.data.values():
            seconds = len(load_audio(row["wav"])) / 16000
            assert row["duration"] == pytest.approx(seconds, abs=1e-3)


def test_relative_folders_become_absolute(corpora, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(corpora[2]["folder"]).parent)
    prepare([{"name": "voxpopuli", "folder": "voxpopuli"}], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert all(Path(row["wav"]).is_file() for row in rows_of(tmp_path, "train"))


def test_a_second_run_writes_the_same_and_other_corpora_are_refused(corpora, tmp_path):
    prepare(corpora, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    prepare(corpora, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match=r"made with other settings \(corpora"):
        prepare(corpora[:2], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_line_does_the_same(corpora, tmp_path, caplog):
    prepare(corpora, tmp_path / "one")
    names = ["=".join(map(str, corpus.values())) for corpus in corpora]
    assert names[2].count("=") == 1
    with caplog.at_level("INFO"):
        run_prepare(
            recipe.prepare_from_names,
            ["--corpora", *names, "--output_folder", str(tmp_path / "two"), "--no-progress"],
        )
    assert "test_fleurs.csv: 3 utterances, de 0.00 h, en 0.00 h, hi 0.00 h" in caplog.text
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_root": "{tmp}"}, "is missing; is data_root of librispeech right?"),
        ({"data_root": "{tmp}/no"}, "corpora: data_root of librispeech is '.*/no', which is no fo"),
        ({"folder": "{tmp}/no"}, "corpora: folder of librispeech is '.*/no', which is no folder"),
        ({"name": "voxpopuli"}, "corpora: 'voxpopuli' is the name of two"),
        ({"name": "a/b"}, "corpora: 'a/b' is no name that a file can have"),
    ],
)
def test_wrong_corpora_are_named(corpora, tmp_path, change, message):
    change = {key: value.format(tmp=tmp_path) for key, value in change.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare([{**corpora[0], **change}, *corpora[1:]], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_folders_without_csv_files_are_named(corpora, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpora: none has a file train.csv"):
        prepare([{"name": "empty", "folder": tmp_path}], tmp_path / "data")
    with pytest.raises(ValueError, match="corpora: none is given"):
        prepare([], tmp_path / "data")
    command = ["--corpora", "fleurs", "--output_folder", str(tmp_path / "data")]
    with pytest.raises(SystemExit, match="corpora: 'fleurs' is neither NAME=CSV_FOLDER nor"):
        run_prepare(recipe.prepare_from_names, command)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("$data_root/", "$other_root/", r"train.csv: SpeechBrain reads \$other_root in"),
        (",duration,", ",seconds,", "train.csv: no column 'duration', only 'ID', 'seconds'"),
        (",1.0,", ",long,", "train.csv: duration of 84-121123-0000 is 'long', no seconds"),
    ],
)
def test_foreign_csv_files_are_named(corpora, tmp_path, old, new, message):
    folder = Path(shutil.copytree(corpora[0]["folder"], tmp_path / "csv"))
    path = folder / "train.csv"
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=message):
        prepare([{**corpora[0], "folder": folder}], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_csv_file_without_utterances_is_named(corpora, tmp_path):
    folder = Path(shutil.copytree(corpora[0]["folder"], tmp_path / "csv"))
    path = folder / "train.csv"
    with open(path, encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    path.write_text(",".join(header) + "\n", "utf-8")
    with pytest.raises(ValueError, match=r"train.csv: no utterances; prepare librispeech again"):
        prepare([{**corpora[0], "folder": folder}], tmp_path / "data")


def test_what_comes_in_is_left_as_it_is(corpora, tmp_path):
    before = {corpus["name"]: times_of(corpus["folder"]) for corpus in corpora}
    prepare(corpora, tmp_path)
    assert {corpus["name"]: times_of(corpus["folder"]) for corpus in corpora} == before
