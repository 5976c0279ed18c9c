"""Joins CSV files that other recipes wrote, for one model in several languages.

Give each corpus a name, the folder of its CSV files, and the folder that $data_root stands for in
them, which may be left out where it is the same (VoxPopuli, SyntheticSpeech, SpokenDigits):

    python prepare.py --output_folder data/all --corpora \\
        librispeech=data/librispeech=/corpora/LibriSpeech \\
        fleurs=data/fleurs=/corpora/fleurs \\
        voxpopuli=data/voxpopuli

All files train.csv become one, and so do all valid.csv. A test.csv becomes test_NAME.csv, and
test-clean.csv of librispeech test_librispeech-clean.csv. IDs begin with the name of the corpus.
Paths are absolute, so that no audio is copied and $data_root does not matter.

A second run writes the same again, which is quick.
"""

import csv
import itertools
import logging
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from speechbrain_diffasr.dataio.tables import read_table
from speechbrain_diffasr.recipe import run_prepare
from speechbrain_diffasr.recipe.corpora import VARIABLE
from speechbrain_diffasr.recipe.folders import COLUMNS, claim_folder, write_csv

logger = logging.getLogger(__name__)

DATA_ROOT = "$data_root/"
JOINED = ("train", "valid")
REQUIRED = ("ID", "duration", "wav", "lang", "wrd")
DURATION, WAV, LANG = map(COLUMNS.index, ("duration", "wav", "lang"))


def prepare_multilingual(corpora, output_folder, progress=True):
    """Makes train.csv, valid.csv and a test CSV file for each one of a corpus.

    Arguments
    ---------
    corpora : list of dict
        Of each corpus ``name``, ``folder`` of its CSV files, and ``data_root``, for which
        ``$data_root`` stands in them; without it that is the folder.
    output_folder : str or Path
        Where the CSV files go.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    counts : dict of int
        Utterances in each CSV file.

    Raises
    ------
    FileNotFoundError
        If a folder has no CSV files, or a recording is not where `data_root` says.
    ValueError
        If a CSV file is none of a recipe's, or the output folder was made of other corpora.
    """
    corpora = [check_corpus(**corpus) for corpus in corpora]
    names = Counter(corpus["name"] for corpus in corpora)
    if not names:
        raise ValueError("corpora: none is given")
    if names.most_common(1)[0][1] > 1:
        raise ValueError(f"corpora: '{names.most_common(1)[0][0]}' is the name of two")
    sources = {split: [] for split in JOINED}
    for corpus in corpora:
        for path in sorted(corpus["folder"].glob("*.csv")):
            if split := target_split(path.stem, corpus["name"]):
                sources.setdefault(split, []).append((path, corpus))
    for split in JOINED:
        if not sources[split]:
            raise FileNotFoundError(f"corpora: none has a file {split}.csv")

    for path, corpus in itertools.chain.from_iterable(sources.values()):
        check_first(path, corpus)
    claim_folder(
        output_folder,
        {"corpora": [{key: str(value) for key, value in corpus.items()} for corpus in corpora]},
    )
    counts = {}
    with tqdm(unit="utt", disable=not progress) as bar:
        for split, files in sources.items():
            seconds, utterances = Counter(), Counter()
            rows = itertools.chain.from_iterable(read_rows(*source) for source in files)
            rows = count_rows(rows, seconds, utterances, bar)
            write_csv(Path(output_folder, f"{split}.csv"), rows)
            counts[split] = utterances.total()
            hours = ", ".join(f"{lang} {sec / 3600:.2f} h" for lang, sec in seconds.most_common())
            logger.info("%s.csv: %d utterances, %s", split, counts[split], hours)
    return counts


def check_corpus(name, folder, data_root=None):
    """Returns a corpus with its folders as absolute paths.

    Arguments
    ---------
    name : str
    folder : str or Path
        Of the CSV files.
    data_root : str or Path, optional
        Default: the folder.

    Raises
    ------
    FileNotFoundError
        If one of the folders does not exist.
    ValueError
        If the name cannot be part of a file's name.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"corpora: '{name}' is no name that a file can have")
    paths = {"folder": Path(folder), "data_root": Path(data_root or folder)}
    for key, path in paths.items():
        if not path.is_dir():
            raise FileNotFoundError(f"corpora: {key} of {name} is '{path}', which is no folder")
    return {"name": name, **{key: path.absolute() for key, path in paths.items()}}


def target_split(split, name):
    """Returns the name of the CSV file that a corpus's one goes to; None if to none.

    Example
    -------
    >>> target_split("train", "digits"), target_split("test-clean", "librispeech")
    ('train', 'test_librispeech-clean')
    """
    if split in JOINED:
        return split
    return f"test_{name}{split.removeprefix('test')}" if split.startswith("test") else None


def check_first(path, corpus):
    """Looks whether the first recording of a CSV file is where `data_root` says."""
    row = next(read_rows(path, corpus), None)
    if row is None:
        raise ValueError(f"{path}: no utterances; prepare {corpus['name']} again")
    if not Path(row[WAV]).is_file():
        raise FileNotFoundError(
            f"{path}: recording '{row[WAV]}' is missing; is data_root of {corpus['name']} right?"
        )


def read_rows(path, corpus):
    """Gives the rows of a CSV file as they are to be written."""
    for row in read_table(path, REQUIRED, delimiter=",", quoting=csv.QUOTE_MINIMAL):
        wav = row["wav"]
        if wav.startswith(DATA_ROOT):
            wav = str(corpus["data_root"] / wav.removeprefix(DATA_ROOT))
        if found := VARIABLE.search(wav):
            raise ValueError(
                f"{path}: SpeechBrain reads {found[0]} in '{wav}' as the name of a folder; "
                f"{DATA_ROOT} alone can stand for one"
            )
        try:
            seconds = float(row["duration"])
        except ValueError:
            raise ValueError(
                f"{path}: duration of {row['ID']} is '{row['duration']}', no seconds"
            ) from None
        row |= {"ID": f"{corpus['name']}-{row['ID']}", "wav": wav, "duration": seconds}
        yield tuple(row.get(column, "") for column in COLUMNS)


def count_rows(rows, seconds, utterances, bar):
    """Hands rows on, and adds up durations and utterances of each language."""
    for row in rows:
        seconds[row[LANG]] += row[DURATION]
        utterances[row[LANG]] += 1
        bar.update()
        yield row


def prepare_from_names(corpora, output_folder, progress=True):
    """The command line of `prepare_multilingual`.

    Arguments
    ---------
    corpora : list of str
        Of each corpus NAME=CSV_FOLDER or NAME=CSV_FOLDER=DATA_ROOT.
    output_folder : str or Path
        Where the CSV files go.
    progress : bool
        Whether to show a progress bar.
    """
    parsed = []
    for corpus in corpora:
        parts = corpus.split("=")
        if len(parts) not in (2, 3):
            raise ValueError(
                f"corpora: '{corpus}' is neither NAME=CSV_FOLDER nor NAME=CSV_FOLDER=DATA_ROOT"
            )
        parsed.append(dict(zip(("name", "folder", "data_root"), parts, strict=False)))
    prepare_multilingual(parsed, output_folder, progress)


if __name__ == "__main__":
    run_prepare(prepare_from_names)
