"""Lists the transcribed part of VoxPopuli in CSV files, and cuts its recordings.

Corpus: https://github.com/facebookresearch/voxpopuli, whose scripts leave either or both of

    raw_audios/original/YEAR/SESSION_original.ogg   recordings (download_audios --subset asr)
    transcribed_data/LANG/asr_LANG.tsv.gz           the annotation (get_asr_data --lang LANG)

    transcribed_data/LANG/asr_SPLIT.tsv             cut already (get_asr_data, when it has ended)
    transcribed_data/LANG/YEAR/SESSION-ID.ogg

The annotation is gzipped, with '|' between columns: session_id, id_, original_text, normed_text,
speaker_id, split (train, dev, test; others are not used), vad, and more that are not read here.
vad lists the stretches with speech, [[start, stop], ...] in seconds. The clip is these stretches
joined, as the corpus's own script cuts it. The file may be unpacked, and may lie in data_folder
itself.

asr_SPLIT.tsv has tabs and no quoting: id, raw_text, normalized_text, speaker_id, split, and more.
If a language has both, what is cut already is used.

    python prepare.py --data_folder voxpopuli --output_folder data --languages en de fr es

A run that was stopped continues where it stopped when it is started again.
"""

import csv
import functools
from ast import literal_eval
from pathlib import Path

from speechbrain_diffasr.dataio.tables import read_table
from speechbrain_diffasr.recipe import Clip, list_corpus, require_folder, run_prepare
from speechbrain_diffasr.text import normalize_text

SPLITS = {"train": "train", "valid": "dev", "test": "test"}  # CSV files by the corpus's names
TEXTS = {"normalized": "normed_text", "raw": "original_text"}  # columns of the annotation
CUT_TEXTS = {"normalized": "normalized_text", "raw": "raw_text"}  # of what is cut already


def prepare_voxpopuli(
    data_folder,
    output_folder,
    languages=("en",),
    splits=("train", "valid", "test"),
    text="normalized",
    min_seconds=0.1,
    max_seconds=30.0,
    workers=None,
    progress=True,
):
    """Makes a CSV file for each split, with all languages in it.

    Arguments
    ---------
    data_folder : str or Path
        The corpus: the folder of raw_audios and transcribed_data.
    output_folder : str or Path
        Where CSV files go, and the clips that are cut (folder wavs, FLAC).
    languages : list of str
        Codes of the corpus; those with transcripts are en de fr es pl it ro hu cs nl fi hr sk sl
        et lt. en_accented is English as well, and has a test split only.
    splits : list of str
        Of train, valid and test.
    text : str
        normalized: lower case and numbers in words, as the corpus is scored; raw: as published.
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
    FileNotFoundError
        If the folder is not the corpus, or a language is not in it.
    ValueError
        If an argument makes no sense, an annotation is damaged, or the output folder holds other
        data.
    """
    languages, splits = list(languages), list(splits)
    if not languages or not splits:
        raise ValueError("languages, splits: name at least one of each")
    if text not in TEXTS:
        raise ValueError(f"text: '{text}' is none of {', '.join(TEXTS)}")
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f"splits: '{split}' is none of {', '.join(SPLITS)}")
    root = Path(data_folder)
    require_folder(root, [], "the folder that VoxPopuli's scripts call --root")
    sources = [find_source(root, language, splits, text) for language in languages]
    return list_corpus(
        {split: list_clips(sources, split) for split in splits},
        root,
        output_folder,
        {"corpus": "VoxPopuli", "languages": languages, "splits": splits, "text": text},
        normalize_text,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        workers=workers,
        progress=progress,
    )


def find_source(root, language, splits, text):
    """Finds a language in the corpus: cut already, or an annotation and recordings.

    Arguments
    ---------
    root : Path
    language : str
    splits : list of str
        That are wanted.
    text : str
        normalized or raw.

    Returns
    -------
    source : callable
        Takes a split and gives its clips.

    Raises
    ------
    FileNotFoundError
        If the language is not there.
    """
    folder = root / "transcribed_data" / language
    if all((folder / f"asr_{SPLITS[split]}.tsv").is_file() for split in splits):
        return functools.partial(cut_clips, root, language, CUT_TEXTS[text])
    name = f"asr_{language}.tsv"
    places = [place / f"{name}{suffix}" for place in (folder, root) for suffix in (".gz", "")]
    for path in places:
        if path.is_file():
            require_folder(
                root,
                ["raw_audios/original"],
                f"the recordings that {path.relative_to(root)} is about (download_audios --subset "
                "asr)",
            )
            return functools.partial(annotated_clips, path, language, TEXTS[text])
    raise FileNotFoundError(
        f"data_folder: '{root}' has no transcripts of '{language}', neither "
        f"transcribed_data/{language}/{name}.gz nor transcribed_data/{language}/"
        f"asr_{SPLITS[splits[0]]}.tsv; expected what VoxPopuli's get_asr_data leaves"
    )


def list_clips(sources, split):
    """Gives the clips of a split in all languages."""
    for source in sources:
        yield from source(split)


def cut_clips(root, language, column, split):
    """Gives the clips of a split that is cut already."""
    path = root / "transcribed_data" / language / f"asr_{SPLITS[split]}.tsv"
    for row in read_table(path, ["id", "speaker_id", column]):
        audio = f"transcribed_data/{language}/{row['id'][:4]}/{row['id']}.ogg"
        yield make_clip(row["id"], split, audio, language, row[column], row["speaker_id"])


def annotated_clips(path, language, column, split):
    """Gives the clips of a split from the annotation of a language."""
    columns = ["session_id", "id_", "speaker_id", "split", "vad", column]
    for row in read_table(path, columns, delimiter="|", quoting=csv.QUOTE_MINIMAL):
        if row["split"] != SPLITS[split]:
            continue
        session = row["session_id"]
        clip_id = f"{session}-{row['id_']}"
        audio = f"raw_audios/original/{session[:4]}/{session}_original.ogg"
        try:
            spans = tuple((float(item[0]), float(item[1])) for item in literal_eval(row["vad"]))
        except (ValueError, TypeError, IndexError, SyntaxError):
            spans = ()
        if not spans:
            raise ValueError(
                f"{path}: vad of {clip_id} is '{row['vad']}', not [[start, stop], ...]; "
                "download it again"
            )
        yield make_clip(clip_id, split, audio, language, row[column], row["speaker_id"], spans)


def make_clip(clip_id, split, path, language, text, speaker, spans=()):
    """Makes a clip of what the corpus says; en_accented is English, speakers may be None."""
    lang = language.partition("_")[0]
    speaker = "" if speaker == "None" else speaker
    return Clip(clip_id, split, path, lang, text, speaker, spans=spans)


if __name__ == "__main__":
    run_prepare(prepare_voxpopuli)
