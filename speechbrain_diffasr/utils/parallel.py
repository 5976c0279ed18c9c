"""Work in threads: ahead of whoever needs it, and one call after the other."""

import threading
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


class OneAtATime:
    """A lock around whole calls: other threads wait, a call inside of a call goes on.

    Unlike `threading.RLock` it can be released by another thread, as when a generator that was
    not used up is collected there. A copy, or what comes out of a pickle, is a lock of its own.

    Example
    -------
    >>> lock = OneAtATime()
    >>> with lock, lock:
    ...     print("inside")
    inside
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._owner, self._depth = None, 0

    def __reduce__(self):
        return OneAtATime, ()

    def adopt(self):
        """Makes this thread the one that holds it, as where it goes on with another's generator."""
        self._owner = threading.get_ident()

    def __enter__(self):
        if self._owner != threading.get_ident():
            self._lock.acquire()
            self._owner = threading.get_ident()
        self._depth += 1

    def __exit__(self, *_):
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()
