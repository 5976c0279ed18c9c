"""diffasr evaluate: what it counts, what it leaves out, and what it writes."""

import copy
import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from speechbrain_diffasr import DiffusionASR, Segment, Transcript, cli
from speechbrain_diffasr.dataio import load_audio, read_rows
from speechbrain_diffasr.evaluation import evaluate_csvs, evaluate_rows, report
from speechbrain_diffasr.evaluation.metrics import bootstrap
from speechbrain_diffasr.text import make_normalizer

MODEL = Path(__file__).parents[2] / "pretrained" / "diffasr-tiny"
SAMPLES = {name: MODEL / "samples" / f"{name}.wav" for name in ("de_1", "de_2", "hi_1", "zh_1")}


def write_csv(path, rows, columns=("ID", "wav", "lang", "wrd")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def sample_rows():
    return [
        [name, path, name[:2], f"{path.with_suffix('.txt').read_text(encoding='utf-8').strip()}!"]
        for name, path in SAMPLES.items()
    ]


# The whole command, with the model that ships


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(source=str(MODEL), run_opts={"device": "cpu"})


@pytest.fixture(scope="module")
def run(asr, tmp_path_factory):
    """diffasr evaluate over two numbers of steps, with an utterance for every reason to skip."""
    folder = tmp_path_factory.mktemp("evaluate")
    soundfile.write(folder / "long.wav", np.random.default_rng(0).normal(0, 0.1, 7 * 16000), 16000)
    rows = sample_rows()
    bad = [
        ["de_1", SAMPLES["de_1"], "de", "twice"],
        ["silent", SAMPLES["de_1"], "de", " "],
        ["gone", "$data_root/gone.wav", "de", "nowhere"],
        ["long", "$data_root/long.wav", "de", "too much"],
        ["alien", SAMPLES["de_1"], "tlh", "nuqneH"],
    ]
    path = write_csv(folder / "test.csv", [*rows[:2], *bad, *rows[2:]])
    output, alignments, picture = folder / "all.json", folder / "alignments", folder / "steps.png"
    lines, errors = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.common, "load_model", lambda source, device, verbose: asr)
        patch.setattr("sys.stdout", SimpleNamespace(write=lines.append, flush=lambda: None))
        patch.setattr(
            "sys.stderr",
            SimpleNamespace(write=errors.append, flush=lambda: None, isatty=lambda: False),
        )
        arguments = ["--csv", path, "--steps", "1,3", "--batch-size", 3, "--device", "cpu"]
        arguments += ["--model", MODEL]
        arguments += ["--output", output, "--alignments", alignments, "--picture", picture]
        status = cli.main(["evaluate", *map(str, arguments)])
    return SimpleNamespace(
        status=status,
        out="".join(lines),
        err="".join(errors),
        report=json.loads(output.read_text(encoding="utf-8")),
        alignments=alignments,
        picture=picture,
    )


def test_the_hypotheses_are_those_of_the_interface(run, asr):
    assert [result["steps"] for result in run.report["results"]] == [1, 3]
    for result in run.report["results"]:
        assert [utterance["ID"] for utterance in result["utterances"]] == list(SAMPLES)
        for utterance in result["utterances"]:
            path, language = SAMPLES[utterance["ID"]], utterance["ID"][:2]
            text = asr.transcribe_file(path, language=language, steps=result["steps"])
            assert utterance["hypothesis"] == text
            seconds = soundfile.info(path).duration
            assert utterance["duration"] == pytest.approx(seconds, abs=2e-3)
        total = sum(utterance["duration"] for utterance in result["utterances"])
        assert result["audio_seconds"] == pytest.approx(total)
        assert result["rtfx"] == pytest.approx(total / result["computing_seconds"])
        assert 1 <= result["mean_steps_taken"] <= result["steps"]


def test_the_rates_are_those_of_jiwer_on_the_normalized_texts(run):
    compared = 0
    for result in run.report["results"]:
        for name, rates in result["rates"].items():
            assert set(rates) == {"de", "hi", "zh"}
            for language, rate in rates.items():
                own = [u for u in result["utterances"] if u["language"] == language]
                references, hypotheses = (
                    [make_normalizer(name)(u[kind], language) for u in own]
                    for kind in ("reference", "hypothesis")
                )
                assert rate["wer"] == pytest.approx(100 * jiwer.wer(references, hypotheses))
                assert rate["utterances"] == len(own)
                compared += 1
    assert compared == 2 * 3 * 3


def test_what_is_skipped_is_named_counted_and_fails(run):
    assert run.status == 1
    reasons = {
        "de_1": "ID was there already",
        "silent": "no reference",
        "gone": "gone.wav: no such file",
        "long": "7.0 s of audio, but this model hears 6 s at once",
        "alien": "unknown language 'tlh'; the model knows en,",
    }
    lines = run.err.splitlines()
    assert lines[-1].startswith("diffasr: 5 of 9 utterances were skipped")
    assert len(lines) == 6
    for name, reason in reasons.items():
        (line,) = (line for line in lines if f"test.csv: {name}: " in line)
        assert reason in line
    for result in run.report["results"]:
        assert {entry["ID"] for entry in result["skipped"]} == set(reasons)


def test_the_table_has_a_row_for_each_language_and_number_of_steps(run):
    head, _, *rows = ([cell.strip() for cell in r.split("|")[1:-1]] for r in run.out.splitlines())
    assert len({len(line) for line in run.out.splitlines()}) == 1
    assert [row[1] + row[3] for row in rows] == ["de1", "hi1", "zh1", "de3", "hi3", "zh3"]
    for row in (dict(zip(head, row, strict=True)) for row in rows):
        (result,) = (r for r in run.report["results"] if r["steps"] == int(row["steps"]))
        for name, rates in result["rates"].items():
            rate = rates[row["language"]]
            assert row[f"WER {name}"] == f"{rate['wer']:.1f}"
            assert row[f"CER {name}"] == f"{rate['cer']:.1f}"
        kind = "cer" if row["language"] == "zh" else "wer"
        assert row["judged by"] == kind.upper()
        low, high = result["rates"]["whisper"][row["language"]][f"{kind}_interval"]
        assert row["95 %"] == f"{low:.1f}–{high:.1f}"
        assert low <= result["rates"]["whisper"][row["language"]][kind] <= high


def test_the_interval_holds_the_rate_of_19_of_20_samples():
    """Drawn from utterances whose rate is known: 20 % of the words are wrong, in clusters."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        wrong = rng.binomial(10, rng.choice([0.05, 0.35], 60))
        low, high = bootstrap([{"num_edits": edits, "num_ref_tokens": 10} for edits in wrong])
        held += low <= 20.0 <= high
    assert 0.89 <= held / 200 <= 0.99


def test_the_report_says_what_was_measured_on_what(run):
    assert run.report["model"] == str(MODEL)
    assert run.report["versions"]["torch"] == torch.__version__
    assert f", {torch.get_num_threads()} thread" in run.report["hardware"]
    assert list(run.report["normalizers"]) == ["whisper", "marks", "none"]
    assert "for English EnglishTextNormalizer" in run.report["normalizers"]["whisper"]


def test_the_alignments_are_as_speechbrain_writes_them(run):
    files = sorted(path.name for path in run.alignments.iterdir())
    assert len(files) == 2 * 3 * 3
    for result in run.report["results"]:
        for name, rates in result["rates"].items():
            for language, rate in rates.items():
                kind = "cer" if language == "zh" else "wer"
                (path,) = run.alignments.glob(
                    f"{kind}_*_{language}_{name}_{result['steps']}steps.txt"
                )
                text = path.read_text(encoding="utf-8")
                assert text.startswith(f"%WER {rate[kind]:.2f} [ ")
                own = [u["ID"] for u in result["utterances"] if u["language"] == language]
                assert [line.split(",")[0] for line in text.splitlines() if ", %WER" in line] == own


def test_the_picture_has_a_colour_for_each_language(run, tmp_path):
    assert run.picture.read_bytes().startswith(b"\x89PNG")
    # Lines that coincide, as those of languages without errors do, would hide each other.
    apart = copy.deepcopy(run.report)
    for result in apart["results"]:
        for rates in result["rates"].values():
            for number, rate in enumerate(rates.values(), 1):
                rate["wer"] = rate["cer"] = 20.0 * number
    report.draw_picture(apart, tmp_path / "apart.png")
    image = Image.open(tmp_path / "apart.png").convert("RGB")
    # Without the legend, which stands at the right.
    image = image.crop((0, 0, int(0.8 * image.width), image.height))
    seen = {colour for _, colour in image.getcolors(maxcolors=1 << 24)}
    wanted = [tuple(bytes.fromhex(colour[1:])) for colour in report.COLOURS]
    assert [colour in seen for colour in wanted[:3]] == [True] * 3
    assert wanted[3] not in seen


def test_from_python_a_folder_gets_everything(asr, tmp_path):
    path = write_csv(tmp_path / "test.csv", sample_rows()[:1])
    lines = []
    result = evaluate_csvs(
        asr,
        [path],
        steps=(1, 2),
        normalizers=["marks"],
        output_folder=tmp_path / "out" / "tiny",
        echo=lines.append,
    )
    folder = tmp_path / "out" / "tiny"
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == result
    assert (folder / "table.md").read_text(encoding="utf-8").splitlines() == lines
    assert len(lines) == 4
    assert (folder / "steps.png").stat().st_size > 0
    assert len(list((folder / "alignments").iterdir())) == 2


def test_mismatched_audio_is_decoded_in_place_of_ones_own(asr, tmp_path):
    rows = read_rows(write_csv(tmp_path / "test.csv", sample_rows()))
    result = evaluate_rows(asr, rows, steps=2, mismatched_audio=True, normalizer="marks")
    first, second = result["utterances"]
    assert (first["ID"], first["audio_of"]) == ("de_1", "de_2")
    assert (second["ID"], second["audio_of"]) == ("de_2", "de_1")
    assert first["reference"] == rows[0]["wrd"]
    assert first["hypothesis"] == asr.transcribe_file(SAMPLES["de_2"], language="de", steps=2)
    assert set(result["rates"]) == {"de"}
    assert [entry["ID"] for entry in result["skipped"]] == ["hi_1", "zh_1"]


# Usage


class Echo:
    """Says the number that is the loudness of what it hears, and remembers its batches."""

    languages = ("en",)
    device = "cpu"

    def __init__(self, interrupt_at=None):
        self.batches, self.interrupt_at = [], interrupt_at
        self.decoding = {"start": "noise"}

    def load_audio(self, path):
        return load_audio(path)

    def transcribe(self, wavs, language=None, steps=None, seed=None, **others):
        if steps == self.interrupt_at:
            raise KeyboardInterrupt
        self.batches.append((len(wavs), language, steps, seed))
        return [
            Transcript((Segment(0.0, 1.0, f"{wav.max():.1f}"),), 1.0, steps=steps) for wav in wavs
        ]


@pytest.fixture
def levels(tmp_path, monkeypatch):
    """test.csv with 0.1 … 0.5, whose texts are right, and no column lang."""
    monkeypatch.chdir(tmp_path)
    for level in range(1, 6):
        soundfile.write(f"{level}.wav", np.full(1600, level / 10), 16000)
    rows = [[level, f"{level}.wav", f"0.{level}"] for level in range(1, 6)]
    write_csv("test.csv", rows, ("ID", "wav", "wrd"))
    return tmp_path


def evaluate(monkeypatch, model, *arguments):
    monkeypatch.setattr(cli.common, "load_model", lambda source, device, verbose: model)
    return cli.main(["evaluate", "--csv", "test.csv", *arguments])


def test_a_missing_file_leaves_no_gap_in_a_batch(levels, monkeypatch):
    Path("2.wav").unlink()
    model = Echo()
    options = ["--steps", "4", "--batch-size", "2", "--seed", "3", "--language", "en"]
    assert evaluate(monkeypatch, model, *options) == 1
    # The first batch goes through once more, to warm up.
    sizes = [(size, steps, seed) for size, _, steps, seed in model.batches]
    assert sizes == [(2, 1, 3), (2, 4, 3), (2, 4, 3)]
    assert [language for _, language, _, _ in model.batches] == [["en", "en"]] * 3


def test_speed_is_of_the_decoding_of_all_batches_but_the_warm_up(levels, monkeypatch):
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr("speechbrain_diffasr.evaluation.evaluate.time", clock)
    result = evaluate_rows(Echo(), read_rows("test.csv"), steps=4, batch_size=2)
    assert result["computing_seconds"] == 3
    assert result["rtfx"] == pytest.approx(5 / 3)


def test_without_any_skip_the_status_is_0_and_stderr_empty(levels, monkeypatch, capfd):
    assert evaluate(monkeypatch, Echo(), "--steps", "4", "--normalizers", "none") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert [cell.strip() for cell in out.splitlines()[2].split("|")[2:8]] == [
        *("all", "5", "4", "4.0", "0.0", "0.0")
    ]


def test_when_nothing_can_be_scored(levels, monkeypatch, capfd):
    for path in levels.glob("*.wav"):
        path.unlink()
    options = ["--steps", "1,2", "--output", "out.json", "--picture", "out.png"]
    assert evaluate(monkeypatch, Echo(), *options) == 1
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 2
    assert "5 of 5 utterances were skipped; nothing was scored; --data-root" in err
    assert json.loads(Path("out.json").read_text())["results"][0]["rtfx"] is None


def test_many_skips_are_counted_not_listed(levels, monkeypatch, capfd):
    write_csv("test.csv", [[i, "none.wav", "x"] for i in range(99)], ("ID", "wav", "wrd"))
    assert evaluate(monkeypatch, Echo(), "--steps", "1") == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[-2].endswith("… and 89 more")


def test_an_interrupt_keeps_what_was_measured(levels, monkeypatch):
    options = ["--steps", "2,3", "--output", "out.json"]
    assert evaluate(monkeypatch, Echo(interrupt_at=3), *options) == 130
    results = json.loads(Path("out.json").read_text())["results"]
    assert [result["steps"] for result in results] == [2]


def test_references_that_a_normalizer_empties_do_not_count(levels, monkeypatch, capfd):
    rows = [["a", "1.wav", "0.1"], ["b", "2.wav", "(laughs)"]]
    write_csv("test.csv", rows, ("ID", "wav", "wrd"))
    assert evaluate(monkeypatch, Echo(), "--steps", "1", "--output", "out.json") == 0
    assert "normalizer whisper leaves nothing of 1 references, such as that of b" in (
        capfd.readouterr().err
    )
    (result,) = json.loads(Path("out.json").read_text())["results"]
    assert result["empty_references"] == {"whisper": ["b"], "marks": [], "none": []}
    assert [rates["all"]["utterances"] for rates in result["rates"].values()] == [1, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--steps", "8,x"], "--steps: '8,x' is not whole numbers"),
        (["--steps", "0"], "--steps: '0' is not whole numbers"),
        (["--limit", "0"], "--limit: '0' is not a whole number of 1 or more"),
        (["--normalizers", "none,nfc"], "'nfc'; choose from whisper, marks, none"),
        (["--english-spelling", "none.json"], "--english-spelling: none.json: No such file"),
        (["--english-spelling", "test.csv"], "test.csv: not a table of spellings"),
        (["--output", "test.csv"], "--output: 'test.csv' is one of the CSV files"),
        (["--output", "no/where.json"], "--output: there is no folder"),
        (["--picture", "a.png"], "--picture: draws over several --steps"),
        (["--picture", "a.doc", "--steps", "1,2"], "must end in .png, .svg, .pdf"),
        (["--alignments", "test.csv"], "--alignments: cannot make the folder"),
        (["--language", "xx"], "unknown language 'xx'"),
    ],
)
def test_wrong_usage_gets_one_line_and_nothing_is_decoded(
    levels, monkeypatch, capfd, arguments, reason
):
    before = Path("test.csv").read_bytes()
    model = Echo()
    assert evaluate(monkeypatch, model, *arguments) == 2
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert reason in err
    assert model.batches == []
    assert Path("test.csv").read_bytes() == before


def test_names_of_data_differ_as_file_names_too():
    paths = ["x/a b/test.csv", "x/a-b/test.csv", "y/a-b/test.csv", "test.csv"]
    names = report.data_names(paths)
    assert len({report.file_name(name) for name in names}) == 4


def test_help_teaches_without_loading_torch():
    code = (
        "import sys; from speechbrain_diffasr.cli import main\n"
        "try: main(['evaluate', '--help'])\n"
        "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=MODEL.parents[1]
    )
    assert (process.returncode, process.stderr) == (0, "")
    for word in ["examples:", "--english-spelling", "RTFx", "combining marks", "exit status"]:
        assert word in process.stdout
