"""Trains the tokenizer: python train_tokenizer.py --csv data/text.csv --output tokenizer.json"""

from speechbrain_diffasr.pretraining.pieces import main

if __name__ == "__main__":
    main()
