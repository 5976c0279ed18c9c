"""Data preparation of recipes/FLEURS, on a miniature corpus."""

import io
import tarfile

import pytest
import soundfile
from miniature import (
    load_recipe,
    make_fleurs,
    noise,
    rows_of,
    sample_utterances,
    skipped_of,
    times_of,
)

from speechbrain_diffasr.dataio import load_audio

fleurs = load_recipe("FLEURS")
SPLITS = ("train", "valid", "test")
CODES = ("en_us", "hi_in", "cmn_hans_cn")


def prepare(corpus, output, **changes):
    options = {"languages": CODES, "progress": False, **changes}
    return fleurs.prepare_fleurs(corpus, output, **options)


@pytest.fixture(params=[True, False], ids=["packed", "unpacked"])
def corpus(request, tmp_path):
    return make_corpus(tmp_path, packed=request.param)


@pytest.fixture
def unpacked(tmp_path):
    return make_corpus(tmp_path, packed=False)


def make_corpus(tmp_path, packed):
    spaced = (noise(0.9), "这 是 h i v 2 0", "zh")
    return make_fleurs(tmp_path / "fleurs", [*sample_utterances("en", "hi", "zh"), spaced], packed)


def test_csv_files_say_what_the_corpus_holds(corpus, tmp_path):
    assert prepare(corpus, tmp_path / "csv") == {"train": 7, "valid": 7, "test": 7}
    rows = rows_of(tmp_path / "csv", "valid")
    assert [row["lang"] for row in rows] == ["en", "en", "hi", "hi", "zh", "zh", "zh"]
    samples = sample_utterances("en", "hi", "zh")
    assert [row["wrd"] for row in rows] == [text for _, text, _ in samples] + ["这是 h i v 2 0"]
    assert rows[1]["ID"] == "en_us_10004088536354800742"
    assert rows[1]["wav"] == "$data_root/data/en_us/audio/dev/10004088536354800742.wav"
    for row, (wav, _, _) in zip(rows, samples, strict=False):
        path = row["wav"].replace("$data_root", str(corpus))
        assert (load_audio(path) == load_audio(wav)).all()
        assert float(row["duration"]) == soundfile.info(wav).frames / 16000
    wavs = {row["wav"] for split in SPLITS for row in rows_of(tmp_path / "csv", split)}
    assert len(wavs) == 21


def test_a_second_run_changes_nothing(corpus, tmp_path):
    prepare(corpus, tmp_path / "csv")
    before = times_of(tmp_path)
    assert prepare(corpus, tmp_path / "csv")["test"] == 7
    assert times_of(tmp_path) == before
    with pytest.raises(ValueError, match=r"other settings \(text_column: transcription → raw"):
        prepare(corpus, tmp_path / "csv", text_column="raw_transcription")


def test_raw_transcriptions_are_normalized(unpacked, tmp_path):
    prepare(unpacked, tmp_path / "a")
    prepare(unpacked, tmp_path / "b", text_column="raw_transcription")
    assert "It's" not in (tmp_path / "b" / "test.csv").read_text(encoding="utf-8")
    assert rows_of(tmp_path / "a", "test") == rows_of(tmp_path / "b", "test")


def test_the_folder_data_itself_is_accepted(unpacked, tmp_path):
    prepare(unpacked / "data", tmp_path / "csv", languages=["en_us"])
    row = rows_of(tmp_path / "csv", "train")[0]
    assert row["wav"] == "$data_root/en_us/audio/train/10004088536354799741.wav"


def test_damaged_and_missing_recordings_are_left_out(unpacked, tmp_path, caplog):
    folder = unpacked / "data" / "en_us" / "audio"
    damaged = folder / "train" / "10004088536354799741.wav"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    (folder / "train" / "10004088536354799742.wav").unlink()
    assert prepare(unpacked, tmp_path / "csv") == {"train": 5, "valid": 7, "test": 7}
    skipped = skipped_of(tmp_path / "csv", "train")
    assert "truncated" in skipped.pop("en_us_10004088536354799741")
    assert skipped == {"en_us_10004088536354799742": "no such file"}
    assert "train: 2 of 7 clips left out" in caplog.text


def test_an_archive_unpacks_into_its_folder_alone(tmp_path):
    corpus = make_corpus(tmp_path, packed=True)
    archive = corpus / "data" / "en_us" / "audio" / "train.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("train/../../../evil.wav", "/tmp/evil.wav", "train/note.txt"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("train/link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    fleurs.unpack_audio(archive.parent, "train", progress=False)
    assert [path.name for path in (archive.parent / "train").iterdir()] == ["evil.wav"]
    assert len(list(tmp_path.rglob("evil.wav"))) == 1


def test_an_archive_that_is_cut_off_is_named_and_leaves_nothing(tmp_path):
    corpus = make_corpus(tmp_path, packed=True)
    archive = corpus / "data" / "hi_in" / "audio" / "dev.tar.gz"
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>", b""):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match=r"dev.tar.gz: damaged \(.*download it again"):
            prepare(corpus, tmp_path / "csv")
        assert {path.name for path in archive.parent.iterdir() if "dev" in path.name} == {
            "dev.tar.gz"
        }
    archive.write_bytes(whole)
    assert prepare(corpus, tmp_path / "csv")["valid"] == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"languages": ["en_us", "de_de"]},
            "has no file 'data/de_de/train.tsv'; expected a copy of",
        ),
        ({"languages": []}, "name at least one"),
        ({"splits": ["dev"]}, "splits: 'dev' is none of train, valid, test"),
        ({"text_column": "words"}, "text_column: 'words' is none of transcription, raw_transc"),
    ],
)
def test_bad_arguments_are_named(unpacked, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(unpacked, tmp_path / "csv", **changes)
    assert not (tmp_path / "csv").exists()


def test_a_folder_without_audio_is_named(unpacked, tmp_path):
    place = unpacked / "data" / "en_us" / "audio"
    (place / "test").rename(place / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"neither 'test.tar\.gz' nor a folder 'test'"):
        prepare(unpacked, tmp_path / "csv")


def test_a_table_of_other_columns_is_named(unpacked, tmp_path):
    path = unpacked / "data" / "hi_in" / "test.tsv"
    path.write_text("1\t2\t3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"test\.tsv: line 1 has 3 columns, not id, file_name"):
        prepare(unpacked, tmp_path / "csv")


def test_quotes_in_a_transcription_are_text(unpacked, tmp_path):
    path = unpacked / "data" / "en_us" / "test.tsv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("\tdo you", '\t"do you'), encoding="utf-8")
    assert '"do you' in path.read_text(encoding="utf-8")
    assert prepare(unpacked, tmp_path / "csv", languages=["en_us"])["test"] == 2
