"""Lists the recordings of a corpus in CSV files.

A recipe for an existing corpus reads its texts, makes a `Clip` of each utterance, and hands them to
`list_corpus`. Whatever cannot be trained on or scored is left out there, and named.
"""

import functools
import logging
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from speechbrain.dataio.preprocess import AudioNormalizer
from tqdm import tqdm

from speechbrain_diffasr.dataio.audio import check_audio, read_samples
from speechbrain_diffasr.dataio.tables import open_table
from speechbrain_diffasr.recipe.folders import SETTINGS_FILE, claim_folder, write_csv
from speechbrain_diffasr.text.display import one_field
from speechbrain_diffasr.utils.atomic import replacing
from speechbrain_diffasr.utils.errors import AudioError

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000  # of the clips that are cut (Hz)
CLIPS_PER_TASK = 32
SHOWN_CLIPS = 3  # of those left out, in the log
# Time stamps are rounded, so that the last one may lie behind the end of its recording.
STOP_SLACK = 0.1  # seconds
# In a CSV file SpeechBrain replaces $NAME by the folder of that name.
VARIABLE = re.compile(r"\$[\w.]+")


@dataclass(frozen=True)
class Clip:
    """One utterance of a corpus: a file, or a stretch of a long recording.

    Arguments
    ---------
    clip_id : str
        Unique in its split.
    split : str
        Name of the CSV file that lists it, e.g. ``train``.
    path : str
        Of the audio file; absolute, or relative to the corpus folder.
    lang : str
        Language code.
    text : str
        As the corpus has it.
    speaker : str
        Default: not known.
    start, stop : float, optional
        Where the clip lies in its recording (seconds). Default: it is the whole file.
    spans : tuple of tuple, optional
        In place of start and stop: several (start, stop) in a recording, which are joined.
    """

    clip_id: str
    split: str
    path: str
    lang: str
    text: str
    speaker: str = ""
    start: float | None = None
    stop: float | None = None
    spans: tuple[tuple[float, float], ...] = ()


def list_corpus(
    clips,
    data_folder,
    output_folder,
    settings,
    normalize,
    min_seconds=0.1,
    max_seconds=30.0,
    workers=None,
    progress=True,
):
    """Writes ``SPLIT.csv`` for each split of a corpus, after a look at each of its files.

    A clip is left out if its file is missing, no audio or truncated, if it is too short or too
    long, or if no text is left of it. These are counted and the first are named in the log; all
    are in ``SPLIT.skipped.tsv``.

    In the CSV files ``$data_root`` stands for `data_folder`. If any clip of the corpus is a stretch
    of a recording, it stands for `output_folder`: every clip is then written to
    ``wavs/SPLIT/ID.flac`` there, 16 kHz and mono.

    A rerun continues: a split whose CSV file is there is done, a clip that was cut is kept.

    Arguments
    ---------
    clips : dict of iterable of Clip
        The clips of every split, in the order of its CSV file. They are not looked at if all CSV
        files are there, so generators make a rerun quick.
    data_folder : str or Path
        Of the corpus.
    output_folder : str or Path
        Where CSV files go.
    settings : dict
        Everything that decides what is in the CSV files. A folder made with other settings is
        refused.
    normalize : callable
        Takes the text of a clip and its language code, and returns the text to train on.
    min_seconds, max_seconds : float
        Clips outside of this range are left out.
    workers : int or None
        Number of threads; None takes a few more than there are cores.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    counts : dict of int
        Clips in each CSV file.

    Raises
    ------
    ValueError
        If the folder holds data made with other settings, or no clip of a split can be used.

    Example
    -------
    >>> from speechbrain.dataio import audio_io
    >>> folder = getfixture("tmp_path")
    >>> audio_io.save(folder / "a.flac", torch.rand(1, 16000), 16000)
    >>> clips = [Clip(name, "test", f"{name}.flac", "en", "HELLO") for name in "ab"]
    >>> list_corpus({"test": clips}, folder, folder / "csv", {}, lambda text, lang: text.lower(),
    ...     progress=False)
    {'test': 1}
    >>> print((folder / "csv" / "test.csv").read_text().replace("\\r", ""), end="")
    ID,duration,wav,lang,voice,wrd
    a,1.0,$data_root/a.flac,en,,hello
    >>> (folder / "csv" / "test.skipped.tsv").read_text()
    'ID\\tpath\\treason\\nb\\tb.flac\\tno such file\\n'
    """
    folder = Path(output_folder)
    claim_folder(folder, {**settings, "min_seconds": min_seconds, "max_seconds": max_seconds})
    counts = {
        split: _count_rows(folder / f"{split}.csv")
        for split in clips
        if (folder / f"{split}.csv").exists()
    }
    if len(counts) == len(clips):
        logger.info("%s: %s are there already", folder, ", ".join(counts))
        return counts

    clips = {split: list(items) for split, items in clips.items()}
    cut = any(
        clip.start is not None or clip.stop is not None or clip.spans
        for items in clips.values()
        for clip in items
    )
    lister = _Lister(Path(data_folder).absolute(), folder, cut, normalize, min_seconds, max_seconds)
    todo = {split: items for split, items in clips.items() if split not in counts}
    total = sum(map(len, todo.values()))
    pool = ThreadPoolExecutor(workers)
    with tqdm(total=total, unit="clip", disable=not progress) as bar:
        try:
            for split, items in todo.items():
                lister.mark_repeated(items)
                starts = range(0, len(items), CLIPS_PER_TASK)
                tasks = [items[start : start + CLIPS_PER_TASK] for start in starts]
                outcomes = []
                for done in pool.map(lister.examine, tasks):
                    outcomes += done
                    bar.update(len(done))
                counts[split] = _finish_split(folder, split, items, outcomes, data_folder)
        finally:
            pool.shutdown(cancel_futures=True)
    return {split: counts[split] for split in clips}


class _Lister:
    """Turns clips into rows of a CSV file, or into the reasons why they are left out."""

    def __init__(self, data_folder, output_folder, cut, normalize, min_seconds, max_seconds):
        self.data_folder = data_folder
        self.output_folder = output_folder
        self.cut = cut
        self.normalize = normalize
        self.min_seconds = min_seconds
        self.max_seconds = max_seconds
        # Clips of one recording follow each other.
        self.check_audio = functools.lru_cache(maxsize=1000)(check_audio)
        self.first = {}
        self.to_mono = AudioNormalizer(SAMPLE_RATE)

    def mark_repeated(self, clips):
        """Finds the clips of a split whose ID an earlier one has, before threads share the work."""
        self.first = {}
        for clip in clips:
            self.first.setdefault(clip.clip_id, clip)

    def examine(self, clips):
        return [self._row(clip) for clip in clips]

    def _row(self, clip):
        if self.first[clip.clip_id] is not clip:
            return "another clip has the same ID"
        # A text in two lines would be refused where the CSV file is read again.
        text = " ".join(self.normalize(clip.text, clip.lang).splitlines()).strip()
        if not text:
            return "no text is left after normalization"
        path = self.data_folder / clip.path
        try:
            seconds, wav = self._cut(clip, path) if self.cut else self._measure(clip, path)
        except AudioError as error:
            return str(error).removeprefix(f"{path}: ")
        except _UnusableError as error:
            return str(error)
        if found := VARIABLE.search(f"{text}\n{wav}"):
            return f"SpeechBrain reads {found[0]} in a CSV file as a folder"
        wav = wav if Path(wav).is_absolute() else f"$data_root/{wav}"
        return (clip.clip_id, seconds, wav, clip.lang, clip.speaker, text)

    def _measure(self, clip, path):
        header = self.check_audio(path)
        seconds = header.frames / header.samplerate
        self._check_length(seconds)
        inside = path.is_relative_to(self.data_folder)
        wav = path.relative_to(self.data_folder) if inside else path.absolute()
        return seconds, wav.as_posix()

    def _cut(self, clip, path):
        if Path(clip.clip_id).name != clip.clip_id:
            raise _UnusableError("its ID is no file name")
        wav = f"wavs/{clip.split}/{clip.clip_id}.flac"
        target = self.output_folder / wav
        if target.exists():
            info = soundfile.info(target)
            self._check_length(info.frames / info.samplerate)
            return info.frames / info.samplerate, wav
        header = self.check_audio(path)
        end = header.frames / header.samplerate
        stop = end if clip.stop is None else clip.stop
        spans = clip.spans or ((clip.start or 0.0, stop),)
        for start, stop in spans:
            if not 0 <= start < stop <= end + STOP_SLACK:
                raise _UnusableError(
                    f"outside of its recording ({start:g} to {stop:g} s of {end:.2f} s)"
                )
        self._check_length(sum(stop - start for start, stop in spans))
        rate = header.samplerate
        pieces = [(round(start * rate), round(stop * rate)) for start, stop in spans]
        first = min(begin for begin, _ in pieces)
        last = min(max(end for _, end in pieces), header.frames)
        audio = read_samples(path, header, first, last)  # [T, C]
        if len(audio) < last - first - header.slack:
            raise _UnusableError("damaged (ends before the clip does)")
        audio = torch.cat([audio[begin - first : end - first] for begin, end in pieces])
        samples = self.to_mono(audio, rate)  # [T]
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            # Resampling overshoots full scale, which 16-bit files do not hold.
            soundfile.write(
                part, samples.clamp(-1, 1).numpy(), SAMPLE_RATE, "PCM_16", format="FLAC"
            )
        return len(samples) / SAMPLE_RATE, wav

    def _check_length(self, seconds):
        if seconds < self.min_seconds:
            raise _UnusableError(f"shorter than {self.min_seconds:g} s")
        if seconds > self.max_seconds:
            raise _UnusableError(f"longer than {self.max_seconds:g} s")


class _UnusableError(Exception):
    """Why a clip is left out."""


def _count_rows(path):
    with open_table(path) as rows:
        return sum(1 for _ in rows)


def _kind(reason):
    # What a reason says in brackets or behind a colon differs from clip to clip.
    return re.split(r"[:;(]", reason)[0].strip()


def _finish_split(folder, split, clips, outcomes, data_folder):
    """Writes the files of a split and returns how many clips it has."""
    rows = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    skipped = [
        (clip, outcome)
        for clip, outcome in zip(clips, outcomes, strict=True)
        if isinstance(outcome, str)
    ]

    reasons = Counter(_kind(reason) for _, reason in skipped)
    skipped_path = folder / f"{split}.skipped.tsv"
    skipped_path.unlink(missing_ok=True)
    if skipped:
        with replacing(skipped_path) as part, open(part, "w", encoding="utf-8") as file:
            file.write("ID\tpath\treason\n")
            for clip, reason in skipped:
                fields = map(one_field, (clip.clip_id, clip.path, reason))
                file.write("\t".join(fields) + "\n")
    if not rows:
        # Nothing was made, so that the next attempt may choose other settings.
        if not any(folder.glob("*.csv")):
            (folder / SETTINGS_FILE).unlink()
        why = "the corpus lists none"
        if skipped:
            kind, count = reasons.most_common(1)[0]
            example = next(clip.path for clip, reason in skipped if _kind(reason) == kind)
            why = f"{count} of {len(clips)}: {kind}, such as '{example}'"
        raise ValueError(f"{data_folder}: no clip is left for {split} ({why})")
    write_csv(folder / f"{split}.csv", rows)
    if skipped:
        logger.warning(
            "%s: %d of %d clips left out (%s), such as %s; all are in %s",
            split,
            len(skipped),
            len(clips),
            ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()),
            "; ".join(f"{clip.path}: {reason}" for clip, reason in skipped[:SHOWN_CLIPS]),
            skipped_path,
        )
    hours = sum(row[1] for row in rows) / 3600
    logger.info("%s.csv: %d clips, %.2f h", split, len(rows), hours)
    return len(rows)
