"""Data preparation of recipes/VoxPopuli, on a miniature of the corpus."""

import gzip
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from miniature import load_recipe, noise, rows_of, skipped_of, times_of
from miniature_more import make_voxpopuli

from speechbrain_diffasr.dataio import load_audio

recipe = load_recipe("VoxPopuli")


def chirp(seconds, low, high):
    """A tone that rises, so that every stretch of it sounds different, [T]."""
    pitch = torch.linspace(low, high, int(16000 * seconds))
    return 0.3 * torch.sin(2 * torch.pi * pitch.cumsum(0) / 16000)


UTTERANCES = [
    (chirp(1.2, 200, 600), "mister president", "en"),
    (chirp(0.9, 900, 300), "it's over", "en"),
    (chirp(1.0, 500, 1500), "vielen dank für die größe", "de"),
]
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_voxpopuli(tmp_path_factory.mktemp("voxpopuli"), UTTERANCES)


@pytest.fixture(scope="module")
def cut_corpus(tmp_path_factory):
    return make_voxpopuli(tmp_path_factory.mktemp("voxpopuli-cut"), UTTERANCES, cut=True)


def prepare(corpus, output, **changes):
    settings = {"languages": ["en", "de"], "workers": 2, "progress": False}
    return recipe.prepare_voxpopuli(corpus, output, **{**settings, **changes})


def likeness(wav, other):
    """1 for the same waveform; Vorbis changes the samples but not what they are about."""
    assert abs(len(wav) - len(other)) <= 2
    length = min(len(wav), len(other))
    return torch.cosine_similarity(wav[:length], other[:length], dim=0).item()


def edit(path, old, new):
    """Replaces a text in a gzipped file."""
    content = gzip.decompress(path.read_bytes()).decode()
    assert old in content
    path.write_bytes(gzip.compress(content.replace(old, new).encode()))


def test_clips_are_the_joined_stretches_of_a_recording(corpus, tmp_path):
    assert prepare(corpus, tmp_path) == {"train": 3, "valid": 3, "test": 3}
    for split in SPLITS:
        for row, (wav, text, lang) in zip(rows_of(tmp_path, split), UTTERANCES, strict=True):
            assert (row["wrd"], row["lang"]) == (text, lang)
            path = Path(row["wav"].replace("$data_root", str(tmp_path)))
            info = soundfile.info(path)
            assert (info.format, info.samplerate, info.channels) == ("FLAC", 16000, 1)
            assert float(row["duration"]) == pytest.approx(len(wav) / 16000, abs=1e-3)
            # Half a second of noise lies between the stretches, and none may be in the clip.
            assert likeness(load_audio(path), wav) > 0.99
        assert not skipped_of(tmp_path, split)
    first = rows_of(tmp_path, "valid")[0]
    assert first["ID"] == "20110908-0900-PLENARY-1-en_20110908-09:06:43_2"
    assert first["voice"] == "101"


def test_what_is_cut_already_gives_the_same(corpus, cut_corpus, tmp_path):
    prepare(corpus, tmp_path / "raw")
    prepare(cut_corpus, tmp_path / "cut")
    for split in SPLITS:
        raw, cut = rows_of(tmp_path / "raw", split), rows_of(tmp_path / "cut", split)
        for one, other in zip(raw, cut, strict=True):
            path = cut_corpus / other.pop("wav").removeprefix("$data_root/")
            assert path.suffix == ".ogg"
            cut_by_us = Path(one.pop("wav").replace("$data_root", str(tmp_path / "raw")))
            assert likeness(load_audio(path), load_audio(cut_by_us)) > 0.98
            assert float(one.pop("duration")) == pytest.approx(
                float(other.pop("duration")), abs=1e-3
            )
            assert one == other
    # Nothing was copied.
    assert not (tmp_path / "cut" / "wavs").exists()


def test_a_finished_folder_is_left_alone_and_an_interrupted_one_continues(corpus, tmp_path):
    prepare(corpus, tmp_path)
    before = times_of(tmp_path)
    prepare(corpus, tmp_path)
    assert times_of(tmp_path) == before

    content = (tmp_path / "train.csv").read_bytes()
    lost = sorted((tmp_path / "wavs" / "train").iterdir())[0]
    lost.unlink()
    (tmp_path / "train.csv").unlink()
    prepare(corpus, tmp_path)
    assert (tmp_path / "train.csv").read_bytes() == content
    after = times_of(tmp_path)
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {lost, tmp_path / "train.csv"}


def test_raw_text_is_the_published_one(corpus, tmp_path):
    texts = []
    for text in ("raw", "normalized"):
        # A normalized text that is empty, as some are, leaves its clip out.
        copy = tmp_path / text
        shutil.copytree(corpus, copy)
        annotation = copy / "transcribed_data" / "en" / "asr_en.tsv.gz"
        edit(annotation, "It's over.|it's over|100", "It's 9 now.||100")
        prepare(copy, copy / "data", text=text, languages=["en"])
        texts.append([row["wrd"] for row in rows_of(copy / "data", "train")])
        left_out = skipped_of(copy / "data", "train")
    assert texts == [["mister president", "it's 9 now"], ["mister president"]]
    assert list(left_out.values()) == ["no text is left after normalization"]


def test_corrupt_and_missing_recordings_are_named_and_left_out(cut_corpus, tmp_path, caplog):
    shutil.copytree(cut_corpus, tmp_path / "corpus")
    oggs = sorted((tmp_path / "corpus" / "transcribed_data" / "en" / "2011").iterdir())
    oggs[0].unlink()
    oggs[1].write_bytes(oggs[1].read_bytes()[:2000])
    with caplog.at_level("WARNING"):
        counts = prepare(tmp_path / "corpus", tmp_path / "data")
    assert counts == {"train": 1, "valid": 3, "test": 3}
    skipped = skipped_of(tmp_path / "data", "train")
    assert skipped[oggs[0].stem] == "no such file"
    assert "truncated" in skipped[oggs[1].stem]
    assert "train: 2 of 3 clips left out" in caplog.text
    assert oggs[0].name in caplog.text and oggs[1].name in caplog.text


def test_a_session_that_was_not_downloaded_is_named(corpus, tmp_path, caplog):
    shutil.copytree(corpus, tmp_path / "corpus")
    shutil.rmtree(tmp_path / "corpus" / "raw_audios" / "original" / "2010")
    with caplog.at_level("WARNING"):
        counts = prepare(tmp_path / "corpus", tmp_path / "data")
    assert counts == {"train": 2, "valid": 2, "test": 2}
    assert "2010/20100908-0900-PLENARY-0_original.ogg: no such file" in caplog.text


def test_stretches_behind_the_end_are_named(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    recording = next((tmp_path / "corpus" / "raw_audios").rglob("2011*.ogg"))
    soundfile.write(recording, noise(2.5).numpy(), 16000, format="OGG", subtype="VORBIS")
    counts = prepare(tmp_path / "corpus", tmp_path / "data", languages=["en"], splits=["train"])
    assert counts == {"train": 1}
    (reason,) = skipped_of(tmp_path / "data", "train").values()
    assert reason.startswith("outside of its recording (") and reason.endswith("of 2.50 s)")


def test_the_annotation_may_be_unpacked_and_lie_in_the_folder_itself(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    for lang, name in (("en", "asr_en.tsv"), ("de", "asr_de.tsv.gz")):
        packed = tmp_path / "corpus" / "transcribed_data" / lang / f"asr_{lang}.tsv.gz"
        content = packed.read_bytes()
        packed.unlink()
        is_packed = name.endswith(".gz")
        (tmp_path / "corpus" / name).write_bytes(content if is_packed else gzip.decompress(content))
    assert prepare(tmp_path / "corpus", tmp_path / "data") == dict.fromkeys(SPLITS, 3)


def test_accented_english_is_english(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    folder = tmp_path / "corpus" / "transcribed_data"
    (folder / "en").rename(folder / "en_accented")
    (folder / "en_accented" / "asr_en.tsv.gz").rename(
        folder / "en_accented" / "asr_en_accented.tsv.gz"
    )
    prepare(tmp_path / "corpus", tmp_path / "data", languages=["en_accented"], splits=["test"])
    assert {row["lang"] for row in rows_of(tmp_path / "data", "test")} == {"en"}
    assert not (tmp_path / "data" / "train.csv").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[", "((", r"asr_en.tsv.gz: vad of 2011.* is '\(\(.*', not \[\[start, stop\], ...\]"),
        ("|vad|", "|spans|", "asr_en.tsv.gz: no column 'vad', only 'session_id', 'id_'"),
        ("|0|Mister", "\r\n|0|Mister", "asr_en.tsv.gz: line 2 has 2 values, not 11"),
    ],
)
def test_a_damaged_annotation_is_named(corpus, tmp_path, old, new, message):
    shutil.copytree(corpus, tmp_path / "corpus")
    edit(tmp_path / "corpus" / "transcribed_data" / "en" / "asr_en.tsv.gz", old, new)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "corpus", tmp_path / "data")


def test_an_annotation_that_was_cut_short_is_named(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    path = tmp_path / "corpus" / "transcribed_data" / "en" / "asr_en.tsv.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"asr_en.tsv.gz: damaged \("):
        prepare(tmp_path / "corpus", tmp_path / "data")


def test_bad_arguments_are_named(corpus, tmp_path):
    for changes, message in (
        ({"text": "golden"}, "text: 'golden' is none of normalized, raw"),
        ({"splits": ["dev"]}, "splits: 'dev' is none of train, valid, test"),
        ({"languages": []}, "name at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(corpus, tmp_path / "data", **changes)
    with pytest.raises(FileNotFoundError, match="has no transcripts of 'fr', neither"):
        prepare(corpus, tmp_path / "data", languages=["en", "fr"])
    assert not (tmp_path / "data").exists()


def test_a_wrong_folder_is_one_sentence(corpus, tmp_path, monkeypatch, capsys):
    from speechbrain_diffasr.recipe import run_prepare

    monkeypatch.chdir(tmp_path)
    without_audio = tmp_path / "without"
    shutil.copytree(corpus / "transcribed_data", without_audio / "transcribed_data")
    for folder, message in (
        (tmp_path / "nothing", "is no folder; expected the folder that VoxPopuli's scripts call"),
        (tmp_path, "has no transcripts of 'en', neither transcribed_data/en/asr_en.tsv.gz nor"),
        (without_audio, "has no folder 'raw_audios/original'; expected the recordings"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_prepare(
                recipe.prepare_voxpopuli, ["--data_folder", str(folder), "--output_folder", "data"]
            )
        assert message in str(stopped.value)
        assert "\n" not in str(stopped.value)
    assert not (tmp_path / "data").exists()
