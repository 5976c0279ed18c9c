"""Checks CSV files of your own recordings and lists what can be trained on.

Reads CSV files with the columns ID, wav, wrd (the text), and where there are such lang and voice
(the speaker). Each recording is looked at: its duration is measured, and what is missing, damaged,
too short or too long is left out and named.

    python prepare.py --data_folder recordings --output_folder data --lang en

reads train.csv, valid.csv and test.csv in the folder recordings. A split that was done is not read
again.
"""

import hashlib
from pathlib import Path

from speechbrain_diffasr.dataio.tables import open_table
from speechbrain_diffasr.recipe import Clip, list_corpus, require_folder, run_prepare
from speechbrain_diffasr.text import normalize_text

REQUIRED_COLUMNS = ("ID", "wav", "wrd")
DATA_ROOT = "$data_root/"


def prepare_csv(
    data_folder,
    output_folder,
    train_csv="train.csv",
    valid_csv="valid.csv",
    test_csv="test.csv",
    lang=None,
    normalize=False,
    min_seconds=0.1,
    max_seconds=30.0,
    workers=None,
    progress=True,
):
    """Makes train.csv, valid.csv and test.csv of CSV files with the columns ID, wav and wrd.

    A relative path in the column wav starts at the folder of its CSV file.

    Arguments
    ---------
    data_folder : str or Path
        What ``$data_root`` stands for, in your files and in those that are written.
    output_folder : str or Path
        Where the CSV files go; another folder than that of your own.
    train_csv : str or Path
        Your CSV file to train on, in data_folder or with its path; '' for none.
    valid_csv : str or Path
        The same, to validate on.
    test_csv : str or Path
        The same, to test on.
    lang : str or None
        Language code, such as en, of the rows where the column lang is missing or empty.
    normalize : bool
        Whether to take out upper case and punctuation, by speechbrain_diffasr.text.normalize_text.
    min_seconds, max_seconds : float
        Utterances outside of this range are left out.
    workers : int or None
        Number of threads; None takes a few more than there are cores.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    counts : dict of int
        Utterances in each CSV file.

    Raises
    ------
    FileNotFoundError
        If a CSV file is missing.
    ValueError
        If a CSV file lacks a column or a value, nothing in it can be used, or the output folder
        holds other data.
    """
    files = {"train": train_csv, "valid": valid_csv, "test": test_csv}
    files = {split: str(file) for split, file in files.items() if file}
    require_folder(data_folder, files.values(), f"CSV files with {', '.join(REQUIRED_COLUMNS)}")
    paths = {split: Path(data_folder, file) for split, file in files.items()}
    for split, path in paths.items():
        if path.resolve() == Path(output_folder, f"{split}.csv").resolve():
            raise ValueError(f"output_folder: {path} would be overwritten; choose another folder")
    clips = {split: read_csv(path, split, data_folder, lang) for split, path in paths.items()}
    digests = {
        split: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for split, path in paths.items()
    }
    return list_corpus(
        clips,
        data_folder,
        output_folder,
        settings={"corpus": "CSV", "files": digests, "lang": lang, "normalize": normalize},
        normalize=normalize_text if normalize else keep_text,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        workers=workers,
        progress=progress,
    )


def keep_text(text, lang):
    """Returns the text as it is, with single spaces."""
    return " ".join(text.split())


def read_csv(path, split, data_folder, lang=None):
    """Reads one CSV file.

    Arguments
    ---------
    path : Path
    split : str
        Name of the CSV file to write.
    data_folder : str or Path
        What ``$data_root`` stands for.
    lang : str or None
        Where the column lang is missing or empty.

    Returns
    -------
    list of Clip

    Raises
    ------
    ValueError
        If a column or a value is missing.
    """
    clips = []
    with open_table(path) as rows:
        columns = rows.fieldnames or []
        for name in REQUIRED_COLUMNS:
            if name not in columns:
                raise ValueError(
                    f"{path}: no column '{name}' in its first line ({','.join(columns)}); "
                    f"name the columns {', '.join(REQUIRED_COLUMNS)}"
                )
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            for name in ("ID", "wav"):
                if not row[name]:
                    raise ValueError(f"{where} has nothing in the column '{name}'")
            language = row.get("lang") or lang
            if not language:
                raise ValueError(
                    f"{where} has no language; add a column 'lang', or name the language of "
                    "all rows in the argument lang"
                )
            clips.append(
                Clip(
                    row["ID"],
                    split,
                    find_recording(row["wav"], path, data_folder, where),
                    language,
                    row["wrd"],
                    row.get("voice", ""),
                )
            )
    return clips


def find_recording(wav, csv_path, data_folder, where):
    """Returns the absolute path of a recording that a CSV file names."""
    if wav.startswith(DATA_ROOT):
        return str(Path(data_folder, wav.removeprefix(DATA_ROOT)).absolute())
    if wav.startswith("$"):
        raise ValueError(
            f"{where} has '{wav}' in the column 'wav'; {DATA_ROOT} alone can stand for a folder"
        )
    return str(csv_path.parent.absolute() / wav)


if __name__ == "__main__":
    run_prepare(prepare_csv)
