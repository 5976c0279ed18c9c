"""One clip, several models: who took how long, in turns."""

import json
import sys
from pathlib import Path

import pytest

from speechbrain_diffasr import shipped_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import clip

SAMPLE = Path(shipped_model("diffasr-tiny")) / "samples" / "en_1.wav"


def test_models_take_turns_behind_a_warm_up():
    order = []
    models = {name: lambda path, name=name: order.append(name) or f"{name}!" for name in "ab"}
    seconds, texts = clip.take_turns(models, "x.wav", 2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert texts == {"a": "a!", "b": "b!"}


@pytest.mark.slow
def test_the_table_says_what_was_heard(monkeypatch, capsys, tmp_path):
    output = tmp_path / "clip.json"
    arguments = ["clip.py", str(SAMPLE), "--runs", "2", "--steps", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    clip.main()
    *_, row = capsys.readouterr().out.splitlines()
    name, median, fastest, slowest, speed, heard = (x.strip() for x in row.strip("|").split("|"))
    report = json.loads(output.read_text(encoding="utf-8"))
    times = sorted(report["seconds"][name])
    assert name == "diffasr-tiny" and report["texts"][name] == heard
    assert float(median) == pytest.approx(sum(times) / 2, abs=0.006)
    assert [float(fastest), float(slowest)] == pytest.approx(times, abs=0.006)
    assert float(speed) > 0
