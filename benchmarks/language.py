"""Measures how well the language of an utterance is found from its audio.

    python benchmarks/language.py --valid speech/valid.csv --test speech/test.csv

The speech is that of recipes/SyntheticSpeech/prepare.py or any other CSV with the columns ID, wav,
lang and wrd. The temperature is fitted on the first file and used on the others. Compared are:

    frames          `identify_language`: what CTC expects of each token, over all frames
    reading         the same table of tokens, on CTC's most probable reading
    prompt entropy  one denoising step under each language's prompt: entropy of the text
    prompt chance   the same: log probability of the text
    prompt CTC      the same: log likelihood of the text under CTC
    default         as frames, with the temperature of the model's table
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from common import environment, print_table
from speechbrain.decoders.ctc import ctc_greedy_decode
from timestamps import calibration
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from speechbrain_diffasr import AudioError, DiffusionASR, shipped_model
from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.decoders import identify_language
from speechbrain_diffasr.decoders.language_id import LANGUAGE_FILE, NO_TABLE
from speechbrain_diffasr.evaluation.selection import first_rows, usable_rows
from speechbrain_diffasr.inference import check_device

TEMPERATURES = np.geomspace(0.05, 50.0, 201)
EDGES = (0.0, 0.75, 1.5, float("inf"))  # seconds that utterances are sorted by
IMPOSSIBLE = -1e4  # nats, in the place of a log likelihood of zero
SOUNDS = ("silence", "faint noise", "loud noise", "tone")
SOUND_SECONDS = 3.0
SOUND_SEEDS = 5
FAINT, LOUD = 0.003, 0.1  # standard deviation, full scale is 1
TONE = 440.0  # Hz


class Clock:
    """Adds up the seconds that parts take."""

    def __init__(self, device):
        self.device = device
        self.seconds = {}

    def __call__(self, name, function, *args, **kwargs):
        begin = time.perf_counter()
        result = function(*args, **kwargs)
        if "cuda" in self.device:
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        return result


@torch.no_grad()
def reading_scores(asr, table, audio):
    """Log likelihood of CTC's most probable reading in each language, [B, L]."""
    decoder = asr.mods.decoder
    blank = decoder.prompt.tokenizer.token_id(decoder.prompt.slot_token)
    weights = table.weights()
    whole = torch.ones(1)
    readings = [
        ctc_greedy_decode(decoder.model.logits(row[None]), whole, blank)[0] for row in audio
    ]
    return np.array([weights[tokens].sum(dim=0).tolist() for tokens in readings])


@torch.no_grad()
def prompt_scores(asr, languages, audio):
    """What one denoising step under each prompt says, [B, L] by way."""
    decoder = asr.mods.decoder
    blank = decoder.prompt.tokenizer.token_id(decoder.prompt.slot_token)
    log_probs = [decoder.model.logits(row).log_softmax(dim=-1) for row in audio]
    # Entropy is that of the canvas, not of another reading that may be chosen in its place.
    readings, decoder.readings = decoder.readings, 0
    scores = {way: [] for way in ("prompt entropy", "prompt chance", "prompt CTC")}
    for language in languages:
        hypotheses = decoder.search(audio, languages=[language] * len(audio), steps=1)
        texts = [hypothesis.tokens for hypothesis in hypotheses]
        # With the end-of-text token.
        read = [slice(len(tokens) + 1) for tokens in texts]
        rows = list(zip(hypotheses, read, strict=True))
        scores["prompt entropy"].append([-h.entropy[part].sum().item() for h, part in rows])
        scores["prompt chance"].append([h.log_probs[part].sum().item() for h, part in rows])
        likelihoods = [
            -torch.nn.functional.ctc_loss(
                frames[:, None].float().cpu(),
                torch.tensor([[token for token in tokens if token != blank]], dtype=torch.long),
                (len(frames),),
                (sum(token != blank for token in tokens),),
                blank,
                reduction="sum",
            ).item()
            for frames, tokens in zip(log_probs, texts, strict=True)
        ]
        scores["prompt CTC"].append([max(one, IMPOSSIBLE) for one in likelihoods])
    decoder.readings = readings
    return {way: np.array(values).T for way, values in scores.items()}


def measure(asr, table, rows, num_prompts, batch_size):
    """Scores every utterance in every way, and takes the time.

    Arguments
    ---------
    asr : DiffusionASR
    table : LanguageTable
    rows : list of dict
        Utterances.
    num_prompts : int
        Of each language, for the ways that need decoding.
    batch_size : int

    Returns
    -------
    scores : dict of numpy.ndarray
        Log likelihoods by way, [N, L].
    places : dict of numpy.ndarray
        Places of these utterances in `rows`, by way.
    lengths : numpy.ndarray
        Of all, in seconds.
    times : dict
        Milliseconds an utterance by part.
    """
    few = [id(row) for row in first_rows(rows, num_prompts)]
    # Those that are decoded first, so that batches are all of one kind.
    order = sorted(range(len(rows)), key=lambda place: id(rows[place]) not in few)
    batches = []
    for part in (order[: len(few)], order[len(few) :]):
        batches += [part[start : start + batch_size] for start in range(0, len(part), batch_size)]
    clock = Clock(str(asr.device))
    scores, places, lengths = {}, {}, np.zeros(len(rows))
    for batch in tqdm(batches, unit="batch"):
        wavs = [asr.load_audio(rows[place]["wav"]) for place in batch]
        lens = torch.tensor([len(wav) for wav in wavs])
        lengths[batch] = (lens / asr.sample_rate).tolist()
        padded = pad_sequence(wavs, batch_first=True)
        audio = clock("encode", asr.encode_batch, padded, lens / lens.max())
        decoder = asr.mods.decoder
        # Of a temperature of 1, log probabilities are log likelihoods but for a constant.
        found = clock("identify", identify_language, decoder, audio, table, temperature=1.0)
        chances = [[one.probabilities[code] for code in table.languages] for one in found]
        ways = {"frames": np.log(np.clip(chances, np.finfo(float).tiny, None))}
        ways["reading"] = reading_scores(asr, table, audio)
        if id(rows[batch[0]]) in few:
            clock("decode", decoder.search, audio)
            ways |= clock("prompts", prompt_scores, asr, table.languages, audio)
        for way, values in ways.items():
            scores.setdefault(way, []).append(values)
            places.setdefault(way, []).extend(batch)
    counts = {"encode": len(rows), "identify": len(rows), "decode": len(few), "prompts": len(few)}
    times = {name: 1000 * total / counts[name] for name, total in clock.seconds.items()}
    scores = {way: np.concatenate(values) for way, values in scores.items()}
    return scores, {way: np.array(values) for way, values in places.items()}, lengths, times


def probabilities(scores, temperature):
    """Softmax of log likelihoods, [N, L].

    Example
    -------
    >>> probabilities(np.log([[0.9, 0.1]]), 0.5).round(3).tolist()
    [[0.988, 0.012]]
    """
    return torch.from_numpy(scores / temperature).softmax(dim=-1).numpy()


def fit_temperature(scores, truth):
    """The temperature under which the right languages have the smallest log loss.

    Arguments
    ---------
    scores : numpy.ndarray
        Log likelihoods, [N, L].
    truth : numpy.ndarray
        Place of the right language, [N].

    Returns
    -------
    temperature : float
    """
    rows = np.arange(len(truth))
    losses = []
    for temperature in TEMPERATURES:
        right = torch.from_numpy(scores / temperature).log_softmax(dim=-1).numpy()[rows, truth]
        losses.append(-right.mean())
    return float(TEMPERATURES[np.argmin(losses)])


def summarize(scores, truth, temperature, languages, lengths):
    """Accuracy, confusions and calibration.

    Arguments
    ---------
    scores : numpy.ndarray
        Log likelihoods, [N, L].
    truth : numpy.ndarray
        Place of the right language, [N].
    temperature : float
    languages : list of str
    lengths : numpy.ndarray
        In seconds, [N].

    Returns
    -------
    summary : dict
        Shares from 0 to 1; the rows of the confusion are what was spoken.
    """
    chances = probabilities(scores, temperature)
    found, sure = chances.argmax(axis=1), chances.max(axis=1)
    right = found == truth
    error, bins = calibration(sure, right)
    names = {"words": "utterances", "right": "accuracy"}
    confusion = np.zeros((len(languages), len(languages)), dtype=int)
    np.add.at(confusion, (truth, found), 1)
    by_seconds = []
    for low, high in pairwise(EDGES):
        inside = (low <= lengths) & (lengths < high)
        if inside.any():
            row = {"from": low, "utterances": int(inside.sum())}
            by_seconds.append({**row, "accuracy": float(right[inside].mean())})
    return {
        "utterances": len(truth),
        "accuracy": float(right.mean()),
        "by_language": {
            language: float(right[truth == place].mean())
            for place, language in enumerate(languages)
            if (truth == place).any()
        },
        "by_seconds": by_seconds,
        "temperature": temperature,
        "calibration_error": error,
        "bins": [{names.get(key, key): value for key, value in row.items()} for row in bins],
        "confusion": dict(zip(languages, confusion.tolist(), strict=True)),
    }


def make_sound(name, sample_rate, seed):
    """Three seconds without speech, [T]."""
    noise = torch.randn(
        int(SOUND_SECONDS * sample_rate), generator=torch.Generator().manual_seed(seed)
    )
    times = torch.arange(len(noise)) / sample_rate
    return {
        "silence": torch.zeros_like(noise),
        "faint noise": FAINT * noise,
        "loud noise": LOUD * noise,
        "tone": LOUD * torch.sin(2 * torch.pi * TONE * times + seed),
    }[name]


def identify_sounds(asr, table):
    """What is found where nobody speaks: the surest of a few seeds."""
    result = []
    for name in SOUNDS:
        wavs = torch.stack([make_sound(name, asr.sample_rate, seed) for seed in range(SOUND_SEEDS)])
        audio = asr.encode_batch(wavs.to(asr.device), torch.ones(len(wavs)))
        found = identify_language(asr.mods.decoder, audio, table)
        best = max(found, key=lambda one: one.probability)
        result.append({"sound": name, "language": best.code, "probability": best.probability})
    return result


def parse(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default=shipped_model("diffasr-tiny"),
        help="a pretrained folder with a table of languages",
    )
    parser.add_argument("--valid", required=True, help="CSV that the temperature is fitted on")
    parser.add_argument("--test", required=True, nargs="+", help="CSV files to report on")
    parser.add_argument(
        "--utterances", type=int, default=100, help="of each language at most (%(default)s)"
    )
    parser.add_argument(
        "--prompts", type=int, default=25, help="of these, for the ways with prompts (%(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="JSON file for the figures")
    parser.add_argument(
        "--save", action="store_true", help="the temperature into the model's table of languages"
    )
    args = parser.parse_args(argv)
    for name in ("utterances", "prompts", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: {getattr(args, name)} is not 1 or more")
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    try:
        check_device(args.device)
        asr = DiffusionASR.from_hparams(args.model, run_opts={"device": args.device})
        table = asr.language_table
        if table is None:
            parser.error(NO_TABLE)
        files = {}
        for path in (args.valid, *args.test):
            rows, _ = usable_rows(read_rows(path), table.languages)
            files[path] = first_rows([row for row in rows if row.get("lang")], args.utterances)
            if not files[path]:
                parser.error(f"{path}: no utterance has a language of {table.languages}")
        measured = {
            path: measure(asr, table, rows, args.prompts, args.batch_size)
            for path, rows in files.items()
        }
    except (AudioError, OSError, ValueError) as error:
        parser.error(str(error))

    truth = {
        path: np.array([table.languages.index(row["lang"]) for row in rows])
        for path, rows in files.items()
    }
    scores, places, *_ = measured[args.valid]
    fitted = {way: fit_temperature(scores[way], truth[args.valid][places[way]]) for way in scores}
    reports = {}
    for path in args.test:
        scores, places, lengths, times = measured[path]
        report = {"speech": Path(path).stem, "ms": times}
        for way, values in scores.items():
            own, seconds = truth[path][places[way]], lengths[places[way]]
            report[way] = summarize(values, own, fitted[way], table.languages, seconds)
        report["default"] = summarize(
            scores["frames"],
            truth[path][places["frames"]],
            table.temperature,
            table.languages,
            lengths[places["frames"]],
        )
        reports[path] = report

    lines = []
    for report in reports.values():
        for way in (*measured[args.valid][0], "default"):
            summary = report[way]
            keys = ("utterances", "accuracy", "temperature", "calibration_error")
            lines.append(
                {
                    "speech": report["speech"],
                    "way": way,
                    **{key: summary[key] for key in keys},
                    **{code: summary["by_language"].get(code, "") for code in table.languages},
                }
            )
    sounds = identify_sounds(asr, table)
    print_table(lines)
    for report in reports.values():
        print(f"\n{report['speech']}: rows are spoken, columns found (frames)\n")
        confusion = report["frames"]["confusion"]
        print_table(
            [
                {"": code, **dict(zip(confusion, row, strict=True))}
                for code, row in confusion.items()
            ]
        )
        print()
        print_table([{f"{name}, ms": value for name, value in report["ms"].items()}])
    print()
    print_table(sounds)
    result = {
        "model": Path(args.model).resolve().name,
        "languages": table.languages,
        **environment(args.device),
        "fitted_temperatures": fitted,
        "reports": list(reports.values()),
        "sounds": sounds,
    }
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.save:
        table.temperature = fitted["frames"]
        table.save(Path(args.model, LANGUAGE_FILE))
    return result


if __name__ == "__main__":
    main()
