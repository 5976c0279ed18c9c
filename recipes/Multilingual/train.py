"""Trains one model for several languages; `python train.py train.yaml --help` says how."""

import sys

from prepare import prepare_multilingual

from speechbrain_diffasr.recipe import run

if __name__ == "__main__":
    run(sys.argv[1:], prepare=prepare_multilingual)
