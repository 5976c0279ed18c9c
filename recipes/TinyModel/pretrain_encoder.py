"""Trains the small encoder with CTC on speech: python pretrain_encoder.py pretrain.yaml"""

import sys

from speechbrain_diffasr.pretraining import train_encoder

if __name__ == "__main__":
    train_encoder(sys.argv[1:])
