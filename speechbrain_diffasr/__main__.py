"""`python -m speechbrain_diffasr` is the command `diffasr`."""

import sys

from speechbrain_diffasr.cli import main

if __name__ == "__main__":
    sys.exit(main())
