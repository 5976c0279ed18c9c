"""Measures time stamps and confidence of words on speech whose word boundaries are known.

    python benchmarks/timestamps.py --text_folder texts
    python benchmarks/timestamps.py --text_folder texts --snr 20
    python benchmarks/timestamps.py --digits free-spoken-digit-dataset \\
        --model pretrained/diffasr-tiny-digits
    python benchmarks/timestamps.py --csv valid.csv --model pretrained/diffasr-base

Texts are spoken by espeak-ng, which tells when each word begins; every second utterance is two
sentences with a pause between them. Digits are recordings of people, joined with pauses. Of the
recordings of a CSV file nobody knows the times: they tell of confidence only.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from common import environment, print_table
from known_words import add_noise, join_digits, read_recordings, speak_sentences
from speechbrain.utils.edit_distance import alignment, op_table
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from speechbrain_diffasr import AudioError, DiffusionASR, shipped_model
from speechbrain_diffasr.transcripts import WordAligner
from speechbrain_diffasr.transcripts.alignment import place_edges
from speechbrain_diffasr.utils.errors import CsvError

NUM_BINS = 10  # of the calibration error
TEMPERATURES = np.geomspace(0.1, 10.0, 401)
LEAST_PROBABILITY = 1e-6


class FrameEdges(WordAligner):
    """Takes the frames of CTC for the words."""

    def edges(self, spans, wav):
        return spans


class GapEdges(WordAligner):
    """Divides the gaps between the frames of words, and knows no pauses."""

    def edges(self, spans, wav):
        return place_edges(spans, [], len(wav) / self.sample_rate, self.frame, self.gap_share)


def transcribe(asr, spoken, batch_size, steps):
    """Words of the hypotheses and of the references, by every way that is compared.

    Arguments
    ---------
    asr : DiffusionASR
    spoken : list of Spoken
    batch_size : int
    steps : int or None
        Denoising steps at most.

    Returns
    -------
    found : list of dict
        Of each utterance: lists of words by (text, way).
    """
    parts = asr.mods.encoder, asr.mods.decoder
    edges = {name: kind(*parts) for name, kind in EDGES.items()}
    scores = {name: WordAligner(*parts, acoustic_share=share) for name, share in SHARES.items()}
    found = []
    for start in tqdm(range(0, len(spoken), batch_size), desc="Transcribing", unit="batch"):
        batch = spoken[start : start + batch_size]
        wavs = [utterance.wav.to(asr.device) for utterance in batch]
        lens = torch.tensor([len(wav) for wav in wavs])
        audio = asr.encode_batch(pad_sequence(wavs, batch_first=True), lens / lens.max())
        languages = [utterance.lang for utterance in batch]
        hypotheses = asr.mods.decoder.search(
            audio,
            languages=languages,
            steps=steps,
            seconds=[len(wav) / asr.sample_rate for wav in wavs],
        )
        heard = [hypothesis.tokens for hypothesis in hypotheses]
        log_probs = [hypothesis.log_probs for hypothesis in hypotheses]
        spelled = [asr.tokenizer.encode_text(utterance.text) for utterance in batch]
        words = {}
        for name, aligner in edges.items():
            words["hypothesis", name] = aligner(wavs, audio, heard, log_probs)
            words["reference", name] = aligner(wavs, audio, spelled)
        for name, aligner in scores.items():
            words["hypothesis", name] = aligner(wavs, audio, heard, log_probs)
        found += [{key: rows[place] for key, rows in words.items()} for place in range(len(batch))]
    return found


EDGES = {"frames": FrameEdges, "gaps": GapEdges, "pauses": WordAligner}
SHARES = {"denoiser": 0.0, "ctc": 1.0, "both": 0.5}


def match(reference, words):
    """Pairs of places of equal words in two texts that are aligned by edit distance."""
    steps = alignment(op_table(reference, words))
    return [(place, other) for operation, place, other in steps if operation == "="]


def boundary_errors(spoken, found, text, way):
    """Errors of the edges of right words, in seconds.

    Arguments
    ---------
    spoken : list of Spoken
    found : list of dict
        From `transcribe`.
    text : str
        hypothesis or reference.
    way : str
        Key of `EDGES`.

    Returns
    -------
    errors : numpy.ndarray
        Of starts and ends, [number of words, 2]; positive where the edge is too late.
    languages : numpy.ndarray
        Of each word.
    """
    errors, languages = [], []
    for utterance, words in zip(spoken, found, strict=True):
        guessed = words[text, way]
        spelled = [word for word, _, _ in utterance.words]
        for place, other in match(spelled, [word.text for word in guessed]):
            _, start, end = utterance.words[place]
            errors.append((guessed[other].start - start, guessed[other].end - end))
            languages.append(utterance.lang)
    return np.array(errors).reshape(-1, 2), np.array(languages)


def summarize_errors(errors):
    """Median and 95th percentile of absolute errors, and the median with its sign, in ms."""
    absolute = 1000 * np.abs(errors)
    summary = {"words": len(errors)}
    for name, values in (("all", absolute), ("start", absolute[:, 0]), ("end", absolute[:, 1])):
        summary[f"{name}_median_ms"] = float(np.median(values))
        summary[f"{name}_p95_ms"] = float(np.percentile(values, 95))
    summary["start_bias_ms"], summary["end_bias_ms"] = (1000 * np.median(errors, axis=0)).tolist()
    return summary


def judged_words(spoken, found, way):
    """Confidence of every word that was heard, and whether it is right."""
    confidences, right = [], []
    for utterance, words in zip(spoken, found, strict=True):
        guessed = words["hypothesis", way]
        spelled = [word for word, _, _ in utterance.words]
        matched = {other for _, other in match(spelled, [word.text for word in guessed])}
        confidences += [word.confidence for word in guessed]
        right += [place in matched for place in range(len(guessed))]
    return np.array(confidences), np.array(right)


def area_under_curve(confidences, right):
    """Chance that a right word is surer than a wrong one; half of it where they are as sure.

    Example
    -------
    >>> area_under_curve(np.array([0.9, 0.5, 0.5]), np.array([True, True, False]))
    0.75
    """
    difference = confidences[right][:, None] - confidences[~right]
    if not difference.size:
        return None
    return float(np.mean(0.5 + 0.5 * np.sign(difference)))


def calibration(confidences, right, num_bins=NUM_BINS):
    """Expected calibration error over bins of equal width (https://arxiv.org/abs/1706.04599).

    Arguments
    ---------
    confidences : numpy.ndarray
        From 0 to 1, [N].
    right : numpy.ndarray
        bool [N].
    num_bins : int

    Returns
    -------
    error : float
        Mean distance between confidence and share of right words of a bin, weighted by words.
    bins : list of dict
        Those with words in them.

    Example
    -------
    >>> error, bins = calibration(np.array([0.9, 0.9, 0.1]), np.array([True, False, False]))
    >>> round(error, 3), [row["words"] for row in bins]
    (0.3, [1, 2])
    """
    places = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    error, bins = 0.0, []
    for place in range(num_bins):
        inside = places == place
        if inside.any():
            mean, share = float(confidences[inside].mean()), float(right[inside].mean())
            error += float(inside.mean()) * abs(mean - share)
            row = {"from": place / num_bins, "to": (place + 1) / num_bins}
            row |= {"words": int(inside.sum()), "mean_confidence": mean, "right": share}
            bins.append(row)
    return error, bins


def fit_temperature(confidences, right):
    """The temperature for `WordAligner` under which words have the smallest log loss."""
    logs = np.log(np.clip(confidences, np.finfo(float).tiny, None))
    losses = []
    for temperature in TEMPERATURES:
        chances = np.clip(np.exp(logs / temperature), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        losses.append(-np.mean(np.where(right, np.log(chances), np.log(1 - chances))))
    return float(TEMPERATURES[np.argmin(losses)])


def report_confidence(tuning, testing):
    """AUC and calibration error of every way, as it is and with a temperature fitted.

    Arguments
    ---------
    tuning, testing : dict
        (confidences, right) by way; the temperature is fitted on the first.

    Returns
    -------
    rows : list of dict
    """
    rows = []
    for way, (confidences, right) in testing.items():
        error, bins = calibration(confidences, right)
        temperature = fit_temperature(*tuning[way])
        calibrated = confidences ** (1 / temperature)
        calibrated_error, calibrated_bins = calibration(calibrated, right)
        rows.append(
            {
                "confidence": way,
                "words": len(right),
                "right": float(right.mean()),
                "auc": area_under_curve(confidences, right),
                "calibration_error": error,
                "temperature": temperature,
                "calibrated_error": calibrated_error,
                "bins": bins,
                "calibrated_bins": calibrated_bins,
            }
        )
    return rows


def parse(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default=shipped_model("diffasr-tiny"), help="a pretrained folder"
    )
    parser.add_argument("--text_folder", help="with LANG.txt, as for recipes/SyntheticSpeech")
    parser.add_argument("--digits", help="the unpacked Free Spoken Digit Dataset, instead")
    parser.add_argument("--csv", help="recordings with texts, instead: of confidence only")
    parser.add_argument("--languages", nargs="+", help="default: those of the model with a text")
    parser.add_argument("--utterances", type=int, default=50, help="of each language (%(default)s)")
    parser.add_argument("--tuning", type=int, default=25, help="the same, for the temperature")
    parser.add_argument("--snr", type=float, help="adds white noise so many dB below the speech")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument("--batch_size", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="JSON file for the figures")
    args = parser.parse_args(argv)
    if sum(source is not None for source in (args.text_folder, args.digits, args.csv)) != 1:
        parser.error("give either --text_folder, --digits or --csv")
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    asr = DiffusionASR.from_hparams(args.model, run_opts={"device": args.device})
    results, left_out = {}, 0
    for split, count in (("valid", args.tuning), ("test", args.utterances)):
        limits = args.seed, asr.sample_rate, asr.max_seconds
        try:
            if args.digits:
                spoken, missing = join_digits(args.digits, split, count, *limits)
            elif args.csv:
                languages = args.languages or list(asr.languages)
                spoken, missing = read_recordings(
                    args.csv, split, count, args.tuning, languages, *limits[1:]
                )
            else:
                languages = args.languages or [
                    lang
                    for lang in asr.languages
                    if (Path(args.text_folder) / f"{lang}.txt").is_file()
                ]
                spoken, missing = speak_sentences(
                    args.text_folder, split, count, languages, *limits
                )
        except (AudioError, CsvError, OSError, ValueError) as error:
            parser.error(str(error))
        if not spoken:
            parser.error(f"no utterance is left for {split}; are there texts, and long enough?")
        if args.snr is not None:
            add_noise(spoken, args.snr, args.seed)
        left_out += missing
        results[split] = spoken, transcribe(asr, spoken, args.batch_size, args.steps)

    spoken, found = results["test"]
    boundaries = []
    for text in () if args.csv else ("hypothesis", "reference"):
        for way in EDGES:
            errors, languages = boundary_errors(spoken, found, text, way)
            by_language = {
                lang: summarize_errors(errors[languages == lang])
                for lang in dict.fromkeys(languages.tolist())
            }
            row = {"text": text, "edges": way, **summarize_errors(errors)}
            boundaries.append({**row, "by_language": by_language})
    judged = {
        split: {way: judged_words(*pair, way) for way in SHARES} for split, pair in results.items()
    }
    confidence = report_confidence(judged["valid"], judged["test"])

    for rows in filter(None, (boundaries, confidence)):
        flat = [{k: v for k, v in row.items() if not isinstance(v, list | dict)} for row in rows]
        print_table([{k: "" if v is None else v for k, v in row.items()} for row in flat])
        print()
    print_table(confidence[-1]["bins"])
    result = {
        "model": Path(args.model).name,
        "speech": "digits" if args.digits else "recordings" if args.csv else "espeak-ng",
        "snr": args.snr,
        "steps": args.steps,
        "seed": args.seed,
        "utterances": len(spoken),
        "seconds": sum(len(utterance.wav) for utterance in spoken) / asr.sample_rate,
        "left_out": left_out,
        **environment(args.device),
        "boundaries": boundaries,
        "confidence": confidence,
    }
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
