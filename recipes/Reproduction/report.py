"""Tables and pictures of the experiments, and what of them stands in the README.

python report.py --output_folder results/reproduction
"""

import argparse
import json
import re
import shutil
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from speechbrain_diffasr.metrics import main_kind
from speechbrain_diffasr.report import COLOURS, DASHES, MARKERS, draw_picture

# Parts of the loss and their units.
PARTS = {
    "diffusion": "nats per position",
    "autoregressive": "nats per token",
    "ctc": "nats per token",
}
# What the README shows below each table.
PICTURES = {
    "losses": {
        "losses_unlock.png": "Losses and error rate of validation, with and without CTC",
        "losses_leave_one_out.png": "The same, with each of the losses left out",
        "losses_audio.png": "With the own and with another's audio",
    },
    "steps": {"steps.png": "Error rates and speed over denoising steps"},
}
# Per cent. What babbles makes many times more errors than there are words; pictures end here.
HIGHEST_RATE = 150
RATE_LABEL = "error rate (%), mean of languages"


def write_losses(output_folder):
    """Writes tables and pictures of what losses.json holds, finished or not.

    Arguments
    ---------
    output_folder : str or Path
        Holds losses.json; gets losses.md, losses_unlock.png, losses_leave_one_out.png and
        losses_audio.png.
    """
    folder = Path(output_folder)
    report = json.loads((folder / "losses.json").read_text(encoding="utf-8"))
    (folder / "losses.md").write_text(losses_tables(report), encoding="utf-8")
    conditions = _by_condition(report)
    first = {name: conditions[name] for name in ("all", "no_ctc") if name in conditions}
    draw_curves(first, folder / "losses_unlock.png")
    draw_curves(conditions, folder / "losses_leave_one_out.png")
    draw_audio(conditions, folder / "losses_audio.png")


def write_steps(output_folder):
    """Writes a table and a picture of what steps/results.json holds.

    Arguments
    ---------
    output_folder : str or Path
        Holds steps/results.json; gets steps.md and steps.png.
    """
    folder = Path(output_folder)
    report = json.loads((folder / "steps" / "results.json").read_text(encoding="utf-8"))
    (folder / "steps.md").write_text(steps_table(report), encoding="utf-8")
    draw_picture(report, folder / "steps.png")


def losses_tables(report):
    """What the losses, the error rates and the use of the audio came to.

    Arguments
    ---------
    report : dict
        What losses.json holds.

    Returns
    -------
    text : str
        Three tables in Markdown, and what they were measured on.
    """
    conditions = _by_condition(report)
    lines = [
        "| losses | finished | steps | "
        + " | ".join(f"{label(name)} ({unit})" for name, unit in PARTS.items())
        + " | error rate (%) |",
        "|---|---|---|" + "---|" * (len(PARTS) + 1),
    ]
    for name, runs in conditions.items():
        done = [run["result"] for run in runs if run["result"]]
        cells = [label(name), f"{len(done)} of {len(runs)}", _range([r["steps"] for r in done])]
        for part in PARTS:
            cell = _spread([r["losses"]["own_audio"][part] for r in done], 2)
            cells.append(f"({cell})" if part in runs[0]["left_out"] and done else cell)
        cells.append(_spread([_mean_rate(r, "own_audio") for r in done], 1))
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Losses of validation after the last step, in brackets where they were not trained; error "
        "rate of the test set, mean of the languages. Mean ± standard deviation of the seeds.",
        "",
        "| losses | error rate (%), own audio | another's audio | difference "
        "| diffusion, another's less own (nats) | autoregressive, another's less own (nats) |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in conditions.items():
        done = [run["result"] for run in runs if run["result"]]
        own, other = ([_mean_rate(r, kind) for r in done] for kind in ("own_audio", "other_audio"))
        cells = [label(name), _spread(own, 1), _spread(other, 1), _spread(_less(other, own), 1)]
        gaps = [_spread(_gaps(done, part), 3) for part in ("diffusion", "autoregressive")]
        cells += [gap or "not measured" for gap in gaps] if done else gaps
        lines.append(f"| {' | '.join(cells)} |")
    languages = sorted(
        {
            language
            for run in report["runs"]
            if run["result"]
            for language in run["result"]["error_rates"]["own_audio"]
        }
    )
    lines += [
        "",
        "Is the audio used? Each text with its own audio, and with the audio of another utterance "
        "of its language. A difference of zero says that it is not. Then by language, own audio.",
        "",
        "| losses | " + " | ".join(f"{c} {main_kind(c).upper()} (%)" for c in languages) + " |",
        "|---|" + "---|" * len(languages),
    ]
    for name, runs in conditions.items():
        done = [run["result"] for run in runs if run["result"]]
        rates = [
            _spread([r["error_rates"]["own_audio"][language] for r in done], 1)
            for language in languages
        ]
        lines.append(f"| {' | '.join([label(name), *rates])} |")
    return "\n".join([*lines, "", _losses_setting(report)]) + "\n"


def steps_table(report):
    """Error rates and speed by denoising steps.

    Arguments
    ---------
    report : dict
        Of `evaluate_csvs`. Rates are those after its first normalizer.

    Returns
    -------
    text : str
        A table in Markdown for each CSV file, and what they were measured on.
    """
    normalizer = next(iter(report["normalizers"]))
    lines = []
    for name in dict.fromkeys(result["data"] for result in report["results"]):
        results = [r for r in report["results"] if r["data"] == name and r["utterances"]]
        if not results:
            continue
        languages = sorted(results[0]["rates"][normalizer])
        count = sum(results[0]["rates"][normalizer][c]["utterances"] for c in languages)
        heads = [f"{language} {main_kind(language).upper()}" for language in languages]
        cers = [f"{language} CER" for language in languages if main_kind(language) != "cer"]
        columns = ["steps", "taken", "RTFx", *heads, *cers]
        lines += [f"{name}, {count} utterances; WER and CER in %:", ""]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for result in results:
            rates = result["rates"][normalizer]
            cells = [f"{rates[language][main_kind(language)]:.1f}" for language in languages]
            cells += [f"{rates[c]['cer']:.1f}" for c in languages if main_kind(c) != "cer"]
            measured = [f"{result[name]:.1f}" for name in ("mean_steps_taken", "rtfx")]
            cells = [str(result["steps"]), *measured, *cells]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines.append(
        f"Measured on {report['hardware']}, {report['date'][:10]}, batches of "
        f"{report['batch_size']}, normalizer {normalizer}. Taken: steps until an utterance was "
        "stable and sure, on average; RTFx: seconds of audio for each second of computing."
    )
    return "\n".join(lines) + "\n"


def draw_curves(conditions, path):
    """Draws each part of the loss and the error rate of validation over steps.

    Arguments
    ---------
    conditions : dict
        Lists of runs by condition. Thin lines are seeds, thick ones their mean; dotted is the
        mean of training.
    path : str or Path
        To write.
    """
    figure = Figure(figsize=(9, 6.4), dpi=80, layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flat
    handles = {}
    for panel, (part, unit) in zip(axes, [*PARTS.items(), ("error_rate", "")], strict=True):
        for number, (name, runs) in enumerate(conditions.items()):
            style = {"color": COLOURS[number % len(COLOURS)]}
            for run in runs:
                points = run["points"]
                steps = [point["step"] for point in points]
                values = _clipped([point["valid"][part] for point in points], part)
                panel.plot(steps, values, lw=0.6, alpha=0.6, **style)
            steps, means = _mean_curve(runs, "valid", part)
            means = _clipped(means, part)
            style |= {"marker": MARKERS[number % len(MARKERS)], "markersize": 4}
            (handles[label(name)],) = panel.plot(
                steps, means, lw=1.8, linestyle=DASHES[number % len(DASHES)], **style
            )
            if part != "error_rate":
                steps, means = _mean_curve(runs, "train", part)
                panel.plot(steps, means, lw=1, linestyle=":", color=style["color"])
        if unit:
            panel.set_ylabel(f"{label(part)} ({unit})")
            # A loss that is not trained can be many times as high as where it is.
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_locator(NullLocator())
        else:
            _scale_rates(panel)
        panel.grid(color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in figure.axes[-2:]:
        panel.set_xlabel("training steps")
    figure.legend(
        handles.values(),
        handles.keys(),
        title="validation: thick the mean of the seeds, thin each seed; dotted: training",
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
    )
    figure.savefig(path)


def draw_audio(conditions, path):
    """Draws error rates and, where measured, losses with the own and with another's audio.

    Arguments
    ---------
    conditions : dict
        Lists of runs by condition.
    path : str or Path
        To write. Not written if no run is finished.
    """
    done = {
        name: [run["result"] for run in runs if run["result"]] for name, runs in conditions.items()
    }
    done = {name: results for name, results in done.items() if results}
    if not done:
        return
    parts = (("diffusion", -0.2, None), ("autoregressive", 0.2, "//"))
    measured = all(_gaps(results, parts[0][0]) for results in done.values())
    count = 2 if measured else 1
    figure = Figure(figsize=(1.5 + 3.75 * count, 4), dpi=100, layout="constrained")
    rates, *gaps = figure.subplots(1, count, squeeze=False).flat
    bars = (("own_audio", "own audio", -0.2, None), ("other_audio", "another's audio", 0.2, "//"))
    for colour, (kind, text, shift, hatch) in zip(COLOURS, bars, strict=False):
        values = [[_mean_rate(r, kind) for r in results] for results in done.values()]
        _bars(rates, values, shift, 0.36, color=colour, hatch=hatch, edgecolor="white", label=text)
    _scale_rates(rates)
    for panel in gaps:
        for colour, (part, shift, hatch) in zip(COLOURS[2:], parts, strict=False):
            values = [_gaps(results, part) for results in done.values()]
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": part}
            _bars(panel, values, shift, 0.36, **style)
        panel.axhline(0, color="black", lw=0.8)
        panel.set_ylabel("loss with another's audio less own (nats)")
    for panel in (rates, *gaps):
        names = [label(name).replace(" ", "\n", 1) for name in done]
        panel.set_xticks(range(len(done)), names, fontsize="small")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figure.savefig(path)


def fill_readme(path, output_folder):
    """Puts the tables between their marks in a README, and the pictures beside it.

    Arguments
    ---------
    path : str or Path
        Holds lines `<!-- NAME -->` and `<!-- /NAME -->`, NAME being losses or steps.
    output_folder : str or Path
        Of the experiments.

    Returns
    -------
    names : list of str
        Of the tables that were there.
    """
    path, folder = Path(path), Path(output_folder)
    text, found = path.read_text(encoding="utf-8"), []
    for name, pictures in PICTURES.items():
        table = folder / f"{name}.md"
        if not table.exists():
            continue
        block = f"<!-- {name} -->\n{table.read_text(encoding='utf-8')}"
        for picture, described in pictures.items():
            if (folder / picture).exists():
                shutil.copyfile(folder / picture, path.parent / picture)
                block += f"\n![{described}]({picture})\n"
        block += f"<!-- /{name} -->"
        marks = rf"<!-- {name} -->\n.*?<!-- /{name} -->"
        text, count = re.subn(marks, lambda _, block=block: block, text, flags=re.DOTALL)
        if not count:
            raise ValueError(f"{path}: no lines <!-- {name} --> and <!-- /{name} -->; add them")
        found.append(name)
    path.write_text(text, encoding="utf-8")
    return found


def label(condition):
    """How a condition or a part of the loss is called."""
    if condition == "all":
        return "all three"
    return condition.replace("no_", "without ").replace("ctc", "CTC")


def _by_condition(report):
    conditions = {}
    for run in report["runs"]:
        conditions.setdefault(run["condition"], []).append(run)
    return conditions


def _mean_rate(result, kind):
    return statistics.mean(result["error_rates"][kind].values())


def _gaps(results, part):
    """How much higher a loss is with another's audio, of the runs where both were measured."""
    losses = [r["losses"] for r in results if "other_audio" in r["losses"]]
    return [kinds["other_audio"][part] - kinds["own_audio"][part] for kinds in losses]


def _less(values, others):
    return [value - other for value, other in zip(values, others, strict=True)]


def _spread(values, digits):
    """Mean and standard deviation."""
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def _range(values):
    if not values:
        return ""
    return "–".join(map(str, dict.fromkeys((min(values), max(values)))))


def _mean_curve(runs, stage, part):
    """Steps that all runs have reached, and the mean over the runs at each."""
    curves = [{p["step"]: p[stage][part] for p in run["points"]} for run in runs if run["points"]]
    if not curves:
        return [], []
    steps = sorted(set.intersection(*map(set, curves)))
    return steps, [statistics.mean(curve[step] for curve in curves) for step in steps]


def _clipped(values, part):
    """Error rates that fit on their axis."""
    return [min(value, HIGHEST_RATE) for value in values] if part == "error_rate" else values


def _scale_rates(axes):
    """An axis of error rates, that ends where they say no more."""
    highest = axes.get_ylim()[1]
    axes.set_ylabel(RATE_LABEL)
    axes.set_ylim(0, min(1.02 * HIGHEST_RATE, 1.1 * highest))
    ticks = range(0, HIGHEST_RATE + 1, 25)
    names = [*map(str, ticks[:-1]), f"{HIGHEST_RATE}+"]
    shown = [(t, n) for t, n in zip(ticks, names, strict=True) if t <= axes.get_ylim()[1]]
    axes.set_yticks(*zip(*shown, strict=True))


def _bars(axes, values, shift, width, **style):
    """A bar for each mean, and a dot for each value."""
    places = [number + shift for number in range(len(values))]
    axes.bar(places, [statistics.mean(v) for v in values], width, **style)
    dots = [(place, value) for place, own in zip(places, values, strict=True) for value in own]
    axes.scatter(*zip(*dots, strict=True), s=10, color="black", zorder=3)
    for place, own in zip(places, values, strict=True):
        mean = statistics.mean(own)
        text = f"{mean:.0f}" if abs(mean) >= 10 else f"{mean:.2f}"
        axes.annotate(
            text,
            (place, min(max(mean, *own, 0), 0.93 * HIGHEST_RATE)),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize="small",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )


def _losses_setting(report):
    """What the runs have in common."""
    settings, data = report["settings"], report["settings"]["data"]
    done = [run["result"] for run in report["runs"] if run["result"]]
    training = settings["training"]
    text = (
        f"{settings['steps']} steps of {training['max_batch_utterances']} utterances, drawn from "
        f"{data['train'][0]}; validation on {data['valid'][0]}, test on {data['test'][0]} with at "
        f"most {settings['test_steps']} denoising steps, normalizer {settings['normalizer']}; "
        f"learning rate {training['lr']:g}, loss weights "
        + ", ".join(f"{name} {weight:g}" for name, weight in training["loss_weights"].items())
        + "."
    )
    if done:
        speed = statistics.mean(r["steps"] / r["seconds"] for r in done)
        seconds = statistics.mean(r["seconds"] for r in done)
        text += (
            f" Measured on {_join({r['hardware'] for r in done})}: {seconds:.0f} s for each run, "
            f"{speed:.1f} steps a second, validation and the runs beside it included."
        )
    return text


def _join(names):
    return ", ".join(sorted(names))


def main(argv=None):
    """Writes tables and pictures of what there is, and puts them into the README."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output_folder",
        default="results/reproduction",
        metavar="PATH",
        help="of losses.py and steps.py [default: %(default)s]",
    )
    parser.add_argument(
        "--readme", default=here / "README.md", metavar="PATH", help="to fill [default: beside it]"
    )
    args = parser.parse_args(argv)
    folder = Path(args.output_folder)
    try:
        if (folder / "losses.json").exists():
            write_losses(folder)
        if (folder / "steps" / "results.json").exists():
            write_steps(folder)
        found = fill_readme(args.readme, folder)
    except (OSError, ValueError) as error:
        sys.exit(f"report.py: {error}")
    if not found:
        sys.exit(f"report.py: {folder}: neither losses.json nor steps; run losses.py or steps.py")
    print(f"{args.readme}: {' and '.join(found)}")


if __name__ == "__main__":
    main()
