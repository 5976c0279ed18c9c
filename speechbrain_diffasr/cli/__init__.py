"""The command `diffasr`, which nothing imports."""

from speechbrain_diffasr.cli.main import main

__all__ = ["main"]
