"""The canvas in a terminal: real pseudo-terminals, read by an independent emulator."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path

import pytest
import torch
import wcwidth
from terminals import PROMPT, emulator, visible, watch_files
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from speechbrain_diffasr import AudioError, DiffusionASR, shipped_model
from speechbrain_diffasr.decoders import Draft
from speechbrain_diffasr.lobes import Tokenizer
from speechbrain_diffasr.visualization import CanvasView
from speechbrain_diffasr.visualization.terminal import clip, wrap_tokens

SAMPLES = Path(shipped_model("diffasr-tiny")) / "samples"


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer of words, one of which would clear the screen."""
    words = ["<eos>", "<unk>", "a", "\x1b[2J\x1b[31m", "回事", "x" * 200, *map(str, range(100))]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    backend.save(str(path))
    tokenizer = Tokenizer()
    tokenizer.load(path)
    return tokenizer


def make_draft(step, tokens, accepted=None):
    canvas = torch.tensor([tokens])
    kept = torch.tensor([accepted or [True] * len(tokens)])
    entropy = torch.full(canvas.shape, 0.25)
    return Draft(step, canvas, canvas, kept, entropy, torch.tensor([False]))


@pytest.mark.parametrize("columns", [80, 40, 20])
@pytest.mark.parametrize("name", ["en_2", "hi_1", "zh_1"])
def test_each_step_is_drawn_over_the_one_before(asr, terminal, columns, name):
    screen = terminal(columns)
    wav = asr.load_audio(SAMPLES / f"{name}.wav")
    seen = []
    with CanvasView(asr.tokenizer, 8, screen.file) as view:
        view.start(f"folder/{name}.wav")

        def callback(draft):
            view(draft)
            seen.append((draft, screen.look(), screen.screen.cursor.y))

        (transcript,) = asr.transcribe([wav], name[:2], callback=callback)
    assert len(seen) == transcript.steps > 1
    for number, (draft, lines, cursor) in enumerate(seen, start=1):
        text = "\n".join(lines)
        assert lines[:2] == [PROMPT, f"{name}.wav"]
        assert re.findall(r"step (\d+)/8", text) == [str(number)]
        assert f"{float(draft.entropy.mean()):.4f}" in text
        assert cursor == max(i for i, line in enumerate(lines) if line) + 1
        assert visible(lines[cursor - 1]) == visible(transcript.text)
        assert all(wcwidth.wcswidth(line) < columns for line in lines[1:])
        if columns == 80:
            assert f"{int(draft.accepted.sum())} of 48 accepted" in text
        elif columns == 40:
            assert f"{int(draft.accepted.sum())} of 48" in text
    assert transcript.text in screen.received.decode()


def test_accepted_is_bold_and_noise_is_dim(tokenizer, terminal):
    screen = terminal()
    with CanvasView(tokenizer, 4, screen.file) as view:
        view.start("x.wav")
        view(make_draft(1, [10, 11, 12, 0], [True, False, True, True]))
        screen.look()
        assert screen.bold(2) == "46·"  # tokens 10, 11, 12 are the words 4, 5, 6
        view(make_draft(2, [10, 11, 12, 0], [False, True, False, False]))
        screen.look()
        assert screen.bold(2) == "5"
    assert b"\x1b[2m5\x1b[0m" in screen.received
    assert b"\x1b[2m4\x1b[0m" in screen.received


def test_a_second_file_is_drawn_below_the_first(tokenizer, terminal):
    screen = terminal()
    with CanvasView(tokenizer, 4, screen.file) as view:
        for name in ("one.wav", "two.wav"):
            view.start(name)
            for step in (1, 2, 3):
                view(make_draft(step, [10]))
            screen.file.write(f"transcript of {name}\r\n")
    names = ["one.wav", "two.wav"]
    lines = [line for line in screen.look() if line]
    assert [line for line in lines if line in names] == names
    assert [line for line in lines if line.startswith("transcript")] == [
        f"transcript of {name}" for name in names
    ]
    assert len(lines) == 1 + 2 * 5


@pytest.mark.parametrize("lines", [6, 10])
def test_a_canvas_that_is_taller_than_the_terminal(tokenizer, terminal, lines):
    screen = terminal(20, lines)
    with CanvasView(tokenizer, 9, screen.file) as view:
        view.start("x.wav")
        for step in range(1, 10):
            view(make_draft(step, list(range(6, 100)) * 2))
            shown = screen.look()
            assert shown[0] == ("x.wav" if lines == len(shown) else PROMPT)
            assert sum(line.startswith("step") for line in shown) == 1
            assert any(line.startswith("… ") and line.endswith(" more lines") for line in shown)


def test_a_canvas_that_shrinks_leaves_nothing_behind(tokenizer, terminal):
    screen = terminal(40)
    with CanvasView(tokenizer, 9, screen.file) as view:
        view.start("x.wav")
        view(make_draft(1, list(range(6, 90))))
        tall = screen.look()
        view(make_draft(2, [10]))
        shown = screen.look()
    assert [line for line in shown if line][:3] == [PROMPT, "x.wav", "4"]
    # The step stays in its line, so that an eye can stay on it.
    assert [i for i, line in enumerate(shown) if line.startswith("step")] == [
        i for i, line in enumerate(tall) if line.startswith("step")
    ]


def test_another_size_of_the_terminal_spoils_nothing_above(tokenizer, terminal):
    screen = terminal(80)
    with CanvasView(tokenizer, 9, screen.file) as view:
        view.start("x.wav")
        view(make_draft(1, list(range(6, 60))))
        screen.look()
        screen.resize(40, 24)
        screen.screen.resize(24, 40)
        view(make_draft(2, list(range(6, 60))))
        view(make_draft(3, list(range(6, 60))))
        shown = screen.look()
    assert shown[0] == PROMPT
    assert sum("step 3/9" in line for line in shown) == 1
    assert [number for number in (1, 2) if any(f"step {number}/9" in line for line in shown)] == [1]


def test_tokens_cannot_steer_the_terminal(tokenizer, terminal):
    screen = terminal()
    with CanvasView(tokenizer, 4, screen.file) as view:
        view.start("\x1b[2Jevil.wav")
        view(make_draft(1, [2, 3, 5, 4]))
    shown = screen.look()
    assert shown[0] == PROMPT
    assert shown[1] == r"\x1b[2Jevil.wav"
    assert r"a\x1b[2J\x1b[31m" in shown[2]
    assert b"\x1b[2J" not in screen.received and b"\x1b[31m" not in screen.received


def test_no_color_takes_the_colour_and_leaves_the_rest(tokenizer, terminal, monkeypatch):
    colour = re.compile(rb"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])m")
    for setting, has_colour in [(None, True), ("", True), ("1", False)]:
        monkeypatch.delenv("NO_COLOR", raising=False)
        if setting is not None:
            monkeypatch.setenv("NO_COLOR", setting)
        screen = terminal()
        with CanvasView(tokenizer, 4, screen.file) as view:
            view.start("x.wav")
            view(make_draft(1, [10, 11], [True, False]))
        screen.look()
        assert bool(colour.search(screen.received)) == has_colour
        assert screen.bold(2) == "4"


def test_a_terminal_that_knows_nothing_gets_plain_lines(tokenizer, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = terminal()
    with CanvasView(tokenizer, 4, screen.file) as view:
        view.start("x.wav")
        view(make_draft(1, [10]))
    assert screen.look()[1] == "x.wav: step 1/4, 1 of 1 accepted, entropy 0.2500 nats: 4"
    assert b"\x1b" not in screen.received


def test_files_that_are_no_terminal_get_plain_lines(asr):
    file = io.StringIO()
    paths = [SAMPLES / "en_2.wav", "no.wav", SAMPLES / "zh_1.wav"]
    results = dict(watch_files(asr, paths, file, steps=4, seed=2))
    assert isinstance(results[1], AudioError)
    expected = dict(asr.stream_files(paths, steps=4, seed=2))
    for index in (0, 2):
        assert results[index].tokens == expected[index].tokens
        assert results[index].text == expected[index].text
    lines = file.getvalue().splitlines()
    assert len(lines) == results[0].steps + results[2].steps
    assert all("\x1b" not in line for line in lines)
    assert lines[-1].startswith(f"zh_1.wav: step {results[2].steps}/4, ")
    assert lines[-1].endswith(f" nats: {results[2].text}")


def test_a_stream_of_another_encoding_does_not_fail(asr):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    list(watch_files(asr, [SAMPLES / "hi_1.wav"], file))
    assert rb"\u092f\u0939" in raw.getvalue()


INTERRUPTED = """
import itertools, sys, torch
from speechbrain_diffasr.decoders import Draft
from speechbrain_diffasr.lobes import Tokenizer
from speechbrain_diffasr.visualization import CanvasView
tokenizer = Tokenizer()
tokenizer.load(sys.argv[1])
one = torch.ones(1, 30, dtype=torch.long)
try:
    with CanvasView(tokenizer, 99, sys.stderr, step_seconds=0.01) as view:
        view.start("x.wav")
        for step in itertools.count(1):
            view(Draft(step, 9 * one, 9 * one, one > 0, 0.5 * one, one[:, 0] < 0))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_leaves_a_clean_terminal():
    pyte = emulator()
    pid, master = pty.fork()
    if pid == 0:
        # Whatever runs in the background of a script ignores Ctrl-C, and so does what it starts.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ.update(TERM="xterm", OMP_NUM_THREADS="1")
        tokens = str(Path(shipped_model("diffasr-tiny")) / "tokenizer.json")
        os.execv(sys.executable, [sys.executable, "-W", "ignore", "-c", INTERRUPTED, tokens])
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(master)
    received, interrupted = b"", False
    try:
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # Linux says so when the last process has closed the terminal
                break
            if not data:
                break
            received += data
            if not interrupted and b"step 3/99" in received:
                assert termios.tcgetattr(master) == before
                os.write(master, b"\x03")
                interrupted = True
        _, status = os.waitpid(pid, 0)
        pid = None
    finally:
        os.close(master)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert interrupted
    assert os.waitstatus_to_exitcode(status) == 130
    screen = pyte.Screen(80, 24)
    defaults = set(screen.mode)
    stream = pyte.Stream(screen)
    for character in received.decode():
        stream.feed(character)
    lines = [line.rstrip() for line in screen.display]
    assert screen.mode == defaults and not screen.cursor.hidden
    assert not screen.cursor.attrs.bold and screen.cursor.attrs.fg == "default"
    assert (screen.cursor.x, lines[screen.cursor.y]) == (0, "")
    assert not any("^C" in line for line in lines[screen.cursor.y :])
    assert "Traceback" not in "\n".join(lines)


def test_lines_are_never_too_long():
    dice = torch.Generator().manual_seed(0)
    texts = ["a", "回事", "ही", "◌ी", "longer", "é", "한국어"]
    for width in (10, 19, 39, 79):
        picks = torch.randint(len(texts), (300,), generator=dice).tolist()
        parts = [(clip(texts[pick], width), pick % 2 == 0, str(i)) for i, pick in enumerate(picks)]
        lines = wrap_tokens(parts, width)
        rows = ["".join(text for text, _ in line) for line in lines]
        assert max(map(wcwidth.wcswidth, rows)) <= width
        assert "".join(rows).replace(" ", "") == "".join(text for text, *_ in parts)
        assert not any(row.startswith(" ") for row in rows)


@pytest.mark.parametrize("width", range(2, 12))
def test_a_cut_text_fits_and_keeps_whole_characters(width):
    for text in (
        "यह सही है",
        "回事回事回事",
        "abcdefghijklmnop",
        "e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301",
    ):
        cut = clip(text, width)
        assert wcwidth.wcswidth(cut) <= width
        if cut != text:
            assert cut.endswith("…") and text.startswith(cut[:-1])
            assert wcwidth.wcwidth(text[len(cut) - 1]) != 0
