"""A command line without a model."""

import numpy as np
import pytest
import soundfile
from fake_recognizer import Recognizer

from speechbrain_diffasr import cli


@pytest.fixture
def model(monkeypatch):
    recognizer = Recognizer()
    monkeypatch.setattr(cli.common, "load_model", lambda source, device, verbose: recognizer)
    return recognizer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """1.wav … 5.wav, each louder than the one before, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for level in range(1, 6):
        soundfile.write(f"{level}.wav", np.full(1600 * level, level / 10), 16000)
    return tmp_path
