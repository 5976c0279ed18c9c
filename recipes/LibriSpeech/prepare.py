"""Lists LibriSpeech, English read from audiobooks, in CSV files.

Reads the corpus as it is unpacked: SPLIT/SPEAKER/CHAPTER/ID.flac, and beside them
SPEAKER-CHAPTER.trans.txt with a line "ID TEXT" for each. Corpus: https://www.openslr.org/12

    python prepare.py --data_folder LibriSpeech --output_folder data/librispeech

A split whose CSV file is there is not read again.
"""

from pathlib import Path

from speechbrain_diffasr.recipe import Clip, list_corpus, require_folder, run_prepare
from speechbrain_diffasr.text import normalize_text

LANGUAGE = "en"


def prepare_librispeech(
    data_folder,
    output_folder,
    train_splits=("train-clean-100", "train-clean-360", "train-other-500"),
    valid_splits=("dev-clean",),
    test_splits=("test-clean", "test-other"),
    min_seconds=0.1,
    max_seconds=30.0,
    workers=None,
    progress=True,
):
    """Makes train.csv, valid.csv, and a CSV file for each test split, such as test-clean.csv.

    Arguments
    ---------
    data_folder : str or Path
        The folder LibriSpeech, with a folder for each split. Paths in the CSV files begin with
        ``$data_root``, which stands for this folder.
    output_folder : str or Path
        Where the CSV files go.
    train_splits : list of str
        Splits of the corpus to train on; none to write no train.csv.
    valid_splits : list of str
        Splits to validate on.
    test_splits : list of str
        Splits to test on, one by one.
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
        If a split is missing.
    ValueError
        If nothing in a split can be used, or the output folder holds other data.
    """
    parts = {"train": train_splits, "valid": valid_splits, **{name: [name] for name in test_splits}}
    parts = {split: list(names) for split, names in parts.items() if names}
    names = [name for names in parts.values() for name in names]
    require_folder(data_folder, names, "LibriSpeech")
    return list_corpus(
        {split: list_clips(data_folder, split, names) for split, names in parts.items()},
        data_folder,
        output_folder,
        settings={"corpus": "LibriSpeech", "splits": parts},
        normalize=normalize_text,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        workers=workers,
        progress=progress,
    )


def list_clips(data_folder, split, names):
    """Reads the transcripts of splits of the corpus.

    Arguments
    ---------
    data_folder : str or Path
    split : str
        Name of the CSV file.
    names : list of str
        Splits of the corpus.

    Yields
    ------
    Clip

    Raises
    ------
    ValueError
        If a file is not a list of transcripts.
    """
    for name in names:
        for path in sorted(Path(data_folder, name).glob("*/*/*.trans.txt")):
            folder = path.parent
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError:
                raise ValueError(f"{path}: not UTF-8; unpack the corpus again") from None
            for line in lines:
                clip_id, _, text = line.partition(" ")
                wav = f"{name}/{folder.parent.name}/{folder.name}/{clip_id}.flac"
                yield Clip(clip_id, split, wav, LANGUAGE, text, speaker=folder.parent.name)


if __name__ == "__main__":
    run_prepare(prepare_librispeech)
