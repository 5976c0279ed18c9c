"""Work in threads ahead of whoever needs it."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice


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
