"""A command line without a model."""

import pytest
from fake_recognizer import Recognizer, cli


@pytest.fixture
def model(monkeypatch):
    recognizer = Recognizer()
    monkeypatch.setattr(cli.common, "load_model", lambda source, device, verbose: recognizer)
    return recognizer
