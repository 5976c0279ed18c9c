"""The table of languages as a part of pretrained folders: found, saved, fine-tuned, and fetched."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from miniature import make_csv, noise
from recipe_runs import QUICK, run_recipe
from speechbrain.inference.ASR import EncoderDecoderASR

from speechbrain_diffasr import DiffusionASR, cli, shipped_model
from speechbrain_diffasr.decoders import LanguageTable
from speechbrain_diffasr.decoders.language_id import LANGUAGE_FILE, count_languages
from speechbrain_diffasr.inference import FolderPretrainer, save_finetuned
from speechbrain_diffasr.inference.pretrained import FILENAMES

TINY = Path(shipped_model("diffasr-tiny"))
TEXTS = {"en": ["w1 w2 w3", "w1"], "de": ["w4 w5"], "hi": ["w6 w1"]}


@pytest.fixture(scope="module")
def table(random_model):
    asr = DiffusionASR.from_hparams(random_model)
    return count_languages(TEXTS, asr.tokenizer, asr.mods.decoder.model.vocab_size)


@pytest.fixture(scope="module")
def with_table(random_model, table, tmp_path_factory):
    """The random model, with a table."""
    folder = tmp_path_factory.mktemp("with-table")
    for path in random_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    table.save(folder / LANGUAGE_FILE)
    return folder


def same(one, other):
    return one.languages == other.languages and torch.equal(one.counts, other.counts)


def test_saved_loaded_and_saved_again_it_is_the_same(with_table, table, tmp_path):
    asr = DiffusionASR.from_hparams(with_table)
    assert same(asr.language_table, table)
    for name in ("once", "twice"):
        asr.save_pretrained(tmp_path / name)
        asr = DiffusionASR.from_hparams(tmp_path / name)
        assert same(asr.language_table, table)
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == {
            path.name: path.read_bytes() for path in with_table.iterdir()
        }


def test_savedir_collects_it(with_table, table, tmp_path):
    for _ in range(2):
        asr = DiffusionASR.from_hparams(with_table, savedir=str(tmp_path))
        assert same(asr.language_table, table)
        assert (tmp_path / "language.ckpt").resolve() == (with_table / LANGUAGE_FILE).resolve()
    assert DiffusionASR.from_hparams(
        with_table, savedir=str(tmp_path / "files"), download_only=True
    ) is None  # fmt: skip
    assert (tmp_path / "files" / "language.ckpt").is_file()


def test_a_folder_without_one_loads_and_saves_without_a_word(random_model, tmp_path, caplog):
    caplog.set_level("WARNING")
    cache = tmp_path / "cache"
    asr = DiffusionASR.from_hparams(random_model, savedir=str(cache))
    assert asr.language_table is None
    assert not list(cache.glob("language*"))
    asr.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / LANGUAGE_FILE).exists()
    assert DiffusionASR.from_hparams(tmp_path / "copy").language_table is None
    assert not caplog.records


def test_stock_speechbrain_loads_a_folder_with_one(with_table, tmp_path):
    stock = EncoderDecoderASR.from_hparams(str(with_table), savedir=str(tmp_path))
    assert stock.hparams.pretrainer.language_table.languages == list(TEXTS)


@pytest.mark.parametrize("relative", [False, True])
def test_it_can_come_from_another_folder(with_table, random_model, table, tmp_path, relative):
    source = os.path.relpath(with_table, tmp_path) if relative else str(with_table)
    text = (random_model / "hyperparams.yaml").read_text()
    sources = ", ".join(f"{name}: {source}" for name in FILENAMES)
    (tmp_path / "hyperparams.yaml").write_text(
        text.replace("\nsources: {}\n", f"\nsources: {{{sources}}}\n")
    )
    asr = DiffusionASR.from_hparams(tmp_path)
    assert same(asr.language_table, table)

    # Saved elsewhere, it finds the other parts still, and a table that has changed is kept.
    codes = table.languages[:2]
    asr.language_table = LanguageTable(table.counts[:2], codes)
    copy = tmp_path / "a" / "copy"
    asr.save_pretrained(copy)
    assert {path.name for path in copy.iterdir()} == {"hyperparams.yaml", LANGUAGE_FILE}
    again = DiffusionASR.from_hparams(copy)
    assert again.language_table.languages == codes
    wav = torch.randn(16000, generator=torch.Generator().manual_seed(1))
    assert again.transcribe([wav])[0].text == asr.transcribe([wav])[0].text


def test_one_that_is_named_must_be_there(random_model):
    sources = {"sources": {"language": str(random_model)}}
    with pytest.raises(FileNotFoundError, match=LANGUAGE_FILE):
        DiffusionASR.from_hparams(random_model, overrides=sources)


def test_one_that_does_not_fit_is_named(with_table, table, tmp_path, capsys):
    for path in with_table.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / LANGUAGE_FILE
    for spoil, reason in (
        (lambda: path.write_bytes(b"no table"), "not a table of languages; remove it, and make"),
        (lambda: LanguageTable(table.counts[:, :50] + 1, table.languages).save(path),
         "the table counts 50 tokens, the model has 120; remove it, and make one with"),
    ):  # fmt: skip
        spoil()
        assert cli.main(["transcribe", "a.wav", "--model", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{LANGUAGE_FILE}: " in line and reason in line


def test_a_table_of_another_model_does_not_stay(random_model, with_table, tmp_path):
    DiffusionASR.from_hparams(with_table).save_pretrained(tmp_path)
    DiffusionASR.from_hparams(random_model).save_pretrained(tmp_path)
    assert DiffusionASR.from_hparams(tmp_path).language_table is None


def test_a_pretrainer_without_a_folder_misses_nothing(random_model):
    projector = DiffusionASR.from_hparams(random_model).mods.encoder.projector
    pretrainer = FolderPretrainer({"projector": projector}, {"projector": str(random_model)})
    assert set(pretrainer.collect_files()) == {"projector"}
    pretrainer.load_collected()


def test_a_fine_tuned_folder_tells_its_languages(tmp_path, capsys):
    """Italian, which diffasr-tiny has not, beside the six that it has."""
    asr = DiffusionASR.from_hparams(TINY)
    old = asr.language_table
    asr.mods.decoder.prompt.languages["it"] = "Italian"
    texts = {"it": ["non lo so", "grazie mille", "che cosa vuoi"], "de": ["nur dies"]}
    asr.language_table = count_languages(texts, asr.tokenizer, 3072, old)
    save_finetuned(asr, TINY, tmp_path)

    again = DiffusionASR.from_hparams(tmp_path)
    assert again.language_table.languages == [*old.languages, "it"] == again.languages
    assert torch.equal(again.language_table.counts[:-1], old.counts)
    samples = [str(TINY / "samples" / f"{code}_1.wav") for code in ("de", "hi")]
    assert cli.main(["transcribe", *samples, "--model", str(tmp_path), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["language"] for one in told] == ["de", "hi"]
    assert all(0.9 < one["language_probability"] <= 1 for one in told)


def test_a_language_joins_those_of_the_model(random_model, tmp_path):
    """Fine-tuned twice: the first table stays, the second language alone is counted."""
    source, tables = random_model, []
    for name, english, lang in (("first", "w1 w2", "de"), ("second", "w9", "hi")):
        make_csv(tmp_path / name, [(noise(1.0), english, "en"), (noise(0.8), "w6", lang)])
        output = tmp_path / f"{name}-results"
        run_recipe(
            "CSV", "train.yaml", "--pretrained", source, "--output_folder", output,
            "--data_folder", tmp_path / name, "--train_csv", "train.csv",
            "--valid_csv", "valid.csv", *QUICK,
        )  # fmt: skip
        source = output / "pretrained"
        tables.append(DiffusionASR.from_hparams(source).language_table)
    first, second = tables
    assert set(first.languages) == {"en", "de"}
    assert second.languages == [*first.languages, "hi"]
    assert torch.equal(second.counts[:2], first.counts)
    assert second.counts[2].sum() == 1


def test_the_digits_that_ship_are_told_to_be_english(capsys):
    digits = TINY.with_name("diffasr-tiny-digits")
    sample = str(TINY / "samples" / "digits_1.wav")
    assert cli.main(["transcribe", sample, "--model", str(digits), "--format", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["language"] == "en" and told["language_probability"] > 0.9


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves OWNER/NAME/resolve/REVISION/FILE as the Hugging Face Hub does."""

    protocol_version = "HTTP/1.1"
    folder = None
    asked = None

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        owner, name, _, _, file = self.path.lstrip("/").split("/", 4)
        path = self.folder / f"{owner}-{name}" / file
        self.asked.append(self.path)
        content = path.read_bytes() if path.is_file() else b"Entry not found"
        self.send_response(200 if path.is_file() else 404)
        if path.is_file():
            self.send_header("ETag", f'"{len(content)}-{file}"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0123456789" * 4)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def hub(with_table, random_model, tmp_path_factory):
    """Address of a Hub with a few repositories, and what it is asked for."""
    root = tmp_path_factory.mktemp("hub")
    (root / "me-told").symlink_to(with_table)
    (root / "me-untold").symlink_to(random_model)
    # All parts lie in another repository; the table is named, or lies beside the projector.
    text = (random_model / "hyperparams.yaml").read_text()
    for name, parts in (("named", FILENAMES), ("beside", FILENAMES.keys() - {"language"})):
        sources = ", ".join(f"{part}: me/told" for part in parts)
        (root / f"me-{name}").mkdir()
        (root / f"me-{name}" / "hyperparams.yaml").write_text(
            text.replace("\nsources: {}\n", f"\nsources: {{{sources}}}\n")
        )
    Hub.folder, Hub.asked = root, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", Hub.asked
        server.shutdown()


LOAD = """
import sys
from speechbrain_diffasr import DiffusionASR
for source, savedir in zip(sys.argv[1::2], sys.argv[2::2]):
    asr = DiffusionASR.from_hparams(source, **({"savedir": savedir} if savedir else {}))
    print(source, getattr(asr.language_table, "languages", None))
"""


def test_it_comes_from_the_hub(hub, tmp_path):
    address, asked = hub
    environment = {
        **os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    expected = [
        (source, savedir, str(list(TEXTS)) if told else "None")
        for source, savedir, told in (
            ("me/told", "", True), ("me/untold", "", False), ("me/named", "", True),
            ("me/beside", "", True), ("me/untold", "without", False), ("me/told", "with", True),
            ("me/beside", "beside", True),
        )
    ]  # fmt: skip

    def load(**more):
        sources = [part for source, savedir, _ in expected for part in (source, savedir)]
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *sources],
            cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert LANGUAGE_FILE not in done.stderr
        assert done.stdout.splitlines() == [f"{source} {told}" for source, _, told in expected]

    load()
    assert any(path.startswith(f"/me/untold/resolve/main/{LANGUAGE_FILE}") for path in asked)
    for savedir in ("with", "beside"):
        assert (tmp_path / savedir / "language.ckpt").is_file()
    assert not list((tmp_path / "without").glob("language*"))
    # All of it, and what is not there, is known without the Hub.
    before = len(asked)
    load(HF_HUB_OFFLINE="1")
    assert len(asked) == before
