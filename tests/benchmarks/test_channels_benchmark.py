"""The benchmark of channels: what it simulates and counts."""

import sys
from pathlib import Path

import numpy as np
import pytest

from speechbrain_diffasr import shipped_model


@pytest.fixture(scope="module")
def channels():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import channels

    return channels


def test_a_table_of_scenes(channels, monkeypatch, capsys):
    folder = str(Path(shipped_model("diffasr-tiny")) / "samples")
    monkeypatch.setattr(sys, "argv", ["channels.py", folder, "--files", "3", "--seconds", "2"])
    channels.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["apart"] * 3 + ["mixed"] * 5
    assert [row[2].split()[2] for row in rows] == ["2"] * 3 + ["15"] * 3 + ["3"] * 2
    assert sum(int(row[2].split()[0]) for row in rows) > 0.8 * (3 * 2 + 3 * 15 + 2 * 3)


def test_an_echo_comes_behind_the_sound_and_decays(channels):
    click = np.zeros(32000)
    click[0] = 1
    heard = channels.in_room(click, 0.5, 1.0, np.random.default_rng(0))
    assert 10 <= np.abs(heard).argmax() < 120
    energy = np.square(heard).reshape(-1, 1600).sum(axis=1)
    assert energy[4] < energy[1] / 100


def test_a_folder_without_sound_is_refused(channels, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["channels.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        channels.main()
    assert "fewer than two recordings" in capsys.readouterr().err
