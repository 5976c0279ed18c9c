"""Trains projector and LoRA with the three losses: python train.py train.yaml"""

import sys

from speechbrain_diffasr.pretraining import train_jointly

if __name__ == "__main__":
    train_jointly(sys.argv[1:])
