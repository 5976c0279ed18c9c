"""Lists FLEURS, sentences of Wikipedia read aloud in 102 languages, in CSV files.

Reads the corpus as google/fleurs has it on the Hugging Face Hub: data/CODE/{train,dev,test}.tsv and
data/CODE/audio/{train,dev,test}.tar.gz, which are unpacked beside themselves where they are not.
Corpus: https://huggingface.co/datasets/google/fleurs

    python prepare.py --data_folder fleurs --output_folder data/fleurs --languages en_us de_de

A split whose CSV file is there is not read again.
"""

import csv
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from speechbrain_diffasr.recipe import Clip, list_corpus, require_folder, run_prepare
from speechbrain_diffasr.text import normalize_text

LANGUAGES = ("en_us", "de_de", "fr_fr", "es_419", "hi_in", "cmn_hans_cn")
SPLITS = {"train": "train", "valid": "dev", "test": "test"}
# The files have no header. What transcription_characters spells out is not used.
TSV_COLUMNS = (
    "id", "file_name", "raw_transcription", "transcription", "transcription_characters",
    "num_samples", "gender",
)  # fmt: skip
TEXT_COLUMNS = ("transcription", "raw_transcription")


def prepare_fleurs(
    data_folder,
    output_folder,
    languages=LANGUAGES,
    splits=("train", "valid", "test"),
    text_column="transcription",
    min_seconds=0.1,
    max_seconds=30.0,
    workers=None,
    progress=True,
):
    """Makes a CSV file for each split, with all languages in it.

    Arguments
    ---------
    data_folder : str or Path
        The copy of google/fleurs, with the folder data, or this folder. Paths in the CSV files
        begin with ``$data_root``, which stands for what is given here.
    output_folder : str or Path
        Where the CSV files go.
    languages : list of str
        Languages by the corpus's own codes. In the CSV files en_us is en, and cmn_hans_cn is zh.
    splits : list of str
        Of train, valid and test.
    text_column : str
        transcription, which the corpus has in lower case without punctuation, or
        raw_transcription. Both are normalized.
    min_seconds, max_seconds : float
        Utterances outside of this range are left out.
    workers : int or None
        Number of threads; None takes a few more than there are cores.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    counts : dict of int
        Utterances in each CSV file.

    Raises
    ------
    FileNotFoundError
        If the folder is not the corpus, or lacks a language.
    ValueError
        If a file of the corpus is damaged, nothing in a split can be used, or the output folder
        holds other data.
    """
    if text_column not in TEXT_COLUMNS:
        raise ValueError(f"text_column: '{text_column}' is none of {', '.join(TEXT_COLUMNS)}")
    languages, splits = list(languages), list(splits)
    if not languages or not splits:
        raise ValueError("languages, splits: name at least one of each")
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f"splits: '{split}' is none of {', '.join(SPLITS)}")
    # An empty prefix where the folder data itself is given.
    prefix = "data/" if Path(data_folder, "data").is_dir() else ""
    names = [SPLITS[split] for split in splits]
    files = [f"{prefix}{code}/{name}.tsv" for code in languages for name in names]
    require_folder(data_folder, files, "a copy of google/fleurs with the folder data")
    for code in languages:
        for name in names:
            unpack_audio(Path(data_folder, prefix, code, "audio"), name, progress)
    return list_corpus(
        {split: list_clips(data_folder, prefix, languages, split, text_column) for split in splits},
        data_folder,
        output_folder,
        {"corpus": "FLEURS", "languages": languages, "splits": splits, "text_column": text_column},
        normalize_text,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        workers=workers,
        progress=progress,
    )


def language_code(code):
    """Returns the language code of one of the corpus's codes.

    Example
    -------
    >>> [language_code(code) for code in ("en_us", "es_419", "cmn_hans_cn", "yue_hant_hk")]
    ['en', 'es', 'zh', 'yue']
    """
    return code.split("_")[0].replace("cmn", "zh")


def unpack_audio(folder, name, progress=True):
    """Unpacks NAME.tar.gz in a folder to NAME/*.wav, unless that was done.

    Arguments
    ---------
    folder : Path
        Holds the archive, or what it was unpacked to.
    name : str
        Split of the corpus.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    FileNotFoundError
        If neither is there.
    ValueError
        If the archive is damaged.
    """
    if (folder / name).is_dir():
        return
    archive = folder / f"{name}.tar.gz"
    if not archive.is_file():
        raise FileNotFoundError(
            f"{folder}: neither '{name}.tar.gz' nor a folder '{name}'; download the language again"
        )
    # A folder takes its final name when all is in it, so that an interrupted run starts over.
    part = folder / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tqdm(tar, desc=f"{archive}", unit="file", disable=not progress):
                # By its last name alone, a file cannot leave the folder.
                target = part / PurePosixPath(member.name).name
                if member.isfile() and target.suffix == ".wav":
                    with tar.extractfile(member) as source, open(target, "wb") as file:
                        shutil.copyfileobj(source, file)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{archive}: damaged ({error}); download it again") from None
    os.replace(part, folder / name)


def list_clips(data_folder, prefix, languages, split, text_column):
    """Reads the tables of a split.

    Arguments
    ---------
    data_folder : str or Path
    prefix : str
        Of the languages' folders in it.
    languages : list of str
        The corpus's codes.
    split : str
        Name of the CSV file.
    text_column : str

    Yields
    ------
    Clip

    Raises
    ------
    ValueError
        If a table has other columns.
    """
    name = SPLITS[split]
    for code in languages:
        path = Path(data_folder, prefix, code, f"{name}.tsv")
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            try:
                for row in rows:
                    if len(row) != len(TSV_COLUMNS):
                        raise ValueError(
                            f"{path}: line {rows.line_num} has {len(row)} columns, not "
                            f"{', '.join(TSV_COLUMNS)}; download it again"
                        )
                    entry = dict(zip(TSV_COLUMNS, row, strict=True))
                    # The id is the sentence's, which several speakers read.
                    yield Clip(
                        f"{code}_{Path(entry['file_name']).stem}",
                        split,
                        f"{prefix}{code}/audio/{name}/{entry['file_name']}",
                        language_code(code),
                        entry[text_column],
                    )
            except UnicodeDecodeError:
                raise ValueError(f"{path}: not UTF-8; download it again") from None


if __name__ == "__main__":
    run_prepare(prepare_fleurs)
