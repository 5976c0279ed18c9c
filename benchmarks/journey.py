"""The journey of a command through the files of the package, to see what a reader has to follow.

    python benchmarks/journey.py transcribe speech.wav --format srt

It prints how many files the command enters, how many different calls lead from one file to
another, and which of them climb back up: into a file that waits further up the stack for this very
call to end. Another checkout is measured with its folder on PYTHONPATH.
"""

import contextlib
import io
import os
import sys
from pathlib import Path


class Journey:
    """Notes calls between the files of a package: give `note` to `sys.setprofile`.

    Arguments
    ---------
    package : Path
        Its folder.

    Example
    -------
    >>> journey = Journey(Path(__file__).parent)
    >>> journey.files, journey.calls, journey.climbs
    ({}, {}, {})
    """

    def __init__(self, package):
        self.package = str(package) + os.sep
        self.files, self.calls, self.climbs = {}, {}, {}

    def _file(self, frame):
        name = frame.f_code.co_filename
        return name.removeprefix(self.package) if name.startswith(self.package) else None

    def note(self, frame, event, _):
        """Notes one event of the interpreter."""
        callee = self._file(frame)
        # A module that is loaded is no step of the journey.
        if event != "call" or callee is None or frame.f_code.co_name == "<module>":
            return
        self.files.setdefault(callee)
        waiting = []
        while (frame_above := frame.f_back) is not None:
            frame = frame_above
            if self._file(frame) is not None and frame.f_code.co_name != "<module>":
                waiting.append(frame)
        if not waiting or self._file(waiting[0]) == callee:
            return
        called = sys._getframe(1).f_code
        call = (
            f"{self._file(waiting[0])} {waiting[0].f_code.co_name}",
            f"{callee} {called.co_name}",
        )
        self.calls.setdefault(call)
        if callee in map(self._file, waiting):
            self.climbs.setdefault(call)


def main(arguments):
    """Runs a command of diffasr and prints its journey."""
    import speechbrain_diffasr
    from speechbrain_diffasr.cli import main as diffasr

    journey = Journey(Path(speechbrain_diffasr.__file__).parent)
    with contextlib.redirect_stdout(io.StringIO()):
        sys.setprofile(journey.note)
        try:
            status = diffasr(arguments)
        finally:
            sys.setprofile(None)
    for caller, callee in journey.climbs:
        print(f"climbs: {caller} -> {callee}")
    print(
        f"{len(journey.files)} files entered, {len(journey.calls)} different calls between files, "
        f"{len(journey.climbs)} of them climb back up; exit status {status}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
