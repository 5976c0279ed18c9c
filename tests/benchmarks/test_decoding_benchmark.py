"""One table and one picture of several ways to decode."""

import json

import pytest


@pytest.fixture
def decoding(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    import decoding

    return decoding


def report(folder, name, seed, rates, start="noise", best=None):
    """What `diffasr evaluate --output` writes, as far as it is read."""

    def table(values):
        return {"none": {code: {"wer": value, "cer": value / 2} for code, value in values.items()}}

    settings = {"start": start, "ctc_weight": 0.0, "noise": "seed", "candidates": 1}
    results = [
        {"steps": steps, "rates": table(values), "mean_steps_taken": steps / 2}
        for steps, values in rates.items()
    ]
    if best is not None:
        results[0]["best_of"] = table(best)
    content = {
        "decoding": {**settings, "choose": "likelihood", "readings": 0},
        "seed": seed,
        "results": results,
    }
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


def test_seeds_are_one_row_and_languages_have_their_own_rate(decoding, tmp_path, capsys):
    paths = [
        report(tmp_path, "a.json", 0, {2: {"en": 10.0, "zh": 40.0}, 8: {"en": 6.0, "zh": 20.0}}),
        report(tmp_path, "b.json", 1, {2: {"en": 20.0, "zh": 44.0}}, best={"en": 5.0, "zh": 8.0}),
        report(tmp_path, "c.json", 0, {2: {"en": 8.0, "zh": 30.0}, 8: {"en": 8.0}}, "ctc"),
    ]
    picture = tmp_path / "steps.svg"
    rows = decoding.main([*paths, "--picture", str(picture), "--output", str(tmp_path / "r.json")])
    found = {(row["way"], row["steps"]): row for row in rows}
    row = found["from noise", 2]
    assert (row["seeds"], row["en"], row["zh"], row["mean"]) == (2, 15.0, 21.0, 18.0)
    assert found["from noise (best)", 2]["mean"] == pytest.approx(4.5)
    assert found["from ctc", 2]["taken"] == 1.0
    assert json.loads((tmp_path / "r.json").read_text()) == rows
    assert "from noise" in capsys.readouterr().out
    assert picture.read_text().startswith("<?xml")


def test_a_language_can_be_left_out_of_the_mean(decoding, tmp_path):
    path = report(tmp_path, "a.json", 0, {2: {"en": 10.0, "it": 90.0}})
    (row,) = decoding.main([path, "--leave_out", "it"])
    assert row["mean"] == 10.0 and row["it"] == 90.0


@pytest.mark.parametrize("content", [None, "no json", "{}"])
def test_another_file_is_named(decoding, tmp_path, capsys, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit):
        decoding.main([str(path)])
    assert f"{path}: not what diffasr evaluate --output writes" in capsys.readouterr().err
