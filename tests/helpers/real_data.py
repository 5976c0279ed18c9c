"""Data that is not in the repository: some tests want it, and are skipped without it."""

import os
from pathlib import Path


def real_data(name):
    """A folder in the one that the environment variable DIFFASR_TEST_DATA names."""
    return Path(os.environ.get("DIFFASR_TEST_DATA", "DIFFASR_TEST_DATA"), name)
