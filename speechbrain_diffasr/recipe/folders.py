"""Folders of prepared data."""

import csv
import json
import logging
from pathlib import Path

from speechbrain_diffasr.utils.atomic import replacing

logger = logging.getLogger(__name__)


def require_folder(data_folder, names, corpus):
    """Checks that a corpus is where it should be.

    Arguments
    ---------
    data_folder : str or Path
    names : list of str
        Folders and files that it must hold; a name with a suffix such as ``.tsv`` is a file.
    corpus : str
        What is expected, e.g. ``the unpacked LibriSpeech``; a name alone gets these words.

    Raises
    ------
    FileNotFoundError
        If one of them is missing.

    Example
    -------
    >>> require_folder("/data/Libri", ["train-clean-100"], "LibriSpeech")
    Traceback (most recent call last):
    FileNotFoundError: data_folder: '/data/Libri' is no folder; expected the unpacked LibriSpeech
    """
    expected = f"expected {corpus if ' ' in corpus else f'the unpacked {corpus}'}"
    folder = Path(data_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"data_folder: '{data_folder}' is no folder; {expected}")
    for name in names:
        is_file = bool(Path(name).suffix)
        path = folder / name
        if not (path.is_file() if is_file else path.is_dir()):
            kind = "file" if is_file else "folder"
            raise FileNotFoundError(
                f"data_folder: '{data_folder}' has no {kind} '{name}'; {expected}"
            )


COLUMNS = ("ID", "duration", "wav", "lang", "voice", "wrd")
SETTINGS_FILE = "settings.json"


def claim_folder(output_folder, settings):
    """Writes the settings of a dataset, or refuses a folder that was made with other settings.

    Arguments
    ---------
    output_folder : str or Path
        Created where missing.
    settings : dict
        Everything that decides what the data is; must survive JSON.

    Raises
    ------
    ValueError
        If the folder holds data made with other settings.

    Example
    -------
    >>> folder = getfixture("tmpdir")
    >>> claim_folder(folder, {"seed": 1})
    >>> claim_folder(folder, {"seed": 1})
    >>> claim_folder(folder, {"seed": 2})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: ... holds data made with other settings (seed: 1 → 2); choose another ...
    """
    folder = Path(output_folder)
    settings = json.loads(json.dumps(settings))
    path = folder / SETTINGS_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        return
    try:
        old = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path}: not the settings of a dataset; delete {folder}") from None
    if old != settings:
        changed = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
        changes = ", ".join(f"{name}: {old.get(name)} → {settings.get(name)}" for name in changed)
        raise ValueError(
            f"{folder} holds data made with other settings ({changes}); "
            "choose another folder or delete it"
        )


def write_csv(path, rows):
    """Writes a CSV file that SpeechBrain reads, complete or not at all.

    Arguments
    ---------
    path : str or Path
        The CSV file.
    rows : iterable of tuple
        One row per utterance, in the order of `COLUMNS`; wav paths begin with ``$data_root``.

    Example
    -------
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> path = Path(getfixture("tmpdir")) / "train.csv"
    >>> write_csv(path, [("u1", 1.25, "$data_root/u1.wav", "en", "en+f1", "hello, you")])
    >>> data = DynamicItemDataset.from_csv(path, replacements={"data_root": "/data"})
    >>> data.data["u1"]["wav"], data.data["u1"]["wrd"]
    ('/data/u1.wav', 'hello, you')
    """
    with replacing(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
