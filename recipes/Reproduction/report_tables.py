"""The tables of the experiments in Markdown, and what they are made of."""

import statistics

from speechbrain_diffasr.evaluation.metrics import main_kind

# Parts of the loss and their units.
PARTS = {
    "diffusion": "nats per position",
    "autoregressive": "nats per token",
    "ctc": "nats per token",
}


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
    conditions = by_condition(report)
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
        cells.append(_spread([mean_rate(r, "own_audio") for r in done], 1))
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
        own, other = ([mean_rate(r, kind) for r in done] for kind in ("own_audio", "other_audio"))
        cells = [label(name), _spread(own, 1), _spread(other, 1), _spread(_less(other, own), 1)]
        gaps = [_spread(gaps_of(done, part), 3) for part in ("diffusion", "autoregressive")]
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


def label(condition):
    """How a condition or a part of the loss is called."""
    if condition == "all":
        return "all three"
    return condition.replace("no_", "without ").replace("ctc", "CTC")


def by_condition(report):
    """Lists of the runs that losses.json holds, by condition."""
    conditions = {}
    for run in report["runs"]:
        conditions.setdefault(run["condition"], []).append(run)
    return conditions


def mean_rate(result, kind):
    """Mean of the languages' error rates of a run, in per cent, kind own_audio or other_audio."""
    return statistics.mean(result["error_rates"][kind].values())


def gaps_of(results, part):
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
