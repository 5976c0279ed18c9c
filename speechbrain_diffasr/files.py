"""Writes files so that a crash leaves the old one or the new one."""

import contextlib
import itertools
import os
import re
import shutil

_TEMPORARY = re.compile(r"\.diffasr-(\d+)-\d+\.tmp")
_numbers = itertools.count()


def write_atomically(path, text, errors="strict"):
    """Writes a text file all or nothing.

    The text goes to a hidden file beside it, which then takes its name.

    Arguments
    ---------
    path : str or Path
        A symbolic link stays one. Devices and pipes are written to directly, since they cannot be
        replaced by a file.
    text : str
        Written as UTF-8; line ends stay as they are.
    errors : str
        What to do with characters that UTF-8 does not have, as `open` takes it. Default: strict.

    Raises
    ------
    OSError
        If it cannot be written; the old file is as it was.

    Example
    -------
    >>> path = getfixture("tmp_path") / "talk.srt"
    >>> write_atomically(path, "new")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('new', ['talk.srt'])
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "w", encoding="utf-8", errors=errors, newline="") as file:
            file.write(text)
        return
    name = f".diffasr-{os.getpid()}-{next(_numbers)}.tmp"
    temporary = os.path.join(os.path.dirname(path), name)
    try:
        with open(temporary, "w", encoding="utf-8", errors=errors, newline="") as file:
            file.write(text)
            file.flush()
            # Or the name may reach the disk before the text does.
            os.fsync(file.fileno())
        if os.path.exists(path):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def remove_leftovers(folder, own=False):
    """Removes what `write_atomically` left in a folder when its process was killed.

    Files of processes that still run are left alone.

    Arguments
    ---------
    folder : str or Path
    own : bool
        Whether to remove what has the number of this process too. For one that has written
        nothing yet: in a container each process may have the number of the last. Default: False.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / ".diffasr-4194999-0.tmp").touch()
    >>> remove_leftovers(folder)
    >>> list(folder.iterdir())
    []
    """
    for name in os.listdir(folder):
        match = _TEMPORARY.fullmatch(name)
        if match and ((own and int(match[1]) == os.getpid()) or not _is_running(int(match[1]))):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, name))


def _is_running(pid):
    if os.name != "posix":  # elsewhere signal 0 is more than a question
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
