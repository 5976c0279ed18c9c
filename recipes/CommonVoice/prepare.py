"""Lists Common Voice (scripted speech) in CSV files, several languages in each.

Corpus: https://commonvoice.mozilla.org, each language of a release unpacked into the same folder:

    cv-corpus-25.0-2026-03-09/LANG/train.tsv, dev.tsv, test.tsv
    cv-corpus-25.0-2026-03-09/LANG/clips/*.mp3

Releases differ in columns. These are read by name, with tabs between and no quoting: client_id,
path (of a file in clips), sentence.

    python prepare.py --data_folder cv-corpus-25.0-2026-03-09 --output_folder data \\
        --languages en de fr es hi zh-CN

A run that was stopped continues where it stopped when it is started again.
"""

from pathlib import Path

from speechbrain_diffasr.dataio.tables import read_table
from speechbrain_diffasr.recipe import Clip, list_corpus, require_folder, run_prepare
from speechbrain_diffasr.text import normalize_text

SPLITS = {"train": "train", "valid": "dev", "test": "test"}  # CSV files by the corpus's names
COLUMNS = ("client_id", "path", "sentence")


def prepare_commonvoice(
    data_folder,
    output_folder,
    languages=("en",),
    splits=("train", "valid", "test"),
    min_seconds=0.1,
    max_seconds=30.0,
    workers=None,
    progress=True,
):
    """Makes a CSV file for each split, with all languages in it.

    Arguments
    ---------
    data_folder : str or Path
        A release: the folder that holds a folder for each language.
    output_folder : str or Path
        Where CSV files go. Audio stays where it is.
    languages : list of str
        Codes of the corpus, such as en, zh-CN, sv-SE. The CSV files have what stands before the
        hyphen.
    splits : list of str
        Of train, valid and test.
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
        If an argument makes no sense, a TSV file is damaged, or the output folder holds other
        data.
    """
    languages, splits = list(languages), list(splits)
    if not languages or not splits:
        raise ValueError("languages, splits: name at least one of each")
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f"splits: '{split}' is none of {', '.join(SPLITS)}")
    root = Path(data_folder)
    for language in languages:
        names = [f"{SPLITS[split]}.tsv" for split in splits]
        require_folder(
            root,
            [language, f"{language}/clips", *(f"{language}/{name}" for name in names)],
            "a release of Common Voice with a folder for each language (not a delta, which has no "
            "splits)",
        )
    return list_corpus(
        {split: list_clips(root, languages, split) for split in splits},
        root,
        output_folder,
        {"corpus": "CommonVoice", "languages": languages, "splits": splits},
        normalize_text,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        workers=workers,
        progress=progress,
    )


def list_clips(root, languages, split):
    """Reads the tables of a split.

    Arguments
    ---------
    root : Path
        The release.
    languages : list of str
        The corpus's codes.
    split : str
        Name of the CSV file.

    Yields
    ------
    Clip

    Raises
    ------
    ValueError
        If a table is damaged.
    """
    for language in languages:
        lang = language.partition("-")[0]
        for row in read_table(root / language / f"{SPLITS[split]}.tsv", COLUMNS):
            # The first releases leave the ending out.
            clip_id = row["path"].removesuffix(".mp3")
            audio = f"{language}/clips/{clip_id}.mp3"
            yield Clip(clip_id, split, audio, lang, row["sentence"], speaker=row["client_id"])


if __name__ == "__main__":
    run_prepare(prepare_commonvoice)
