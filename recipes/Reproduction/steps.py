"""Steps against accuracy and speed: scores a model with few to many denoising steps.

python steps.py steps.yaml --data_folder ../SyntheticSpeech/data/speech
"""

import sys
from pathlib import Path

from command import run_command
from report import write_steps

from speechbrain_diffasr.evaluation import evaluate_csvs
from speechbrain_diffasr.training.fit import load_recognizer


def score_steps(hparams, run_opts, argv=None):
    """Scores a model, and writes results.json, tables and a picture.

    Arguments
    ---------
    hparams : dict
        Of steps.yaml.
    run_opts : RunOptions
        Of SpeechBrain's command line.
    argv : list of str, optional
        Not used.

    Returns
    -------
    report : dict
        Of `evaluate_csvs`.
    """
    asr = load_recognizer(hparams["pretrained"], hparams["model"], run_opts)
    report = evaluate_csvs(
        asr,
        hparams["test_csvs"],
        **hparams["evaluation"],
        model_name=Path(hparams["pretrained"]).name,
        output_folder=Path(hparams["output_folder"], "steps"),
    )
    write_steps(hparams["output_folder"])
    return report


if __name__ == "__main__":
    run_command(score_steps, sys.argv[1:])
