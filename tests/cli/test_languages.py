"""`diffasr languages`: what it writes, what it keeps, and what it refuses."""

import json

import pytest
import torch

from speechbrain_diffasr import DiffusionASR, cli
from speechbrain_diffasr.decoders import LanguageTable
from speechbrain_diffasr.decoders.language_id import LANGUAGE_FILE


@pytest.fixture
def folder(random_model, tmp_path):
    """A model without a table, whose words are tokens."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in random_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def write(path, *rows):
    lines = [f"{n},{n}.wav,{lang},{text}\n" for n, (lang, text) in enumerate(rows)]
    path.write_text("ID,wav,lang,wrd\n" + "".join(lines), encoding="utf-8")
    return path


def languages(*arguments):
    return cli.main(["languages", *map(str, arguments)])


def counts(folder):
    """{language: {word: occurrences}}"""
    table = LanguageTable.load(folder / LANGUAGE_FILE)
    tokenizer = DiffusionASR.from_hparams(folder).tokenizer
    return {
        language: {tokenizer.decode_ids([token]): int(row[token]) for token in row.nonzero()}
        for language, row in zip(table.languages, table.counts, strict=True)
    }


def test_a_table_is_made_then_used_then_grows(folder, tmp_path, capsys):
    first = write(tmp_path / "a.csv", ("en", "w1 w2"), ("en", "w1"), ("de", "w3"))
    assert languages(first, "--model", folder) == 0
    assert capsys.readouterr() == (f"{folder / LANGUAGE_FILE}: en, de\n", "")
    assert counts(folder) == {"en": {"w1": 2, "w2": 1}, "de": {"w3": 1}}

    import soundfile

    wav = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "a.wav", wav.numpy(), 16000)
    command = ["transcribe", str(tmp_path / "a.wav"), "--model", str(folder), "--format", "json"]
    assert cli.main(command) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["language"] in ("en", "de") and 0.5 <= told["language_probability"] <= 1

    second = write(tmp_path / "b.csv", ("de", "w9"), ("hi", "w4"), ("zh", "w5"))
    assert languages(second, "--model", folder) == 0
    assert capsys.readouterr().out == f"{folder / LANGUAGE_FILE}: hi, zh, beside en, de\n"
    grown = {"en": {"w1": 2, "w2": 1}, "de": {"w3": 1}, "hi": {"w4": 1}, "zh": {"w5": 1}}
    assert counts(folder) == grown

    assert languages(second, "--model", folder) == 2
    assert "has de, hi, zh already; --replace counts anew" in capsys.readouterr().err
    assert counts(folder) == grown
    assert languages(first, second, "--model", folder, "--replace") == 0
    assert counts(folder) == {**grown, "de": {"w3": 1, "w9": 1}}
    assert languages(second, "--model", folder, "--replace") == 0
    assert set(counts(folder)) == {"de", "hi", "zh"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([("en", "w1")], "only en has texts, which leaves nothing to tell apart"),
        ([("en", "w1"), ("it", "w2")], "unknown language 'it'; the model knows en, de, fr"),
        ([("en", "w1"), ("", "w2")], "texts.csv: line 3 has no lang"),
        ([], "texts.csv: no utterances"),
    ],
)
def test_texts_that_make_no_table_are_refused(folder, tmp_path, capsys, content, reason):
    assert languages(write(tmp_path / "texts.csv", *content), "--model", folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("diffasr: ") and reason in line
    assert not (folder / LANGUAGE_FILE).exists()


def test_a_model_that_can_take_none_is_refused(folder, random_model, tmp_path, capsys):
    texts = write(tmp_path / "texts.csv", ("en", "w1"), ("de", "w2"))

    def refusal(csv, model):
        assert languages(csv, "--model", model) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "nowhere.csv: cannot be read (No such file" in refusal("nowhere.csv", folder)
    assert "'nowhere' is neither a folder nor OWNER/NAME" in refusal(texts, "nowhere")
    assert "'me/model' is not a folder that a table could be" in refusal(texts, "me/model")

    path = folder / "hyperparams.yaml"
    here = path.read_text().replace("\nsources: {}\n", f"\nsources: {{language: {tmp_path}}}\n")
    path.write_text(here)
    LanguageTable(torch.ones(2, 120, dtype=torch.int32), ["en", "de"]).save(
        tmp_path / LANGUAGE_FILE
    )
    line = refusal(texts, folder)
    assert f"takes its table from '{tmp_path}', as sources in its hyperparams.yaml says" in line
    assert cli.main(["languages", str(texts)]) == 2
    assert "--model" in capsys.readouterr().err
