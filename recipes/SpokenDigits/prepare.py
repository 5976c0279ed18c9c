"""Makes single digits and strings of digits from the Free Spoken Digit Dataset.

The corpus holds recordings DIGIT_SPEAKER_INDEX.wav of single English digits at 8 kHz. In its own
split, index 0 to 4 is for testing and 5 to 49 for training; the first of the latter validate
here. Strings join recordings of one speaker with pauses of random length between them.
Corpus: https://github.com/Jakobovski/free-spoken-digit-dataset

    python prepare.py --data_folder free-spoken-digit-dataset --output_folder data

A run that was stopped continues where it stopped when it is started again.
"""

import random
import re
from pathlib import Path

import soundfile
import torch

from speechbrain_diffasr.recipe import render_dataset, run_prepare
from speechbrain_diffasr.recipe.rendering import PlannedUtterance

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LANGUAGE = "en"
NUM_TEST_INDICES = 5  # the corpus's own split
RECORDING = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")


def prepare_spoken_digits(
    data_folder,
    output_folder,
    num_train_strings=8000,
    num_valid_strings=300,
    num_test_strings=500,
    num_valid_indices=5,
    min_digits=3,
    max_digits=7,
    min_gap=0.05,
    max_gap=0.4,
    max_seconds=9.5,
    leave_out_speaker=None,
    seed=1986,
    workers=None,
    progress=True,
):
    """Makes train, valid, test and test_singles: 16 kHz WAV files and a CSV file each.

    train and valid hold single digits and strings, test holds strings, test_singles single digits.

    Arguments
    ---------
    data_folder : str or Path
        The unpacked corpus, or its folder recordings.
    output_folder : str or Path
        Where the CSV files and the folder wavs go. Paths in the CSV files begin with
        ``$data_root``, which stands for this folder.
    num_train_strings, num_valid_strings, num_test_strings : int
        Strings in each split.
    num_valid_indices : int
        How many recordings of each digit and speaker validate instead of training: the first
        after the test's, index 5 to 9 by default.
    min_digits, max_digits : int
        Length of a string.
    min_gap, max_gap : float
        Pause between two digits (seconds).
    max_seconds : float
        Longer utterances are skipped.
    leave_out_speaker : str or None
        A speaker who is in no training or validation utterance, and alone in both tests.
    seed : int
        Decides which digits, speakers and pauses.
    workers : int or None
        Number of processes; None takes all cores.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    FileNotFoundError
        If the folder is not the corpus.
    ValueError
        If an argument makes no sense, or the output folder holds other data.
    """
    if not 1 <= min_digits <= max_digits:
        raise ValueError(f"min_digits, max_digits: {min_digits} to {max_digits} is no range from 1")
    if not 0 <= min_gap <= max_gap:
        raise ValueError(f"min_gap, max_gap: {min_gap} to {max_gap} s is no range from 0")
    folder = find_recordings(data_folder)
    recordings = list_recordings(folder)
    speakers = sorted({speaker for _, speaker, _ in recordings})
    if leave_out_speaker is not None and leave_out_speaker not in speakers:
        raise ValueError(
            f"leave_out_speaker: '{leave_out_speaker}' is none of {', '.join(speakers)}"
        )
    splits = split_recordings(recordings, num_valid_indices, leave_out_speaker)
    for split, chosen in splits.items():
        if not chosen:
            raise ValueError(f"{folder}: no recording is left for {split}; is the corpus complete?")

    lengths, gaps = (min_digits, max_digits), (min_gap, max_gap)
    num_strings = {"train": num_train_strings, "valid": num_valid_strings, "test": num_test_strings}
    singles = {split: plan_singles(folder, split, chosen) for split, chosen in splits.items()}
    strings = {
        split: plan_strings(folder, split, splits[split], count, lengths, gaps, seed)
        for split, count in num_strings.items()
    }
    plan = {
        "train": singles["train"] + strings["train"],
        "valid": singles["valid"] + strings["valid"],
        "test": strings["test"],
        "test_singles": singles["test"],
    }
    settings = {
        "seed": seed,
        "num_strings": num_strings,
        "num_valid_indices": num_valid_indices,
        "digits": lengths,
        "gaps": gaps,
        "leave_out_speaker": leave_out_speaker,
        "speakers": speakers,
        "recordings": len(recordings),
    }
    render_dataset(
        plan,
        output_folder,
        renderer=join_recordings,
        settings=settings,
        min_seconds=0,
        max_seconds=max_seconds,
        workers=workers,
        progress=progress,
    )


def find_recordings(data_folder):
    """Returns the folder of the recordings: the given one, or recordings in it.

    Arguments
    ---------
    data_folder : str or Path

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If neither holds a recording.
    """
    for folder in (Path(data_folder), Path(data_folder) / "recordings"):
        if folder.is_dir() and any(RECORDING.fullmatch(path.name) for path in folder.iterdir()):
            return folder
    raise FileNotFoundError(
        f"data_folder: '{data_folder}' holds no recording DIGIT_SPEAKER_INDEX.wav such as "
        "0_jackson_0.wav, nor a folder 'recordings' with them; expected the unpacked Free Spoken "
        "Digit Dataset"
    )


def list_recordings(folder):
    """Returns the recordings in a folder as a sorted list of (digit, speaker, index)."""
    matches = (RECORDING.fullmatch(path.name) for path in Path(folder).iterdir())
    return sorted((int(match[1]), match[2], int(match[3])) for match in matches if match)


def split_recordings(recordings, num_valid_indices, leave_out_speaker=None):
    """Splits recordings by their index, and where one is left out by their speaker.

    Arguments
    ---------
    recordings : list of tuple
        Of (digit, speaker, index).
    num_valid_indices : int
    leave_out_speaker : str or None

    Returns
    -------
    dict of list of tuple

    Example
    -------
    >>> splits = split_recordings([(3, "anna", 4), (3, "anna", 5), (3, "anna", 10)], 5)
    >>> splits["test"], splits["valid"], splits["train"]
    ([(3, 'anna', 4)], [(3, 'anna', 5)], [(3, 'anna', 10)])
    """
    splits = {"train": [], "valid": [], "test": []}
    for digit, speaker, index in recordings:
        if index < NUM_TEST_INDICES:
            split = "test"
        else:
            split = "valid" if index < NUM_TEST_INDICES + num_valid_indices else "train"
        if leave_out_speaker is None or (speaker == leave_out_speaker) == (split == "test"):
            splits[split].append((digit, speaker, index))
    return splits


def plan_singles(folder, split, recordings):
    """Plans every recording as an utterance of its own."""
    name = "test_singles" if split == "test" else split
    return [
        plan_utterance(folder, name, f"{name}_{digit}_{speaker}_{index}", speaker, [recording], [])
        for recording in recordings
        for digit, speaker, index in [recording]
    ]


def plan_strings(folder, split, recordings, count, lengths, gaps, seed):
    """Plans strings of digits, each of one speaker, with pauses between the digits.

    Arguments
    ---------
    folder : Path
        Of the recordings.
    split : str
    recordings : list of tuple
        The (digit, speaker, index) to draw from.
    count : int
        Number of strings.
    lengths : tuple of int
        Fewest and most digits.
    gaps : tuple of float
        Shortest and longest pause (seconds).
    seed : int

    Returns
    -------
    list of PlannedUtterance
    """
    by_speaker = {}
    for recording in recordings:
        by_digit = by_speaker.setdefault(recording[1], {})
        by_digit.setdefault(recording[0], []).append(recording)
    plan = []
    for number in range(count):
        utterance_id = f"{split}_string_{number:06d}"
        rng = random.Random(f"{seed} {utterance_id}")
        speaker = rng.choice(sorted(by_speaker))
        by_digit = by_speaker[speaker]
        digits = rng.choices(sorted(by_digit), k=rng.randint(*lengths))
        chosen = [rng.choice(by_digit[digit]) for digit in digits]
        pauses = [round(rng.uniform(*gaps), 4) for _ in digits[1:]]
        plan.append(plan_utterance(folder, split, utterance_id, speaker, chosen, pauses))
    return plan


def plan_utterance(folder, split, utterance_id, speaker, recordings, pauses):
    """Plans one utterance: recordings (digit, speaker, index) with pauses (seconds) between."""
    text = " ".join(WORDS[digit] for digit, _, _ in recordings)
    files = [str(folder / f"{digit}_{name}_{index}.wav") for digit, name, index in recordings]
    how = {"files": files, "pauses": pauses}
    return PlannedUtterance(utterance_id, split, LANGUAGE, speaker, text, how)


def join_recordings(utterance):
    """Joins the recordings of an utterance, with silence between them.

    Arguments
    ---------
    utterance : PlannedUtterance
        Its ``how`` holds ``files``, and ``pauses`` in seconds, one less.

    Returns
    -------
    wav : torch.Tensor
        [T], float32.
    sample_rate : int
        In Hz.
    """
    parts, rate = [], None
    for path, pause in zip(utterance.how["files"], [*utterance.how["pauses"], 0], strict=True):
        try:
            samples, file_rate = soundfile.read(path, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path}: {error.error_string}; unpack the corpus again") from None
        if samples.ndim != 1 or file_rate != (rate or file_rate):
            raise ValueError(f"{path}: not mono, or of another rate than its speaker's others")
        rate = file_rate
        parts += [torch.from_numpy(samples), torch.zeros(round(pause * rate))]
    return torch.cat(parts), rate


if __name__ == "__main__":
    run_prepare(prepare_spoken_digits)
