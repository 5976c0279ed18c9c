"""Paths as text."""

import os


def path_text(path):
    """A path as text: the bytes that the file system has, read as UTF-8 whatever the locale is.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    text : str
        Bytes that are no UTF-8 as Python escapes them in names.

    Example
    -------
    >>> path_text("caf\u00e9.wav")
    'café.wav'
    """
    try:
        return os.fsencode(path).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no name that a file can have here
        return os.fspath(path)
