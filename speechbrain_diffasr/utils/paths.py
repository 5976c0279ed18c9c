"""Paths as text."""

import os
from urllib.parse import urlsplit
from urllib.request import url2pathname


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


def local_path(path):
    """The path that a `file:` address names; anything else stays as it is.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    path : str or Path

    Example
    -------
    >>> local_path("file:///tmp/my%20call.wav"), local_path("call.wav")
    ('/tmp/my call.wav', 'call.wav')
    """
    if isinstance(path, str) and path.startswith("file:/"):
        return url2pathname(urlsplit(path).path)
    return path
