"""Files that are written whole or not at all."""

import contextlib
import itertools
import os
import re
import shutil
from pathlib import Path

_TEMPORARY = re.compile(r"\.diffasr-(\d+)-\d+\.tmp")
_numbers = itertools.count()


@contextlib.contextmanager
def replacing(path):
    """Gives a hidden path beside a file that takes its place once the block has succeeded.

    Arguments
    ---------
    path : str or Path
        File that is to appear complete or not at all. A symbolic link stays one.

    Yields
    ------
    temporary : Path
        What to write to. Its ending is not that of the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("done")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('done', ['a.txt'])
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".diffasr-{os.getpid()}-{next(_numbers)}.tmp")
    try:
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path, text, errors="strict"):
    """Writes a text file all or nothing.

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
    >>> path.read_text()
    'new'
    """
    is_device = os.path.exists(path) and not os.path.isfile(path)
    with (
        contextlib.nullcontext(path) if is_device else replacing(path) as target,
        open(target, "w", encoding="utf-8", errors=errors, newline="") as file,
    ):
        file.write(text)
        if not is_device:
            file.flush()
            # Or the name may reach the disk before the text does.
            os.fsync(file.fileno())


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
