"""The pictures of the experiments with losses."""

import statistics

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from report_tables import PARTS, gaps_of, label, mean_rate

from speechbrain_diffasr.evaluation.report import COLOURS, DASHES, MARKERS

# Per cent. What babbles makes many times more errors than there are words; pictures end here.
HIGHEST_RATE = 150
RATE_LABEL = "error rate (%), mean of languages"


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
    measured = all(gaps_of(results, parts[0][0]) for results in done.values())
    count = 2 if measured else 1
    figure = Figure(figsize=(1.5 + 3.75 * count, 4), dpi=100, layout="constrained")
    rates, *gaps = figure.subplots(1, count, squeeze=False).flat
    bars = (("own_audio", "own audio", -0.2, None), ("other_audio", "another's audio", 0.2, "//"))
    for colour, (kind, text, shift, hatch) in zip(COLOURS, bars, strict=False):
        values = [[mean_rate(r, kind) for r in results] for results in done.values()]
        _bars(rates, values, shift, 0.36, color=colour, hatch=hatch, edgecolor="white", label=text)
    _scale_rates(rates)
    for panel in gaps:
        for colour, (part, shift, hatch) in zip(COLOURS[2:], parts, strict=False):
            values = [gaps_of(results, part) for results in done.values()]
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
