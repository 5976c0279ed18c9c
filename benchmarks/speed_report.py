"""What `speed.py` writes: its figures as JSON, as tables, and as a picture."""

import json
from pathlib import Path

from common import print_table

from speechbrain_diffasr.utils.atomic import write_atomically

# Colours that the colour-blind can tell apart (https://jfly.uni-koeln.de/color/).
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PICTURE_INCHES = (10, 4)
PICTURE_DPI = 150
# Settings whose transcripts are the same; with the others, those of a model that was not trained so
# differ.
EXACT = ("plain", "fused")


def summarize(result):
    """The figures that one looks for first, from the tables that exist so far.

    Arguments
    ---------
    result : dict
        With `seconds` and `steps`, of which the first are what is quoted, and tables.

    Returns
    -------
    summary : dict
    """
    seconds, steps = result["seconds"][0], result["steps"][0]
    total, rtfx = f"total{steps}_ms", f"rtfx{steps}"
    rows = result.get("stages", []) + result.get("settings", [])
    rows = [row for row in rows if row["seconds"] == seconds]
    summary = {}
    for name, setting in (("batch1", result["setting"]), ("batch1_exact", "fused")):
        alone = [row for row in rows if row["batch"] == 1 and row["setting"] == setting]
        if alone:
            summary[f"{name}_ms"] = alone[0][total]
            summary[f"{name}_floor_ms"] = alone[0][f"floor{steps}"]["total"]
            summary[f"{name}_rtfx"] = alone[0][rtfx]
    exact = [row for row in rows if row["setting"] in EXACT]
    for name, those in (("best", rows), ("best_exact", exact)):
        if those:
            best = max(those, key=lambda row: row[rtfx])
            summary[f"{name}_rtfx"] = best[rtfx]
            summary[f"{name}_batch"] = best["batch"]
            summary[f"{name}_setting"] = best["setting"]
            summary[f"{name}_share"] = best[f"share{steps}"]
    # Without adapters, which is faster: nobody shall say that the stock loop was held back.
    stock = [
        row for row in result.get("stock", []) if row["steps"] == steps and row["adapters"] == "no"
    ]
    for row in stock:
        if row["generate"] == "compiled":
            summary["batch1_compiled_stock_ms"] = row["total_ms"]
            continue
        if row["batch"] == 1:
            summary["batch1_stock_ms"] = row["total_ms"]
        # The last is the largest batch.
        summary["stock_rtfx"] = row["rtfx"]
        summary["stock_batch"] = row["batch"]
    for row in result.get("step_times", []):
        for name, column in (("step_ms", "step_ms"), ("step_floor_ms", "floor_ms")):
            of_batch = summary.setdefault(name, {}).setdefault(str(row["batch"]), {})
            of_batch[str(row["canvas"])] = row[column]
    peaks = [row["peak_gb"] for row in rows if row["peak_gb"] is not None]
    if peaks:
        summary["peak_gb"] = max(peaks)
    if result.get("warm_up"):
        summary["warm_up_s"] = result["warm_up"][0]["warm_up_s"]
    return summary


def write(result, path):
    """Writes the figures, all or nothing.

    Arguments
    ---------
    result : dict
    path : str or Path
        Of the JSON file; its folder is made if needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")


def print_rows(name, rows):
    """Prints a table; what is nested is left to the JSON file.

    Arguments
    ---------
    name : str
    rows : list of dict
    """
    columns = {key: None for row in rows for key in row}
    flat = [
        key for key in columns if not any(isinstance(row.get(key), dict | list) for row in rows)
    ]
    print(f"\n{name}")
    print_table([{key: _cell(row.get(key)) for key in flat} for row in rows])


def _cell(value):
    return "" if value is None else value


def floors_table(rows, steps):
    """Measured time and floor of each stage, side by side.

    Arguments
    ---------
    rows : list of dict
        Of the table `stages`.
    steps : int

    Returns
    -------
    rows : list of dict
    """
    table = []
    for row in rows:
        line = {key: row[key] for key in ("setting", "seconds", "batch", "canvas")}
        for stage, floor in row[f"floor{steps}"].items():
            key = f"total{steps}" if stage == "total" else stage
            line[key] = f"{row[f'{key}_ms']:.3g} ({floor:.3g})"
        table.append(line)
    return table


def draw(result, path):
    """Draws cost against steps, and against the length of the transcript.

    Arguments
    ---------
    result : dict
        With the tables `steps_line`, `steps_fit` and `lengths`.
    path : str or Path
        Of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=PICTURE_INCHES, layout="constrained")
    seconds = result["seconds"][0]
    styles = zip(result["steps_fit"], (BLUE, GREEN), ("o", "s"), strict=False)
    for fit, colour, marker in styles:
        batch = fit["batch"]
        rows = [row for row in result["steps_line"] if row["batch"] == batch]
        steps = [row["steps"] for row in rows]
        label = f"batch of {batch}: {fit['slope_ms']:.3g} ms a step + {fit['intercept_ms']:.3g} ms"
        left.plot(steps, [row["total_ms"] for row in rows], marker, color=colour, label=label)
        ends = [0, max(steps)]
        fitted = [fit["intercept_ms"] + fit["slope_ms"] * end for end in ends]
        left.plot(ends, fitted, color=colour)
    left.set(
        xlabel="denoising steps", ylabel="waveform to text, ms", ylim=(0, None), xlim=(0, None)
    )
    left.set_title(f"{seconds:g} s of audio")
    rows = result["lengths"]
    tokens = [row["tokens"] for row in rows]
    ours = f"diffusion, {rows[0]['steps']} steps"
    right.plot(tokens, [row["total_ms"] for row in rows], "o-", color=BLUE, label=ours)
    theirs = [row["whisper_ms"] for row in rows]
    right.plot(tokens, theirs, "^--", color=ORANGE, label="autoregressive decoder of Whisper")
    right.set(xlabel="tokens of the transcript", ylabel="waveform to text, ms", ylim=(0, None))
    right.set(xlim=(0, None), title=f"{rows[0]['seconds']:g} s of audio, batch of 1")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=PICTURE_DPI)
    pyplot.close(figure)
