"""In which order many files are decoded, and how they are read ahead."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import soundfile

from speechbrain_diffasr.audio_header import file_name

# Files whose headers are read before the first is decoded.
SORTED_TOGETHER = 1024


def longest_first(paths, window=SORTED_TOGETHER):
    """Sorts files by duration, so that what is decoded together takes as much room.

    Arguments
    ---------
    paths : list
        Audio files. Those that cannot be read, and what is no file, come last.
    window : int
        Files that are sorted together, so that the first transcripts need not wait for the
        headers of all files. Default: 1024.

    Yields
    ------
    index : int
        Place of the file in `paths`.

    Example
    -------
    >>> from speechbrain_diffasr.inference import default_model
    >>> from pathlib import Path
    >>> samples = sorted(map(str, Path(default_model()).glob("samples/*.wav")))
    >>> [index for index in longest_first(["missing.wav"])]
    [0]
    >>> sorted(longest_first(samples)) == list(range(len(samples)))
    True
    """
    for start in range(0, len(paths), window):
        part = range(start, min(start + window, len(paths)))
        durations = {index: _duration(paths[index]) for index in part}
        yield from sorted(part, key=lambda index: -durations[index])


def _duration(path):
    # A named pipe would be waited for.
    if not os.path.isfile(path):
        return 0.0
    try:
        return soundfile.info(file_name(path)).duration
    except (OSError, RuntimeError, TypeError):
        return 0.0


def prefetch(function, items, workers=2, ahead=32):
    """Applies a function in threads, ahead of whoever uses the results.

    Reading and resampling audio releases Python's lock: while the GPU decodes, the next files are
    made ready.

    Arguments
    ---------
    function : callable
        Takes an item. Its exceptions come out where its result would.
    items : iterable
    workers : int
        Threads. Default: 2.
    ahead : int
        Results that may wait to be used, so that memory stays bounded. Default: 32.

    Yields
    ------
    result : object
        In the order of the items.

    Example
    -------
    >>> list(prefetch(lambda number: number**2, range(5)))
    [0, 1, 4, 9, 16]
    """
    items = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = deque(pool.submit(function, item) for item in islice(items, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        # Ctrl-C and a caller that stops early must not wait for files that nobody wants.
        pool.shutdown(wait=False, cancel_futures=True)
