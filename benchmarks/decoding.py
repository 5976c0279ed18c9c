"""Compares ways to decode, from what `diffasr evaluate --output` wrote, in one table and a picture.

    for seed in 0 1 2; do
        diffasr evaluate --csv valid.csv --steps 1,2,4,8,16 --readings 0 --seed $seed \\
            --start noise --ctc-weight 0 --output noise$seed.json
        diffasr evaluate --csv valid.csv --steps 1,2,4,8,16 --readings 0 --seed $seed \\
            --start ctc --ctc-weight 1 --output joint$seed.json
    done
    python benchmarks/decoding.py noise?.json joint?.json --picture steps.png

Files that differ in their seed only are one row, with the mean of their rates by the first
normalizer; WER, or CER in languages written without spaces. Below a row with --n-best stands what
the best of the candidates would give.
"""

import argparse
import json
from pathlib import Path

from common import print_table

from speechbrain_diffasr.evaluation.metrics import main_kind
from speechbrain_diffasr.evaluation.report import COLOURS, MARKERS


def describe(decoding):
    """A way to decode, in few words.

    Arguments
    ---------
    decoding : dict
        Of a report of `evaluate_csvs`.

    Returns
    -------
    name : str

    Example
    -------
    >>> describe({"start": "ctc", "ctc_weight": 1.0, "noise": "seed", "candidates": 8,
    ...           "choose": "consensus", "readings": 0})
    'from ctc, joint 1, 8 canvases by consensus'
    """
    parts = [f"from {decoding['start']}"]
    if decoding["ctc_weight"]:
        parts.append(f"joint {decoding['ctc_weight']:g}")
    if decoding["noise"] != "seed":
        parts.append(f"noise by {decoding['noise']}")
    if decoding["candidates"] > 1:
        parts.append(f"{decoding['candidates']} canvases by {decoding['choose']}")
    if decoding["readings"]:
        parts.append(f"{decoding['readings']} readings")
    return ", ".join(parts)


def collect(reports, leave_out=()):
    """Rates by way to decode and number of steps.

    Arguments
    ---------
    reports : list of dict
        Of `evaluate_csvs`, of the same data.
    leave_out : list of str
        Languages that do not count in the mean. Default: none.

    Returns
    -------
    rows : list of dict
        way, steps, seeds, a rate for each language, their mean, and the steps taken.
    """
    groups = {}
    for report in reports:
        name = describe(report["decoding"])
        for result in report["results"]:
            first = next(iter(result["rates"]))
            for kind, tables in (("", result["rates"]), (" (best)", result.get("best_of", {}))):
                if first in tables:
                    group = groups.setdefault((name + kind, result["steps"]), [])
                    group.append((report["seed"], tables[first], result["mean_steps_taken"]))
    rows = []
    for (way, steps), found in sorted(groups.items()):
        row = {"way": way, "steps": steps, "seeds": len({seed for seed, _, _ in found})}
        languages = list(dict.fromkeys(code for _, table, _ in found for code in table))
        for code in languages:
            rates = [table[code][main_kind(code)] for _, table, _ in found]
            row[code] = sum(rates) / len(rates)
        counted = [row[code] for code in languages if code not in leave_out]
        row["mean"] = sum(counted) / len(counted)
        row["taken"] = sum(taken for *_, taken in found) / len(found)
        rows.append(row)
    return rows


def draw(rows, path):
    """Draws mean rates over steps, a line for each way with several.

    Arguments
    ---------
    rows : list of dict
        Of `collect`.
    path : str
        .png, .svg or .pdf.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    lines = {}
    for row in rows:
        if not row["way"].endswith("(best)"):
            lines.setdefault(row["way"], []).append((row["steps"], row["mean"]))
    lines = [(way, sorted(points)) for way, points in lines.items() if len(points) > 1]
    for place, (way, points) in enumerate(lines):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=way)
    steps = sorted({number for _, points in lines for number, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(number) for number in steps])
    axes.set_xlabel("denoising steps at most")
    axes.set_ylabel("error rate, mean over languages, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(argv=None):
    """Runs the command; returns the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", help="JSON files of diffasr evaluate --output")
    parser.add_argument("--picture", help="draws rates over steps here: .png, .svg or .pdf")
    parser.add_argument(
        "--leave_out", nargs="*", default=[], help="languages that do not count in the mean"
    )
    parser.add_argument("--output", help="JSON file for the rows")
    args = parser.parse_args(argv)
    reports = []
    for path in args.reports:
        try:
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            report["decoding"], report["results"], report["seed"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"{path}: not what diffasr evaluate --output writes ({error})")
        reports.append(report)
    rows = collect(reports, args.leave_out)
    print_table(rows)
    if args.output:
        Path(args.output).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if args.picture:
        draw(rows, args.picture)
    return rows


if __name__ == "__main__":
    main()
