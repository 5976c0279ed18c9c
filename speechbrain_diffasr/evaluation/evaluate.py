"""Scores a recognizer on CSV files; `diffasr evaluate` does so from the command line."""

import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from torchaudio.functional import edit_distance
from tqdm import tqdm

from speechbrain_diffasr.dataio.tables import read_rows
from speechbrain_diffasr.evaluation import report as reporting
from speechbrain_diffasr.evaluation.metrics import ErrorRates, unit_splitter
from speechbrain_diffasr.evaluation.selection import first_rows, mismatch, usable_rows
from speechbrain_diffasr.text.normalizers import NORMALIZERS, make_normalizer
from speechbrain_diffasr.utils.atomic import write_atomically
from speechbrain_diffasr.utils.environment import hardware, versions
from speechbrain_diffasr.utils.errors import AudioError


def evaluate_rows(
    model,
    rows,
    group=None,
    steps=None,
    open_language=False,
    batch_size=8,
    seed=None,
    normalizer="none",
    mismatched_audio=False,
):
    """Transcribes and scores utterances.

    Arguments
    ---------
    model : DiffusionASR
    rows : list of dict
        From `read_rows`.
    group : str, optional
        Names the rates. Default: the language of each utterance.
    steps : int, optional
        Denoising steps at most. Default: the model's own.
    open_language : bool
        Whether the prompt names no language. Default: False.
    batch_size : int
        Utterances that are decoded together. Default: 8.
    seed : int, optional
        Of the canvas noise. Default: the model's own.
    normalizer : str or callable
        A name that `make_normalizer` knows, or what it returns. Default: text as it stands.
    mismatched_audio : bool
        Whether each text is decoded from the audio of another utterance; see `mismatch`.
        Default: False.

    Returns
    -------
    result : dict
        What `decode_rows` returns, and rates by group as `ErrorRates.summarize` gives them.
    """
    if isinstance(normalizer, str):
        normalizer = make_normalizer(normalizer)
    result = decode_rows(model, rows, steps, open_language, batch_size, seed, mismatched_audio)
    rates, _ = score(result["utterances"], normalizer, group)
    return {**result, "rates": rates.summarize()}


def decode_rows(
    model,
    rows,
    steps=None,
    open_language=False,
    batch_size=8,
    seed=None,
    mismatched_audio=False,
    keywords=None,
    n_best=None,
    name="",
):
    """Transcribes utterances and takes the time.

    Arguments
    ---------
    model, rows, steps, open_language, batch_size, seed, mismatched_audio
        As for `evaluate_rows`.
    keywords : list of str, optional
        Words to expect. Default: none.
    n_best : int, optional
        Texts of each utterance that are kept, with scores. Default: only the one it has.
    name : str
        Shown before the progress bar. Default: none.

    Returns
    -------
    result : dict
        steps; audio_seconds and computing_seconds, rtfx, mean_steps_taken; utterances, a list of
        dict with ID, language, reference, hypothesis, duration (s), steps, if asked for
        alternatives, and, if mismatched, audio_of; skipped, a list of dict with ID and reason. What
        cannot be computed without any utterance is None.
    """
    steps = steps if steps is not None else model.mods.decoder.sampler.steps
    rows, skipped = usable_rows(rows, None if open_language else model.languages)
    if mismatched_audio:
        rows, alone = mismatch(rows, seed or 0)
        skipped += alone
    utterances, computing = [], 0.0

    def transcribe(batch, wavs, steps):
        languages = None if open_language else [row.get("lang") or None for row in batch]
        drafts = None
        if model.decoding["start"] == "draft":
            drafts = [row.get("draft") or None for row in batch]
        return model.transcribe(
            wavs,
            languages,
            steps=steps,
            seed=seed,
            drafts=drafts,
            keywords=keywords,
            n_best=n_best or 0,
        )

    with tqdm(
        total=len(rows), unit="utt", desc=f"{name} steps {steps}".strip(), disable=None, leave=False
    ) as bar:
        for batch, wavs in _batches(model, rows, batch_size, skipped, bar):
            if not utterances:
                # The first pass on a GPU loads and tunes kernels, which is not the model's time.
                transcribe(batch, wavs, 1)
            begin = time.perf_counter()
            transcripts = transcribe(batch, wavs, steps)
            computing += time.perf_counter() - begin
            for row, transcript in zip(batch, transcripts, strict=True):
                utterance = {
                    "ID": row["ID"],
                    "language": row.get("lang") or None,
                    "reference": row["wrd"],
                    "hypothesis": transcript.text,
                    "duration": transcript.duration,
                    "steps": transcript.steps,
                }
                if n_best:
                    utterance["alternatives"] = [
                        {"text": one.text, "score": one.score}
                        for segment in transcript.segments
                        for one in segment.alternatives
                    ]
                if mismatched_audio:
                    utterance["audio_of"] = row["audio_of"]
                utterances.append(utterance)
            bar.update(len(batch))
    audio = sum(utterance["duration"] for utterance in utterances)
    taken = sum(utterance["steps"] for utterance in utterances)
    return {
        "steps": steps,
        "audio_seconds": audio,
        "computing_seconds": computing,
        "rtfx": audio / computing if utterances else None,
        "mean_steps_taken": taken / len(utterances) if utterances else None,
        "utterances": utterances,
        "skipped": skipped,
    }


def score(utterances, normalizer, group=None):
    """Compares transcripts with their references.

    Arguments
    ---------
    utterances : list of dict
        From `decode_rows`.
    normalizer : callable
        From `make_normalizer`.
    group : str, optional
        Names the rates. Default: the language of each utterance, or `all`.

    Returns
    -------
    rates : ErrorRates
    empty : list of str
        IDs of utterances of whose reference the normalizer leaves nothing; they do not count.

    Example
    -------
    >>> from speechbrain_diffasr.text import make_normalizer
    >>> utterances = [{"ID": "a", "language": "en", "reference": "A cat.", "hypothesis": "a hat"},
    ...               {"ID": "b", "language": "en", "reference": "(laughs)", "hypothesis": "ha"}]
    >>> rates, empty = score(utterances, make_normalizer("whisper"))
    >>> rates.summarize()["en"]["wer"], empty
    (50.0, ['b'])
    """
    rates, empty = ErrorRates(), []
    for utterance in utterances:
        language = utterance["language"]
        hypothesis, reference = (
            normalizer(utterance[kind], language) for kind in ("hypothesis", "reference")
        )
        if reference.strip():
            rates.append([utterance["ID"]], [hypothesis], [reference], [group or language or "all"])
        else:
            empty.append(utterance["ID"])
    return rates, empty


def pick_best(utterances, normalizer):
    """Transcripts as they would be if it were known which of the candidates is best.

    Arguments
    ---------
    utterances : list of dict
        From `decode_rows`, with alternatives.
    normalizer : callable

    Returns
    -------
    utterances : list of dict
        With the candidate of the fewest errors, of words or characters, as their hypothesis.

    Example
    -------
    >>> from speechbrain_diffasr.text import make_normalizer
    >>> utterance = {"ID": "a", "language": "en", "reference": "so it is", "hypothesis": "so is it"}
    >>> utterance["alternatives"] = [{"text": "so is it"}, {"text": "so it his"}]
    >>> pick_best([utterance], make_normalizer("none"))[0]["hypothesis"]
    'so it his'
    """
    picked = []
    for utterance in utterances:
        language = utterance["language"]
        split = unit_splitter(language)
        reference = split(normalizer(utterance["reference"], language))
        texts = [utterance["hypothesis"], *(one["text"] for one in utterance["alternatives"])]
        errors = [edit_distance(split(normalizer(text, language)), reference) for text in texts]
        picked.append({**utterance, "hypothesis": texts[errors.index(min(errors))]})
    return picked


def evaluate_csvs(
    model,
    csvs: Iterable[str | Path] | dict,
    data_root: str | Path | None = None,
    steps: int | Iterable[int] | None = None,
    normalizers: Iterable[str] = tuple(NORMALIZERS),
    batch_size: int = 8,
    seed: int | None = None,
    language: str | None = None,
    open_language: bool = False,
    mismatched_audio: bool = False,
    keywords: list[str] | None = None,
    n_best: int | None = None,
    limit: int | None = None,
    english_spelling: str | Path | None = None,
    model_name: str = "",
    output_folder: str | Path | None = None,
    output: str | Path | None = None,
    alignments: str | Path | None = None,
    picture: str | Path | None = None,
    echo: Callable | None = print,
) -> dict:
    """Does what `diffasr evaluate` does, with a model that is loaded.

    Arguments
    ---------
    model : DiffusionASR
    csvs : list of str or Path, or dict
        Files for `read_rows`; or what it returned, by path.
    data_root : str or Path, optional
        What `$data_root` stands for in them. Default: the folder of each.
    steps : int or list of int, optional
        Denoising steps at most, each of which is tried. Default: the model's own.
    normalizers : list of str
        Names that `make_normalizer` knows. Default: whisper, marks, none.
    batch_size, seed, open_language, mismatched_audio
        As for `evaluate_rows`.
    keywords : list of str, optional
        Words to expect. Default: none.
    n_best : int, optional
        Texts of each utterance among which the best is sought, too. Default: the one it has.
    language : str, optional
        Of utterances that have none in the column lang.
    limit : int, optional
        Utterances of each language in each file. Default: all.
    english_spelling : str or Path, optional
        Another table of spellings for the normalizer whisper, see `make_normalizer`.
    model_name : str
        For the report.
    output_folder : str or Path, optional
        Made if needed; gets results.json, table.md, the folder alignments and, of several steps,
        steps.png.
    output, alignments, picture : str or Path, optional
        The JSON file, the folder and the picture alone, elsewhere than in output_folder.
    echo : callable, optional
        Is given each line of the table. Default: print.

    Returns
    -------
    report : dict
        What the JSON holds: model, date, hardware, versions, settings, normalizers (what each
        does), and results: for each file and number of steps what `decode_rows` returns, with
        data, csv, rates (by normalizer, then language) and empty_references (by normalizer).

    Raises
    ------
    CsvError
        If a CSV file cannot be scored at all.
    ValueError
        If a normalizer is unknown, or its table of spellings is none.
    OSError
        If an output cannot be written.
    """
    if not isinstance(csvs, dict):
        csvs = {str(path): read_rows(path, data_root) for path in csvs}
    names = reporting.data_names(csvs)
    steps = [steps] if steps is None or isinstance(steps, int) else list(dict.fromkeys(steps))
    normalizers = {name: make_normalizer(name, english_spelling) for name in normalizers}
    table_file = None
    if output_folder is not None:
        folder = Path(output_folder)
        folder.mkdir(parents=True, exist_ok=True)
        output, table_file = output or folder / "results.json", folder / "table.md"
        alignments = alignments or folder / "alignments"
        if len(steps) > 1:
            picture = picture or folder / "steps.png"
    report = {
        "model": str(model_name),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(model.device),
        "versions": versions(),
        "batch_size": batch_size,
        "seed": seed,
        "language": language,
        "open_language": open_language,
        "mismatched_audio": mismatched_audio,
        "limit": limit,
        "decoding": model.decoding,
        "keywords": keywords,
        "n_best": n_best,
        "normalizers": {name: made.description for name, made in normalizers.items()},
        "results": [],
    }
    table = reporting.RatesTable(names, normalizers, n_best)
    lines = [*([reporting.MISMATCHED, ""] if mismatched_audio else []), *table.head()]
    shown = 0
    for (path, rows), name in zip(csvs.items(), names, strict=True):
        rows = [{**row, "lang": row.get("lang") or language} for row in rows]
        rows = first_rows(rows, limit) if limit else rows
        for number in steps:
            result = decode_rows(
                model,
                rows,
                number,
                open_language,
                batch_size,
                seed,
                mismatched_audio,
                keywords,
                n_best,
                name,
            )
            result = {"data": name, "csv": path, "rates": {}, "empty_references": {}, **result}
            for kind, normalizer in normalizers.items():
                rates, empty = score(result["utterances"], normalizer)
                result["rates"][kind] = rates.summarize()
                result["empty_references"][kind] = empty
                if n_best:
                    best, _ = score(pick_best(result["utterances"], normalizer), normalizer)
                    result.setdefault("best_of", {})[kind] = best.summarize()
                if alignments is not None:
                    reporting.write_alignments(alignments, result, kind, rates)
            report["results"].append(result)
            lines += table.rows(result)
            for line in lines[shown:] if echo is not None else ():
                echo(line)
            shown = len(lines)
            # After each, so that an interrupt loses nothing.
            if output is not None:
                text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
                write_atomically(output, text)
            if table_file is not None:
                write_atomically(table_file, "\n".join(lines) + "\n")
    if picture is not None:
        reporting.draw_picture(report, picture)
    return report


def _batches(model, rows, batch_size, skipped, bar):
    """Loads audio; what cannot be loaded leaves no gap in a batch."""
    batch, wavs = [], []
    for row in rows:
        try:
            wavs.append(model.load_audio(row["wav"]))
            batch.append(row)
        except (AudioError, OSError) as err:
            skipped.append({"ID": row["ID"], "reason": str(err)})
            bar.update()
        if len(batch) == batch_size:
            yield batch, wavs
            batch, wavs = [], []
    if batch:
        yield batch, wavs
