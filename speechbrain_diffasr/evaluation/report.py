"""What an evaluation leaves behind: tables, alignments, a picture, and where it was measured."""

import os
import re
from pathlib import Path

from speechbrain_diffasr.evaluation.metrics import main_kind

# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow, which is faint on
# white: https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":", "-.")

MISMATCHED = (
    "Every text below was decoded from the audio of another utterance. Rates near 100 or above "
    "are what a model gives that listens."
)


def data_names(paths):
    """Short names for CSV files, no two alike, also as file names.

    Arguments
    ---------
    paths : list of str or Path

    Returns
    -------
    names : list of str
        The last folder and the file without its ending, and more folders where needed.

    Example
    -------
    >>> data_names(["data/speech/test.csv", "data/digits/test.csv"])
    ['speech/test', 'digits/test']
    >>> data_names(["a/data/test.csv", "b/data/test.csv"])
    ['a/data/test', 'b/data/test']
    """
    parts = [Path(os.path.abspath(path)).with_suffix("").parts[1:] for path in paths]
    for number in range(2, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-number:]) for part in parts]
        if len({file_name(name) for name in names}) == len(names):
            return names
    return [f"{'/'.join(part[-2:])}-{i}" for i, part in enumerate(parts, 1)]


def file_name(text):
    """A text as a part of a file name: letters of any script, digits, points, and dashes.

    Example
    -------
    >>> file_name("speech/test: all")
    'speech-test-all'
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-.")


class RatesTable:
    """A Markdown table that is printed row by row, its columns aligned.

    Arguments
    ---------
    names : list of str
        Of the data.
    normalizers : list of str
        WER and CER get a column for each. The interval is that of the rate by which the language is
        judged, after the first.
    n_best : int, optional
        Adds a column with that rate of the best of so many candidates. Default: none.

    Example
    -------
    >>> table = RatesTable(["test"], ["none"])
    >>> rates = {"en": {"wer": 50.0, "cer": 20.5, "utterances": 3, "wer_interval": [20.0, 75.5]}}
    >>> result = {"data": "test", "steps": 8, "mean_steps_taken": 5.5, "rtfx": 9.87,
    ...           "rates": {"none": rates}}
    >>> (row,) = table.rows(result)
    >>> [cell.strip() for cell in row.split("|")[1:-1]]
    ['test', 'en', '3', '8', '5.5', '50.0', '20.5', 'WER', '20.0–75.5', '9.9']
    >>> {len(line) for line in [*table.head(), row]} == {len(row)}
    True
    """

    def __init__(self, names, normalizers, n_best=None):
        self.normalizers = list(normalizers)
        self.best_of = [f"best of {n_best}"] if n_best else []
        rates = [f"{kind} {name}" for name in normalizers for kind in ("WER", "CER")]
        self.columns = ["data", "language", "utterances", "steps", "taken", *rates]
        self.columns += ["judged by", "95 %", *self.best_of, "RTFx"]
        self.widths = [max(len(column), 5) for column in self.columns]
        self.widths[self.columns.index("95 %")] = len("20.0–75.5")
        self.widths[0] = max(map(len, ["data", *names]))
        self.widths[-1] = 6

    def head(self):
        """The first two lines."""
        # Names are flushed left, numbers right.
        return [self._line(self.columns), f"|{'|'.join('-' * (w + 2) for w in self.widths)}|"]

    def rows(self, result):
        """A line for each language of a result of `evaluate_csvs`."""
        lines = []
        groups = sorted({group for rates in result["rates"].values() for group in rates})
        for group in groups:
            found = [result["rates"][name].get(group) for name in self.normalizers]
            cells = [f"{rate[kind]:.1f}" if rate else "" for rate in found for kind in _KINDS]
            first = next(rate for rate in found if rate)
            low, high = first[f"{main_kind(group)}_interval"]
            best = []
            if self.best_of:
                rates = result["best_of"][self.normalizers[0]].get(group)
                best = [f"{rates[main_kind(group)]:.1f}" if rates else ""]
            lines.append(
                self._line(
                    [
                        result["data"],
                        group,
                        str(first["utterances"]),
                        str(result["steps"]),
                        f"{result['mean_steps_taken']:.1f}",
                        *cells,
                        main_kind(group).upper(),
                        f"{low:.1f}–{high:.1f}",
                        *best,
                        f"{result['rtfx']:.1f}",
                    ]
                )
            )
        return lines

    def _line(self, cells):
        left = ("data", "language", "judged by")
        padded = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for cell, column, width in zip(cells, self.columns, self.widths, strict=True)
        ]
        return f"| {' | '.join(padded)} |"


_KINDS = ("wer", "cer")


def write_alignments(folder, result, normalizer, rates):
    """Writes the alignments of a result, a file for each language.

    Arguments
    ---------
    folder : str or Path
        Made if needed.
    result : dict
        Of `evaluate_csvs`.
    normalizer : str
        Its name.
    rates : ErrorRates
        After this normalizer.

    Returns
    -------
    paths : list of Path
        Such as `wer_speech-test_en_whisper_8steps.txt`, by characters `cer_...`.
    """
    paths = []
    for group in rates.words:
        parts = (main_kind(group), result["data"], group, normalizer, f"{result['steps']}steps")
        path = Path(folder) / f"{'_'.join(map(file_name, parts))}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as stream:
            rates.write_alignments(group, stream)
        paths.append(path)
    return paths


def draw_picture(report, path):
    """Draws error rates and speed over denoising steps.

    Arguments
    ---------
    report : dict
        Of `evaluate_csvs`. Error rates are those after its first normalizer, WER or CER by what
        each language is judged by.
    path : str or Path
        Any format that matplotlib writes, by its ending. Not written if nothing was scored.
    """
    # Not pyplot, which keeps state and looks for a display.
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    results = [result for result in report["results"] if result["utterances"]]
    if not results:
        return
    names = list(dict.fromkeys(result["data"] for result in results))
    normalizer = next(iter(report["normalizers"]))
    groups = sorted({g for result in results for g in result["rates"][normalizer]})
    styles = dict(zip(groups, _cycle(COLOURS, MARKERS, len(groups)), strict=True))
    dashes = {name: DASHES[i % len(DASHES)] for i, name in enumerate(names)}

    figure = Figure(figsize=(8, 7), dpi=150, layout="constrained")
    errors, speed = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for name in names:
        own = sorted((r for r in results if r["data"] == name), key=lambda r: r["steps"])
        for group in groups:
            scored = [r for r in own if group in r["rates"][normalizer]]
            if not scored:
                continue
            colour, marker = styles[group]
            errors.plot(
                [r["steps"] for r in scored],
                [r["rates"][normalizer][group][main_kind(group)] for r in scored],
                color=colour,
                marker=marker,
                linestyle=dashes[name],
                clip_on=False,
            )
        speed.plot(
            [r["steps"] for r in own],
            [r["rtfx"] for r in own],
            color="black",
            marker=".",
            linestyle=dashes[name],
        )

    title = [Path(report["model"]).name, *(names if len(names) == 1 else ())]
    title.append(f"normalizer {normalizer}")
    if report["mismatched_audio"]:
        title.append("audio of other utterances")
    errors.set_title(_literal(", ".join(filter(None, title))), fontsize="medium")
    errors.set_ylabel("error rate (%)")
    speed.set_ylabel("RTFx (times real time)")
    speed.set_xlabel("denoising steps at most")
    steps = sorted({result["steps"] for result in results})
    speed.set_xscale("log", base=2)
    speed.set_xticks(steps, labels=map(str, steps))
    speed.minorticks_off()
    for axes in (errors, speed):
        axes.set_ylim(bottom=0)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    languages = [
        Line2D([], [], color=c, marker=m, label=f"{group} ({main_kind(group).upper()})")
        for group, (c, m) in styles.items()
    ]
    data = [
        Line2D([], [], color="black", linestyle=dash, label=_literal(name))
        for name, dash in dashes.items()
    ]
    figure.legend(handles=languages, title="language", loc="outside right upper", frameon=False)
    if len(names) > 1:
        place = {"loc": "outside lower left", "ncols": 2}
        figure.legend(handles=data, title="data", frameon=False, **place)
    figure.savefig(path)


def _literal(text):
    """Keeps matplotlib from reading dollars as formulas."""
    return text.replace("$", r"\$")


def _cycle(colours, markers, number):
    """Pairs of a colour and a marker; colours come again with other markers."""
    return [
        (colours[i % len(colours)], markers[(i + i // len(colours)) % len(markers)])
        for i in range(number)
    ]


def skipped_lines(report, most=10):
    """Says what was skipped and why.

    Arguments
    ---------
    report : dict
        Of `evaluate_csvs`.
    most : int
        Utterances that are named for each CSV file. Default: 10.

    Returns
    -------
    lines : list of str
        Empty if nothing was skipped.
    """
    lines, skipped, total = [], 0, 0
    # Every number of steps skips the same utterances.
    for result in {result["data"]: result for result in report["results"]}.values():
        for entry in result["skipped"][:most]:
            lines.append(f"{result['csv']}: {entry['ID']}: {entry['reason']}")
        if len(result["skipped"]) > most:
            lines.append(f"{result['csv']}: … and {len(result['skipped']) - most} more")
        for normalizer, empty in result["empty_references"].items():
            if empty:
                lines.append(
                    f"{result['csv']}: the normalizer {normalizer} leaves nothing of {len(empty)} "
                    f"references, such as that of {empty[0]}; they do not count in its rates"
                )
        skipped += len(result["skipped"])
        total += len(result["skipped"]) + len(result["utterances"])
    if skipped:
        rest = f"the rates are those of the other {total - skipped}"
        if skipped == total:
            rest = "nothing was scored; --data-root says what $data_root in a CSV file stands for"
        lines.append(f"{skipped} of {total} utterances were skipped; {rest}")
    # An ID or a path may hold line breaks, a message may not.
    return [" ".join(line.splitlines()) for line in lines]
