"""Where folders written before 0.2 look for Tokenizer."""

from speechbrain_diffasr.lobes.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
