"""Reads tables with a header, as corpora come with them."""

import csv
import gzip
import zlib
from pathlib import Path


def read_table(path, columns, delimiter="\t", quoting=csv.QUOTE_NONE):
    """Reads the rows of a table, gzipped or not.

    Arguments
    ---------
    path : str or Path
        UTF-8 with a header; gzipped if it ends in ``.gz``.
    columns : iterable of str
        That it must have. Others are read too.
    delimiter : str
        Between columns. Default: tab.
    quoting : int
        As module csv has it. Default: quotes are characters like others.

    Yields
    ------
    row : dict
        Values by the names of columns.

    Raises
    ------
    ValueError
        If the file is damaged, lacks a column, or a row lacks one.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.tsv"
    >>> _ = path.write_text("path\\tsentence\\na.mp3\\tHe said \\"no\\n")
    >>> list(read_table(path, ["path", "sentence"]))
    [{'path': 'a.mp3', 'sentence': 'He said "no'}]
    >>> next(read_table(path, ["client_id"]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: ...train.tsv: no column 'client_id', only 'path', 'sentence'
    """
    path = Path(path)
    open_file = gzip.open if path.suffix == ".gz" else open
    try:
        with open_file(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter, quoting=quoting)
            names = rows.fieldnames or []
            for column in columns:
                if column not in names:
                    there = ", ".join(f"'{name}'" for name in names) or "an empty file"
                    raise ValueError(f"{path}: no column '{column}', only {there}")
            for row in rows:
                if any(row[column] is None for column in columns):
                    raise ValueError(
                        f"{path}: line {rows.line_num} has not all columns; the file is damaged, "
                        "get it again"
                    )
                yield row
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: damaged ({error}); get it again") from None
