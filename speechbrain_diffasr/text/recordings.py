"""What recordings are called in files of columns, such as CTM and RTTM, and their channels."""

import re
from pathlib import Path

from speechbrain_diffasr.text.display import clean_text
from speechbrain_diffasr.utils.paths import path_text

# How a file with several channels can be heard.
CHANNELS = ("auto", "mix", "first", "separate")


def as_column(text):
    """What can stand in a column that white space divides from the next.

    Arguments
    ---------
    text : str

    Returns
    -------
    column : str
        Never empty.

    Example
    -------
    >>> as_column("day 1"), as_column("")
    ('day_1', '_')
    """
    return re.sub(r"\s+", "_", clean_text(text)) or "_"


def recording_name(path):
    """Names a recording in files of columns: by its file, without folder and ending.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    name : str
        Without quotation marks, which common readers take for the quotes of a table.

    Example
    -------
    >>> recording_name("talks/day 1.wav"), recording_name('the "first".wav')
    ('day_1', "the_'first'")
    """
    # A line that begins with semicolons is a comment.
    name = as_column(Path(path_text(path)).stem).replace('"', "'")
    return name.lstrip(";#") or "recording"


def recording_names(paths):
    """Names several recordings, no two alike.

    Where files are called alike, folders come before their names, as many as are needed, and
    where these are alike too, the ending behind.

    Arguments
    ---------
    paths : list of str or Path

    Returns
    -------
    names : list of str
        A file that is named twice has one name.

    Example
    -------
    >>> recording_names(["mon/1.wav", "tue/1.wav", "tue/2.wav", "tue/2.flac"])
    ['mon_1', 'tue_1', '2_wav', '2_flac']
    """
    distinct = list(dict.fromkeys(Path(path_text(path)) for path in paths))
    names = {path: recording_name(path) for path in distinct}
    groups = {}
    for path, name in names.items():
        groups.setdefault(name, []).append(path)
    for name, group in groups.items():
        others = {names[path] for path in distinct if path not in group}
        longer = iter(_longer_names(name, group)) if len(group) > 1 else iter(())
        while len({names[path] for path in group} - others) < len(group):
            names |= next(longer)
    return [names[Path(path_text(path))] for path in paths]


def channel_names(count):
    """What the channels of a file are called.

    Arguments
    ---------
    count : int

    Returns
    -------
    names : list of str

    Example
    -------
    >>> channel_names(2), channel_names(3)
    (['left', 'right'], ['channel 1', 'channel 2', 'channel 3'])
    """
    if count == 2:
        return ["left", "right"]
    return [f"channel {index}" for index in range(1, count + 1)]


def _longer_names(name, group):
    """Names for files that are called alike, ever longer ones, and at last with numbers."""
    depth = max(len(path.parts) for path in group)
    for with_ending in (False, True):
        for folders in range(depth):
            names = {}
            for path in group:
                parts = [*path.parts[-1 - folders : -1], path.stem]
                if with_ending:
                    parts.append(path.suffix[1:])
                # The ending, which `recording_name` takes away, keeps a dot in the name there.
                names[path] = recording_name("_".join(one.strip("/\\:") for one in parts) + ".x")
            yield names
    number = 0
    while True:
        number += 1
        yield {path: f"{name}_{index}" for index, path in enumerate(group, number)}
