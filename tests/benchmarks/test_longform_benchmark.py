"""The benchmark of long audio, with some seconds of it: what it joins, counts and reports."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import jiwer
import pytest
import soundfile
import torch

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.dataio import load_audio

SAMPLES = Path(shipped_model("diffasr-tiny")) / "samples"
RATE = 16000


@pytest.fixture(scope="module")
def longform():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import longform

    return longform


@pytest.fixture
def table(tmp_path):
    """A CSV file of four samples, and of two rows that cannot be used."""
    lines = ["ID,wav,lang,wrd"]
    for name in ("en_1", "en_2", "de_1", "de_2"):
        text = (SAMPLES / f"{name}.txt").read_text(encoding="utf-8").strip()
        lines.append(f"{name},$data_root/{name}.wav,{name[:2]},{text}")
    lines += ["no_text,$data_root/en_3.wav,en,", "en_1,$data_root/en_1.wav,en,twice"]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "test.csv"


def test_the_recording_is_its_pieces_with_pauses_between(longform, table, tmp_path, monkeypatch):
    monkeypatch.setattr(longform, "STRETCH", 8.0)
    samples = longform.read_samples([str(table)], str(SAMPLES))
    assert len(samples) == 4
    pieces = longform.make_recording(tmp_path / "a.wav", samples, 30.0, seed=1)
    wav = load_audio(tmp_path / "a.wav")
    assert len(wav) / RATE == soundfile.info(tmp_path / "a.wav").duration >= 30
    sounds = {text: (load_audio(file), language) for file, text, language in samples}
    behind, order = 0, []
    for first, end, text in pieces:
        sound, language = sounds[text]
        assert 0.3 <= (first - behind) / RATE <= 2.5
        assert wav[behind:first].abs().max() < 6 * longform.NOISE
        assert (wav[first:end] - sound).abs().max() < 6 * longform.NOISE
        behind = end
        order.append((language, text))
    spoken = [language for language, _ in order]
    changes = sum(a != b for a, b in pairwise(spoken))
    assert 2 <= changes <= 4  # 30 s in stretches of 8 s
    english = [text for language, text in order if language == "en"]
    assert all(a != b for a, b in zip(english[::2], english[1::2], strict=False))
    again = longform.make_recording(tmp_path / "b.wav", samples, 30.0, seed=1)
    assert again == pieces
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert longform.make_recording(tmp_path / "c.wav", samples, 30.0, seed=2) != pieces


def test_errors_are_counted_as_words_and_characters(longform):
    one = longform.count_errors("one two three four", "one too three four five six")
    assert one == {"substitutions": 1, "deletions": 0, "insertions": 2, "words": 4}
    chinese = longform.count_errors("你好吗", "你好")
    assert chinese == {"substitutions": 0, "deletions": 1, "insertions": 0, "words": 3}
    assert longform.count_errors("one two", "")["deletions"] == 2
    assert longform.error_rate([one]) == 75.0
    assert longform.error_rate([one, chinese]) == pytest.approx(100 * 4 / 7)


def test_texts_are_compared_as_models_write_them(longform, tmp_path):
    table = tmp_path / "people.csv"
    table.write_text('ID,wav,lang,wrd\na,a.wav,en,"Well, it\'s Bob."\n', encoding="utf-8")
    ((_, text, language),) = longform.read_samples([str(table)])
    assert (text, language) == ("well it's bob", "en")


@pytest.mark.slow
def test_ways_are_compared_with_the_pieces(longform, table, tmp_path, monkeypatch, capsys):
    """With the real model, but in this process."""
    asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    monkeypatch.setattr(longform.DiffusionASR, "from_hparams", lambda *args, **kwargs: asr)
    monkeypatch.setattr(longform, "in_process", longform.transcribe)
    result = longform.main(
        [
            *("--csv", str(table), "--data_root", str(SAMPLES), "--seconds", "9", "4"),
            *("--seeds", "0", "1", "--ways", "fixed", "known_packed"),
            *("--output", str(tmp_path / "new" / "figures.json")),
        ]
    )
    assert json.loads((tmp_path / "new" / "figures.json").read_text()) == result
    assert (result["samples"], result["seconds"], result["seeds"]) == (4, [4.0, 9.0], [0, 1])
    pieces, fixed, packed = result["results"]
    assert [row["cut"] for row in (pieces, fixed, packed)] == ["pieces", "fixed", "known_packed"]
    assert pieces["seam_errors"] == 0.0
    for row in (pieces, fixed, packed):
        assert set(row["peak_mb"]) == {"4", "9"}
        assert row["rtfx"] > 0
        assert row["wer"] == longform.error_rate(row["errors"])
    said, alone, together = [], [], []
    for seed in (0, 1):
        samples = longform.read_samples([str(table)], str(SAMPLES))
        found = longform.make_recording(tmp_path / "again.wav", samples, 9.0, seed)
        wav = load_audio(tmp_path / "again.wav")
        said.append(" ".join(text for *_, text in found))
        heard = asr.transcribe([wav[first:behind] for first, behind, _ in found])
        alone.append(" ".join(one.text for one in heard))
        together.append(asr.transcribe_file(tmp_path / "again.wav", segmentation="fixed"))
    assert pieces["wer"] == pytest.approx(100 * jiwer.wer(said, alone))
    assert fixed["wer"] == pytest.approx(100 * jiwer.wer(said, together))
    assert fixed["seam_errors"] == pytest.approx(100 * jiwer.wer(alone, together))
    assert "| cut | wer | seam_errors | rtfx |" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(longform, tmp_path):
    soundfile.write(tmp_path / "a.wav", load_audio(SAMPLES / "en_1.wav").numpy(), RATE)
    ballast = torch.ones(2**28)  # 1 GiB that the other process does not have
    spans = [(0, soundfile.info(tmp_path / "a.wav").frames)]
    found = longform.in_process(
        shipped_model("diffasr-tiny"), str(tmp_path / "a.wav"), "pieces", spans, "cpu", 1
    )
    assert found["text"] and found["seconds"] > 0
    assert found["peak_mb"] > 100
    assert found["peak_mb"] < 1e-6 * (longform.peak_memory() - ballast.nbytes / 4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--csv", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--samples", "nowhere"], "nowhere: no WAV files with texts beside them"),
        (["--csv", "TABLE", "--longest", "0.01"], "no utterances that can be used"),
        (["--csv", "TABLE", "--language", "fr"], "no utterances that can be used"),
        (["--csv", "TABLE", "--samples", "nowhere"], "not allowed with"),
    ],
)
def test_bad_input_gets_one_line(longform, table, options, reason, capsys):
    options = [str(table) if option == "TABLE" else option for option in options]
    with pytest.raises(SystemExit):
        longform.main([*options, "--data_root", str(SAMPLES)])
    assert reason in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_too_long_utterances_name_the_remedy(longform, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "en_long.wav", 0.1 * torch.randn(7 * RATE).numpy(), RATE)
    (tmp_path / "en_long.txt").write_text("too long")
    with pytest.raises(SystemExit):
        longform.main(["--samples", str(tmp_path), "--seconds", "3"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert "an utterance of 7.00 s" in error and "leave such out with --longest 6" in error
