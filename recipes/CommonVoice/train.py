"""Trains on Common Voice; `python train.py train.yaml --help` says how."""

import sys

from prepare import prepare_commonvoice

from speechbrain_diffasr.recipe import run

if __name__ == "__main__":
    run(sys.argv[1:], prepare=prepare_commonvoice)
