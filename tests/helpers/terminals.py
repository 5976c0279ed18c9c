"""A terminal emulator that a canvas is watched in."""

import fcntl
import os
import pty
import struct
import termios
import threading

import pytest
import wcwidth

from speechbrain_diffasr.visualization import CanvasView

PROMPT = "$ diffasr"


# Terminals ignore NUL: it marks that all before it has arrived.
MARK = b"\0"


def watch_files(asr, paths, file, steps=None, **options):
    """Transcribes files one by one and shows the canvas, as the command does with --watch."""
    max_steps = asr.mods.decoder.sampler.check_steps(steps)
    with CanvasView(asr.tokenizer, max_steps, file) as view:
        callbacks = {"callback": view, "on_start": view.start}
        yield from asr.stream_files(paths, steps=steps, batch_size=1, **callbacks, **options)


def emulator():
    return pytest.importorskip("pyte", reason="needs a terminal emulator: pip install pyte")


class Terminal:
    """A pseudo-terminal whose screen can be looked at."""

    def __init__(self, columns, lines):
        pyte = emulator()
        self.master, slave = pty.openpty()
        self.file = os.fdopen(slave, "w", encoding="utf-8", newline="")
        self.received = b""
        self.resize(columns, lines)
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.Stream(self.screen)
        self.decoded = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.arrived = threading.Condition()
        self.marks = 0
        self.reader.start()

    def resize(self, columns, lines):
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.file.fileno(), termios.TIOCSWINSZ, size)

    def _read(self):
        while True:
            try:
                data = os.read(self.master, 4096)
            except OSError:
                return
            with self.arrived:
                self.received += data
                self.arrived.notify_all()

    def look(self):
        """The lines of the screen, once everything written has arrived."""
        self.marks += 1
        os.write(self.file.fileno(), MARK)
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.received.count(MARK) >= self.marks, 30)
            data = self.received.replace(MARK, b"").decode()
        # pyte drops what follows a combining mark within one call.
        for character in data[self.decoded :]:
            self.stream.feed(character)
        self.decoded = len(data)
        return [line.rstrip() for line in self.screen.display]

    def bold(self, row):
        """The text of a row that is bold."""
        cells = self.screen.buffer[row]
        return "".join(cells[x].data for x in range(self.screen.columns) if cells[x].bold)

    def close(self):
        self.file.close()  # which ends the reader
        self.reader.join()
        os.close(self.master)


def visible(text):
    """Words of a text without what takes no column: pyte drops the vowel signs of Hindi."""
    return "".join(character for character in text if wcwidth.wcwidth(character) > 0).split()
