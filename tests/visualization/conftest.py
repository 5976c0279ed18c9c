"""Terminals."""

import pytest
from terminals import PROMPT, Terminal

from speechbrain_diffasr.visualization import terminal as watch


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: None)
    opened = []

    def make(columns=80, lines=24):
        terminal = Terminal(columns, lines)
        opened.append(terminal)
        terminal.file.write(f"{PROMPT}\r\n")
        terminal.file.flush()
        return terminal

    yield make
    for each in opened:
        each.close()
