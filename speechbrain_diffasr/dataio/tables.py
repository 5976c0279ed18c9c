"""Tables: CSV and TSV files with a header, as recipes and users write them."""

import codecs
import contextlib
import csv
import gzip
import itertools
import os
import zlib
from pathlib import Path

from speechbrain_diffasr.utils.errors import CsvError

UTTERANCE_COLUMNS = ("ID", "wav", "wrd")
# Between columns; the first that a header has is meant.
_DELIMITERS = (",", ";", "\t")


class TableRows:
    """The rows of a table with a header; each has as many fields as the header, in one line each.

    Arguments
    ---------
    path : str or Path
        For messages.
    lines : iterable of str
    delimiter : str, optional
        Between columns. Default: comma, or semicolon or tab if the header has only those.
    quoting : int
        As module csv has it.
    own : bool
        Whether the user wrote it and can mend it.
    with_breaks : tuple of str
        Columns that may hold line breaks.

    Raises
    ------
    CsvError
        From the iterator, if a row has more or fewer fields, or a field holds a line break.
    """

    def __init__(
        self, path, lines, delimiter=None, quoting=csv.QUOTE_MINIMAL, own=True, with_breaks=()
    ):
        self.path = path
        self._with_breaks = with_breaks
        self._own = own
        lines = iter(lines)
        header = next(lines, "")
        if delimiter is None:
            delimiter = next((mark for mark in _DELIMITERS if mark in header), _DELIMITERS[0])
        self._rows = csv.reader(
            itertools.chain([header], lines),
            delimiter=delimiter,
            quoting=quoting,
            skipinitialspace=own,
        )
        # The number of the line in which the row that was taken last begins.
        self.line_num = 1
        self.fieldnames = [name.strip() for name in next(self._rows, [])] or None

    def __iter__(self):
        while True:
            self.line_num = self._rows.line_num + 1
            fields = next(self._rows, None)
            if fields is None:
                return
            if fields:
                while len(fields) > len(self.fieldnames) and not fields[-1]:
                    fields.pop()  # a spreadsheet's empty cells
                self._check(fields)
                yield dict(zip(self.fieldnames, fields, strict=True))

    def _check(self, fields):
        place = f"{self.path}: line {self.line_num}"
        mend = "" if self._own else "; mend or delete the line, or get the file again"
        for name, field in zip(self.fieldnames, fields, strict=False):
            if name not in self._with_breaks and ("\n" in field or "\r" in field):
                raise CsvError(
                    f"{place}: a line break in the column {name!r} (a quote that is not closed, "
                    f"up to line {self._rows.line_num}?){mend}"
                )
        if len(fields) != len(self.fieldnames):
            why = "put quotes around a text with commas" if self._own else "a tab in a field?"
            shown = ", ".join(self.fieldnames[:4]) + (", ..." if len(self.fieldnames) > 4 else "")
            raise CsvError(
                f"{place} has {len(fields)} values, not {len(self.fieldnames)}, for {shown}; "
                f"{why}{mend}"
            )


@contextlib.contextmanager
def open_table(
    path, delimiter=None, quoting=csv.QUOTE_MINIMAL, errors="strict", own=True, with_breaks=()
):
    """Opens a table with a header, whatever program wrote it, gzipped or not.

    Arguments
    ---------
    path : str or Path
        UTF-8, or UTF-16, with or without a byte order mark; gzipped if it ends in ``.gz``.
    delimiter : str, optional
        Between columns. Default: comma, or what spreadsheets write instead: semicolon or tab.
    quoting : int
        As module csv has it. Default: quotes surround what holds a delimiter.
    errors : str
        What to do with what is not UTF-8, as `open` takes it. Default: it is an error.
    own : bool
        Whether the user wrote it and can mend it; otherwise it was downloaded. Default: True.
    with_breaks : tuple of str
        Columns that may hold line breaks, such as names of files. Default: none.

    Yields
    ------
    rows : TableRows

    Raises
    ------
    CsvError
        If it cannot be read, while it is opened or while rows are taken from it.

    Example
    -------
    >>> path = getfixture("tmp_path") / "test.csv"
    >>> _ = path.write_text("ID; wav\\na;a.wav\\n")
    >>> with open_table(path) as rows:
    ...     [(rows.line_num, row) for row in rows]
    [(2, {'ID': 'a', 'wav': 'a.wav'})]
    """
    open_file = gzip.open if Path(path).suffix == ".gz" else open
    try:
        with open_file(path, "rb") as file:
            encoding = _encoding(file.read(4))
        with open_file(path, "rt", encoding=encoding, errors=errors, newline="") as file:
            yield TableRows(path, file, delimiter, quoting, own, with_breaks)
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeError, csv.Error) as error:
        if not own:
            raise CsvError(f"{path}: damaged ({error}); get it again") from None
        if isinstance(error, UnicodeDecodeError):
            what = f"not UTF-8 ({error.reason}, byte {error.start}); save it as CSV in UTF-8"
        else:
            what = f"not a CSV file ({error})"
        raise CsvError(f"{path}: {what}") from None
    except OSError as error:
        raise CsvError(f"{path}: cannot be read ({error.strerror})") from None


def _encoding(head):
    """UTF-16 is told by its mark, or by the zeros that English letters have in it."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(head) == 4 and head[0] and head[1] == 0 == head[3]:
        return "utf-16-le"
    return "utf-16-be" if len(head) == 4 and head[0] == 0 == head[2] else "utf-8-sig"


def read_table(path, columns, delimiter="\t", quoting=csv.QUOTE_NONE):
    """Reads the rows of a table that came with a corpus.

    Arguments
    ---------
    path : str or Path
        See `open_table`.
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
    CsvError
        If the file is damaged, lacks a column, or a row has more or fewer.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.tsv"
    >>> _ = path.write_text("path\\tsentence\\na.mp3\\tHe said \\"no\\n")
    >>> list(read_table(path, ["path", "sentence"]))
    [{'path': 'a.mp3', 'sentence': 'He said "no'}]
    >>> next(read_table(path, ["client_id"]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    speechbrain_diffasr.utils.errors.CsvError: ...: no column 'client_id', only 'path', 'sentence'
    """
    with open_table(path, delimiter, quoting, own=False) as rows:
        names = rows.fieldnames or []
        for column in columns:
            if column not in names:
                there = ", ".join(f"'{name}'" for name in names) or "an empty file"
                raise CsvError(f"{path}: no column '{column}', only {there}")
        yield from rows


def read_rows(path, data_root=None):
    """Reads a CSV file of utterances.

    Arguments
    ---------
    path : str or Path
        With the columns ID, wav and wrd, and lang if there are several languages.
    data_root : str or Path, optional
        What `$data_root` stands for in the column wav, and where relative paths are looked for
        first. Default: the folder of the file.

    Returns
    -------
    rows : list of dict

    Raises
    ------
    CsvError
        If the file is missing or not CSV, lacks a column, or holds no utterance.

    Example
    -------
    >>> path = getfixture("tmp_path") / "test.csv"
    >>> _ = path.write_text("ID,wav,wrd\\na,$data_root/a.wav,hello\\n")
    >>> Path(read_rows(path)[0]["wav"]).parent == path.parent
    True
    """
    rows = list(_utterances(path))
    for row in rows:
        row["wav"] = _place(row["wav"], data_root or Path(path).parent)
    return rows


def _utterances(path):
    """Rows of a CSV file of utterances, one by one."""
    expected = f"expected {', '.join(UTTERANCE_COLUMNS)} and lang"
    with open_table(path) as rows:
        if rows.fieldnames is None:
            raise CsvError(f"{path}: the file is empty; {expected} as columns")
        for column in UTTERANCE_COLUMNS:
            if column not in rows.fieldnames:
                raise CsvError(f"{path}: no column {column}; {expected}")
        row = None
        for row in rows:
            yield row
        if row is None:
            raise CsvError(f"{path}: no utterances, only the line that names the columns")


def _place(wav, data_root):
    """Where a recording lies: a relative path is looked for from the root first."""
    wav = (wav or "").replace("$data_root", str(data_root))
    rooted = Path(data_root, wav)  # wav itself if it is absolute
    return str(rooted) if wav and rooted.is_file() else wav


def find_root(csv, roots):
    """Finds what ``$data_root`` in a CSV file stands for; reads no more than its first row.

    Arguments
    ---------
    csv : str or Path or None
    roots : str or list of str or None
        The folder, or several that are tried in turn. None stands for the folder of the file.

    Returns
    -------
    root : str or None
        The first under which the first recording lies.

    Raises
    ------
    FileNotFoundError
        If it lies under none.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.wav").write_bytes(b"")
    >>> _ = (folder / "test.csv").write_text("ID,wav,wrd\\na,$data_root/a.wav,hello\\n")
    >>> find_root(folder / "test.csv", ["elsewhere", str(folder)]) == str(folder)
    True
    """
    roots = [roots] if roots is None or isinstance(roots, str) else list(roots)
    if csv is None:
        return roots[0]
    first = next(_utterances(csv))["wav"]
    for root in roots:
        wav = _place(first, root or Path(csv).parent)
        if os.path.exists(wav):
            return root
    raise FileNotFoundError(
        f"{csv}: its first recording, {wav}, is missing; is --data_folder where the corpus is now?"
    )


def read_texts(paths):
    """Reads the texts of CSV files.

    Arguments
    ---------
    paths : list of str or Path
        Files with the columns ID, wav, wrd and lang, such as the train.csv of a recipe.

    Returns
    -------
    texts : dict of list of str
        By language, in the order of the files.

    Raises
    ------
    ValueError
        If a file cannot be read, or a line has no language.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> _ = path.write_text("ID,wav,lang,wrd\\na,a.wav,de,guten tag\\nb,b.wav,en,hello\\n")
    >>> read_texts([path])
    {'de': ['guten tag'], 'en': ['hello']}
    """
    texts = {}
    for path in paths:
        for number, row in enumerate(read_rows(path), 2):
            if not row.get("lang"):
                raise ValueError(
                    f"{path}: line {number} has no lang; write the code of its language"
                )
            texts.setdefault(row["lang"], []).append(row["wrd"] or "")
    return texts
