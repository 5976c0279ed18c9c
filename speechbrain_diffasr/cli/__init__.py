"""The command `diffasr`, which nothing imports."""

from speechbrain_diffasr.cli.main import build_parser, main

__all__ = ["build_parser", "main"]
