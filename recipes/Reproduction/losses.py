"""What each loss brings, and what CTC unlocks: trains with and without each of them, side by side.

python losses.py losses.yaml --data_folder ../SyntheticSpeech/data/speech
"""

import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import speechbrain as sb
from command import run_command
from one_run import read_json, train_one, write_json
from report import write_losses
from tqdm import tqdm

from speechbrain_diffasr.dataio import FeatureCache, read_rows
from speechbrain_diffasr.evaluation.selection import first_rows, mismatch
from speechbrain_diffasr.inference.pretrained import FILENAMES, TRAINED
from speechbrain_diffasr.recipe.folders import claim_folder, write_csv
from speechbrain_diffasr.training.fit import load_recognizer

SPLITS = ("train", "valid", "test")
POLL_SECONDS = 1.0


def run_losses(hparams, run_opts, argv):
    """Trains and scores all runs that are not finished, `parallel` of them at a time.

    Arguments
    ---------
    hparams : dict
        Of losses.yaml.
    run_opts : RunOptions
        Of SpeechBrain's command line.
    argv : list of str
        The command line, which each run is given too.

    Raises
    ------
    ValueError
        If a setting cannot be used, the folder holds runs with other settings, or a run failed.
    """
    folder = Path(hparams["output_folder"], "losses")
    runs = plan_runs(hparams)
    if hparams["run"]:
        if hparams["run"] not in runs:
            raise ValueError(f"--run: {hparams['run']!r} is none of {', '.join(runs)}")
        weights, seed = runs[hparams["run"]]
        data = {name: folder / f"{name}.csv" for name in (*SPLITS, "other")}
        train_one(hparams, run_opts, folder / hparams["run"], data, weights, seed)
        return
    rows = choose_rows(hparams)
    claim_folder(folder, _settings(hparams, rows))
    path, _, overrides = sb.parse_arguments(argv)
    sb.create_experiment_directory(folder, path, overrides)
    _write_rows(rows, folder)
    unfinished = [name for name in runs if not (folder / name / "result.json").exists()]
    if unfinished:
        _fill_cache(hparams, run_opts, rows)
    try:
        failed = _run_all(unfinished, folder, hparams, runs, argv)
    finally:
        collect(hparams, folder, runs)
        write_losses(hparams["output_folder"])
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(runs)} runs failed, and the same command tries them again:\n"
            + "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        )


def plan_runs(hparams):
    """Lists the runs, those of one seed after each other.

    Arguments
    ---------
    hparams : dict
        Of losses.yaml.

    Returns
    -------
    runs : dict
        Weights of the losses and seed, by the name CONDITION/SEED.
    """
    if not 0 < hparams["log_every"] <= hparams["steps"] or hparams["steps"] % hparams["log_every"]:
        raise ValueError(
            f"steps: {hparams['steps']} is no multiple of log_every, {hparams['log_every']}"
        )
    weights = hparams["training"]["loss_weights"]
    runs = {}
    for seed in hparams["seeds"]:
        for condition in hparams["compare"]:
            if condition not in hparams["conditions"]:
                known = ", ".join(hparams["conditions"])
                raise ValueError(f"compare: {condition!r} is none of the conditions {known}")
            left_out = hparams["conditions"][condition]
            unknown = set(left_out) - set(weights)
            if unknown:
                raise ValueError(f"conditions: {condition}: no loss {', '.join(sorted(unknown))}")
            own = {name: 0.0 if name in left_out else value for name, value in weights.items()}
            runs[f"{condition}/{seed}"] = own, seed
    return runs


def choose_rows(hparams):
    """Reads the first utterances of each language of each split.

    Arguments
    ---------
    hparams : dict
        Of losses.yaml.

    Returns
    -------
    rows : dict of list of dict
        Of train, valid, test, and other: those of valid, each with the audio of another.
    """
    rows = {}
    for split in SPLITS:
        path = Path(hparams["data_folder"], f"{split}.csv")
        rows[split] = first_rows(read_rows(path), hparams[f"{split}_utterances"])
        for column in ("duration", "lang"):
            if not all(row.get(column) for row in rows[split]):
                raise ValueError(f"{path}: there are utterances without {column}; fill the column")
    for split in ("valid", "test"):
        others, alone = mismatch(rows[split])
        if len(alone) >= len(others):
            raise ValueError(
                f"{split}_utterances: most of {len(rows[split])} utterances have no other of their "
                "language, with another text, to take the audio of; take more"
            )
    rows["other"], _ = mismatch(rows["valid"])
    # The waveform of another utterance has its length, too.
    durations = {row["ID"]: row["duration"] for row in rows["valid"]}
    rows["other"] = [{**row, "duration": durations[row["audio_of"]]} for row in rows["other"]]
    return rows


def collect(hparams, folder, runs):
    """Writes what all runs have given so far into losses.json.

    Arguments
    ---------
    hparams : dict
        Of losses.yaml.
    folder : Path
        Of the runs.
    runs : dict
        From `plan_runs`.

    Returns
    -------
    report : dict
        What losses.json holds.
    """
    report = {"settings": read_json(folder / "settings.json"), "runs": []}
    for name, (weights, seed) in runs.items():
        points = read_json(folder / name / "curve.json", [])
        result = read_json(folder / name / "result.json")
        condition = name.rpartition("/")[0]
        report["runs"].append(
            {
                "condition": condition,
                "left_out": list(hparams["conditions"][condition]),
                "seed": seed,
                "loss_weights": weights,
                "points": points,
                "result": result,
            }
        )
    write_json(Path(hparams["output_folder"], "losses.json"), report)
    return report


def _settings(hparams, rows):
    """What decides how the runs come out, seeds and conditions aside."""
    training = {
        name: value
        for name, value in hparams["training"].items()
        if isinstance(value, int | float | str | list | dict | None)
    }
    for name in ("output_folder", "feature_cache", "num_workers", "seed", "feature_batch_size"):
        training.pop(name)
    texts = {name: "\n".join(f"{row['ID']} {row['wrd']}" for row in rows[name]) for name in SPLITS}
    frozen = {}
    for part, file in FILENAMES.items():
        path = Path(hparams["pretrained"], file)
        if part not in (*TRAINED, "language") and path.exists():
            frozen[part] = f"{zlib.crc32(path.read_bytes()):08x}"
    keys = ("steps", "log_every", "seconds", "test_steps", "normalizer", "model")
    return {
        **{name: hparams[name] for name in keys},
        "data": {name: [len(rows[name]), zlib.crc32(texts[name].encode())] for name in SPLITS},
        "frozen": frozen,
        "training": training,
    }


def _write_rows(rows, folder):
    for name, chosen in rows.items():
        columns = ("ID", "duration", "wav", "lang", "voice", "wrd")
        paths = [{**row, "wav": os.path.abspath(row["wav"])} for row in chosen]
        write_csv(folder / f"{name}.csv", ([row.get(c, "") for c in columns] for row in paths))


def _fill_cache(hparams, run_opts, rows):
    """Encodes all audio once for all runs."""
    settings = hparams["training"]
    if not settings["feature_cache"]:
        return
    asr = load_recognizer(hparams["pretrained"], hparams["model"] or {}, run_opts)
    paths = [os.path.abspath(row["wav"]) for name in ("train", "valid") for row in rows[name]]
    cache = FeatureCache(settings["feature_cache"], asr.mods.encoder.whisper)
    cache.fill(paths, asr.load_audio, settings["feature_batch_size"])


def _run_all(names, folder, hparams, runs, argv):
    """Runs as processes of their own, `parallel` at a time; returns why which of them failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(hparams["threads"])}
    waiting, running, failed = list(names), {}, {}
    done = dict.fromkeys(names, 0)
    bar = tqdm(total=hparams["steps"] * len(names), unit="step", mininterval=2, disable=not names)
    try:
        while waiting or running:
            while waiting and len(running) < max(1, hparams["parallel"]):
                name = waiting.pop(0)
                (folder / name).mkdir(parents=True, exist_ok=True)
                command = [sys.executable, __file__, *argv, "--run", name, "--noprogressbar"]
                with open(folder / name / "log.txt", "w", encoding="utf-8") as log:
                    running[name] = subprocess.Popen(
                        command, env=environment, stdout=log, stderr=subprocess.STDOUT
                    )
            time.sleep(POLL_SECONDS)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if running.pop(name).returncode:
                    lines = (folder / name / "log.txt").read_text(encoding="utf-8").split("\n")
                    failed[name] = next((line for line in lines[::-1] if line.strip()), "no reason")
            points = {name: read_json(folder / name / "curve.json", []) for name in names}
            steps = {name: p[-1]["step"] if p else 0 for name, p in points.items()}
            if steps != done:
                bar.update(sum(steps.values()) - sum(done.values()))
                done = steps
                # After each point, so that a kill loses nothing.
                collect(hparams, folder, runs)
            counts = {"running": len(running), "waiting": len(waiting), "failed": len(failed)}
            bar.set_postfix(counts, refresh=False)
    finally:
        bar.close()
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


if __name__ == "__main__":
    run_command(run_losses, sys.argv[1:])
