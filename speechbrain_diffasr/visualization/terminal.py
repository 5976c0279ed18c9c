"""Shows in a terminal how the canvas of an utterance settles."""

import contextlib
import os
import sys
import time

import wcwidth

from speechbrain_diffasr.text.display import printable
from speechbrain_diffasr.visualization.token_texts import TokenTexts

# Seconds for which a terminal shows each step: a step can take less than an eye needs.
STEP_SECONDS = 0.12
# Terminals narrower than this are drawn as if they were so wide, and lose what lies beyond.
MIN_COLUMNS = 20
# Lines of a terminal that are left to what is not canvas: name, step, transcript, cursor.
OTHER_LINES = 4
# Of a terminal that does not tell its size.
COLUMNS, LINES = 80, 24
BAR_COLUMNS = 12
# The edges of a window that is all of a file are rounded to samples.
_ROUNDING = 0.01  # s

# Select graphic rendition, ECMA-48 8.3.117.
_PLAIN, _BOLD, _DIM, _BLUE = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[34m"
_CLEAR_BELOW = "\x1b[J"
# A line that a terminal finds wider than wcwidth does is cut, and does not move those below.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_BAR = " ▏▎▍▌▋▊▉█"


class CanvasView:
    """Draws the canvas after every denoising step.

    Give it as `callback` to what transcribes, and to `DiffusionASR.stream_files` its `start` as
    `on_start`, with `batch_size=1`.

    In a terminal the canvas is redrawn in place, accepted tokens bold and noise dim; elsewhere
    each step is one plain line. Of a batch, the first utterance is shown.

    Arguments
    ---------
    tokenizer : Tokenizer
    max_steps : int
        Denoising steps at most.
    file : file, optional
        Default: stderr.
    step_seconds : float
        For which a terminal shows each step. Default: 0.12.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> wav = asr.load_audio(f"{shipped_model('diffasr-tiny')}/samples/en_2.wav")
    >>> with CanvasView(asr.tokenizer, max_steps=8, file=sys.stdout) as view:
    ...     view.start("en_2.wav")
    ...     _ = asr.transcribe([wav], language="en", callback=view)  # doctest: +ELLIPSIS
    en_2.wav: step 1/8, ... of 48 accepted, entropy 0.0... nats: oh there he is
    en_2.wav: step 2/8, ...
    """

    def __init__(self, tokenizer, max_steps, file=None, step_seconds=STEP_SECONDS):
        self.tokenizer = tokenizer
        self.texts = TokenTexts(tokenizer)
        self.max_steps = max_steps
        self.file = sys.stderr if file is None else file
        self.step_seconds = step_seconds
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        self.is_terminal = self.file.isatty() and not dumb
        self.has_colour = not os.environ.get("NO_COLOR")
        self.name, self.text, self.times = "", "", ""
        self._drawn, self._drawn_at = 0, None  # lines on the screen, and its size by then

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.is_terminal:
            # What the terminal wrote for Ctrl-C stands where the next prompt is going to.
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._write(_PLAIN + _WRAP + (f"\r{_CLEAR_BELOW}" if interrupted else ""))

    def start(self, name, window=None, duration=None):
        """Begins a new utterance below what was drawn.

        Of a window of a longer recording only its text stays, once the next window begins.

        Arguments
        ---------
        name : str or Path
            What it is called; of a path, the last part is shown.
        window : Window, optional
            Part of the recording that it is. Default: all of it.
        duration : float, optional
            Of the recording, in seconds; goes with `window`.
        """
        if window is not None and window.duration >= duration - _ROUNDING:
            window = None
        name = printable(os.path.basename(os.fspath(name)))
        times = "" if window is None else f"{window.start:.1f} to {window.end:.1f} s"
        if self.is_terminal and self._drawn and times and self.times:
            columns, lines = self._size()
            width = max(columns, MIN_COLUMNS) - 1
            self._draw([[(clip(f"{self.times}: {self.text}", width), "")]], (columns, lines), True)
        self.name = f"{name}, {times} of {duration:.1f} s" if times else name
        self.times, self.text, self._drawn = times, "", 0

    def __call__(self, draft):
        """Shows a step.

        Arguments
        ---------
        draft : Draft
        """
        kept, tokens = draft.accepted[0].tolist(), draft.canvas[0].tolist()
        entropy = float(draft.entropy[0].mean())
        self.text = text = printable(self.tokenizer.decode_ids(draft.tokens[0].tolist()))
        if not self.is_terminal:
            step = f"step {draft.step}/{self.max_steps}, {sum(kept)} of {len(kept)} accepted"
            self._write(f"{self.name}: {step}, entropy {entropy:.4f} nats: {text}\n")
            return
        columns, lines = self._size()
        # The last column is left free: some terminals wrap as soon as it is written to.
        width = max(columns, MIN_COLUMNS) - 1
        status = self._status(draft.step, kept, entropy, width)
        canvas = self._canvas(tokens, kept, width, max(1, lines - OTHER_LINES))
        self._draw(
            [
                [(clip(self.name, width), "")],
                *canvas,
                [(status, _BLUE if self.has_colour else "")],
                [(clip(text, width), _BOLD)],
            ],
            (columns, lines),
        )
        time.sleep(self.step_seconds)

    def _status(self, step, kept, entropy, width):
        """Step, accepted positions and mean entropy, in as many words as there is room for."""
        head, count = f"step {step}/{self.max_steps}", f"{sum(kept)} of {len(kept)}"
        bar = progress_bar(step / self.max_steps, BAR_COLUMNS)
        wanted = [
            f"{head} {bar} {count} accepted, mean entropy {entropy:.4f} nats",
            f"{head}, {count}, entropy {entropy:.4f}",
            f"{head}, {entropy:.4f}",
        ]
        return next((line for line in wanted if len(line) <= width), clip(head, width))

    def _canvas(self, tokens, kept, width, most):
        """The canvas as lines of (text, rendition)."""
        parts = []
        for token, is_kept in zip(tokens, kept, strict=True):
            shown = self.texts(token)
            text = "·" if shown.kind == "end" else shown.text or "␣"
            parts.append((clip(text, width), shown.space, _BOLD if is_kept else _DIM))
        lines = wrap_tokens(parts, width)
        if len(lines) > most:
            lines = [*lines[: most - 1], [(f"… {len(lines) - most + 1} more lines", "")]]
        return lines

    def _draw(self, lines, size, shrink=False):
        """Draws over what was drawn for this utterance."""
        # Whether a terminal wraps old lines when it is made narrower, only it knows.
        up = self._drawn if size == self._drawn_at else 0
        if not shrink:
            # A canvas of fewer lines than before leaves those below it where they are.
            lines[-2:-2] = [[]] * (up - len(lines))
        body = "".join(
            "".join(f"{rendition}{text}{_PLAIN}" for text, rendition in line) + "\n"
            for line in lines
        )
        back = f"\x1b[{up}A{_CLEAR_BELOW}" if up else ""
        self._write(f"\r{back}{_NO_WRAP}{body}{_WRAP}")
        self._drawn, self._drawn_at = len(lines), size

    def _size(self):
        """Columns and lines of the terminal, which need not be that of stdout."""
        columns, lines = 0, 0
        with contextlib.suppress(OSError, AttributeError, ValueError):
            columns, lines = os.get_terminal_size(self.file.fileno())
        return columns or COLUMNS, lines or LINES

    def _write(self, text):
        encoding = getattr(self.file, "encoding", None) or "utf-8"
        self.file.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self.file.flush()


def wrap_tokens(parts, width):
    """Breaks tokens into lines.

    Arguments
    ---------
    parts : list of (str, bool, str)
        Text of each token, whether a space stands before it, and its rendition.
    width : int
        Columns of a line; no text has more.

    Returns
    -------
    lines : list of list of (str, str)
        Texts and their renditions.

    Example
    -------
    >>> wrap_tokens([("oh", True, "a"), ("龙", False, "b"), ("he", True, "a")], width=5)
    [[('oh', 'a'), ('龙', 'b')], [('he', 'a')]]
    """
    lines, used = [[]], 0
    for text, space, rendition in parts:
        columns = max(0, wcwidth.wcswidth(text))
        if used and used + space + columns > width:
            lines.append([])
            used = 0
        if space and used:
            lines[-1].append((" ", ""))
            used += 1
        lines[-1].append((text, rendition))
        used += columns
    return lines


def clip(text, width):
    """Cuts a text to a number of columns, between characters as a reader sees them.

    Arguments
    ---------
    text : str
    width : int
        Columns.

    Returns
    -------
    text : str
        With an ellipsis at its end if it was cut.

    Example
    -------
    >>> clip("回事回事", 7), clip("回事", 4)
    ('回事回…', '回事')
    """
    if wcwidth.wcswidth(text) <= width:
        return text
    return wcwidth.clip(text, 0, width - 1).rstrip(" ") + "…"


def progress_bar(share, width):
    """A bar of block characters.

    Arguments
    ---------
    share : float
        From 0 to 1.
    width : int
        Columns.

    Returns
    -------
    bar : str

    Example
    -------
    >>> progress_bar(0.3, 4)
    '█▎  '
    """
    full, eighths = divmod(round(8 * width * share), 8)
    return (_BAR[-1] * full + _BAR[eighths] * (full < width)).ljust(width)
