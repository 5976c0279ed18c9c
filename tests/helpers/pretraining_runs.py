"""Stages that make a small recognizer, at toy size."""

import csv
import logging
import runpy
import sys

import pytest
import soundfile
from miniature import noise


def run_script(recipe, name, *argv):
    """`python NAME.py ...` in the folder of a recipe, without another start of Python."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, argv)])
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.chdir(recipe)
        patch.syspath_prepend(recipe)
        sys.modules.pop("prepare", None)
        try:
            runpy.run_path(str(recipe / f"{name}.py"), run_name="__main__")
        finally:
            root.handlers, root.level = handlers, level
            sys.modules.pop("prepare", None)


def write_speech(folder, texts, voices=("noise",)):
    """A corpus as SyntheticSpeech/prepare.py leaves it, of noise.

    Arguments
    ---------
    folder : Path
        Made.
    texts : list of tuple
        Language and text of each utterance.
    voices : list of str
        In turn.
    """
    (folder / "wavs").mkdir(parents=True)
    for split in ("train", "valid"):
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["ID", "duration", "wav", "lang", "voice", "wrd"])
            for number, (lang, text) in enumerate(texts):
                name = f"{split}{number}"
                soundfile.write(folder / "wavs" / f"{name}.wav", noise(0.8, number).numpy(), 16000)
                path = f"$data_root/wavs/{name}.wav"
                writer.writerow([name, 0.8, path, lang, voices[number % len(voices)], text])
