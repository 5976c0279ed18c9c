"""Counts n-grams: python count_ngrams.py --csv data/text.csv --tokenizer data/tokenizer.json
--output ngram.safetensors"""

from speechbrain_diffasr.pretraining.ngrams import main

if __name__ == "__main__":
    main()
