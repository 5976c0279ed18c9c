"""Trains the denoiser on text, or on speech: python pretrain_denoiser.py pretrain.yaml"""

import sys

from speechbrain_diffasr.pretraining import train_denoiser

if __name__ == "__main__":
    train_denoiser(sys.argv[1:])
