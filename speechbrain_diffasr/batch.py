"""Batches of files that survive a crash: what is done stays done, and is not done twice."""

import contextlib
import csv
import hashlib
import io
import json
import os
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from speechbrain_diffasr.audio import AudioError
from speechbrain_diffasr.files import remove_leftovers, write_atomically
from speechbrain_diffasr.writers import WriterError, write_transcript

JOURNAL = "journal.jsonl"
FAILURES = "failures.csv"
# What a folder is searched for.
AUDIO_ENDINGS = (
    ".aif", ".aifc", ".aiff", ".au", ".avr", ".caf", ".flac", ".htk", ".ircam", ".mp1",
    ".mp2", ".mp3", ".mpc", ".nist", ".oga", ".ogg", ".opus", ".paf", ".pvf", ".rf64", ".sf",
    ".snd", ".sph", ".svx", ".voc", ".w64", ".wav", ".wave", ".wavex", ".wve",
)  # fmt: skip
# Names of outputs are cut to so many characters: file systems take 255 bytes.
_LONGEST_NAME = 120
_LONGEST_BYTES = 200
_DIGEST = 12


class BatchError(ValueError):
    """A batch cannot begin or go on; the message is one line."""


@dataclass(frozen=True)
class Item:
    """A file of a batch.

    Arguments
    ---------
    name : str
        In the manifest: its ID, or its path within the folder.
    path : str
        Where the audio is.
    language : str, optional
        Code of the language. Default: what the command says for all.
    """

    name: str
    path: str
    language: str | None = None


@dataclass(frozen=True)
class Summary:
    """How a batch went.

    Arguments
    ---------
    files : int
        In the manifest.
    done_before : int
        Of them, those that an earlier run had done.
    failures : int
        Of them, those that have no transcript.
    hours : float
        Of audio that this run transcribed.
    seconds : float
        That it took.
    """

    files: int
    done_before: int
    failures: int
    hours: float
    seconds: float

    def __str__(self):
        new = self.files - self.done_before - self.failures
        rate = 3600 * self.hours / self.seconds if self.seconds else 0.0
        before = f" ({self.done_before} more were done before)" if self.done_before else ""
        return (
            f"{new} files transcribed{before}, {self.hours:.3f} h of audio, RTFx {rate:.1f}, "
            f"{self.failures} failed"
        )


def read_manifest(path):
    """Lists the files of a batch.

    Arguments
    ---------
    path : str or Path
        A folder, in which files with endings of audio are sought, or a CSV file with the column
        ``wav`` (relative paths are relative to the CSV file), and perhaps ``ID`` and ``lang``.

    Returns
    -------
    items : list of Item

    Raises
    ------
    BatchError
        If it cannot be read, names nothing, or names two files alike.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "list.csv").write_text("ID,wav,lang\\ntalk,a/b.flac,de\\n")
    >>> (item,) = read_manifest(folder / "list.csv")
    >>> item.name, os.path.relpath(item.path, folder), item.language
    ('talk', 'a/b.flac', 'de')
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        items = _list_folder(path)
        if not items:
            raise BatchError(_one_line(f"{path}: no audio files in this folder"))
        return items
    items = _read_csv(path)
    seen = set()
    for item in items:
        if item.name in seen:
            raise BatchError(_one_line(f"{path}: {item.name!r} is listed twice; give each an ID"))
        seen.add(item.name)
    return items


def output_names(names, ending):
    """Names files after the items of a batch, so that no two are alike.

    What file systems cannot hold, and what divides folders, is written as in URLs. Names that
    differ only in case or in the way that accents are encoded, and names that are too long, get
    a digest.

    Arguments
    ---------
    names : list of str
        No two are equal.
    ending : str
        Of the outputs.

    Returns
    -------
    outputs : list of str
        Names within one folder.

    Example
    -------
    >>> output_names(["a/b.wav", "a%2Fb.wav", "c.wav"], "txt")
    ['a%2Fb.wav.txt', 'a%252Fb.wav.txt', 'c.wav.txt']
    """
    quoted = ["".join(map(_quoted, name)) for name in names]
    alike = {}
    for name in quoted:
        key = _folded(name)
        alike[key] = alike.get(key, 0) + 1
    outputs = []
    for name, text in zip(names, quoted, strict=True):
        if alike[_folded(text)] > 1 or len(os.fsencode(text)) > _LONGEST_BYTES:
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:_DIGEST]
            text = text[:_LONGEST_NAME]
            while len(os.fsencode(text)) > _LONGEST_BYTES:
                text = text[:-1]
            text = f"{text}-{digest}"
        outputs.append(f"{text}.{ending}")
    return outputs


class Batch:
    """Transcribes the files of a manifest into a folder, one output for each.

    A file is done when its output is there, which is written all or nothing. A journal beside
    the outputs has a line for each, and which settings they were made with; other settings are
    refused. A file that has changed since is done anew. Files that failed are tried again by the
    next run, and listed in failures.csv.

    Arguments
    ---------
    items : list of Item
    folder : str or Path
        For the outputs; made if needed.
    kind : str
        A key of `writers.FORMATS`.
    settings : dict
        What the transcripts depend on, such as model and language; JSON takes it.

    Raises
    ------
    BatchError
        If the folder cannot be used, holds outputs of other settings, or another run writes to
        it now.
    """

    def __init__(self, items, folder, kind, settings):
        self.items = items
        self.kind = kind
        self.folder = Path(folder)
        self.settings = {"format": kind, **settings}
        self.outputs = output_names([item.name for item in items], kind)
        self._lock = None

    def __enter__(self):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            remove_leftovers(self.folder)
            self._entries = self._read_journal()
        except BlockingIOError:
            self.__exit__()
            raise BatchError(
                _one_line(f"{self.folder}: another run writes to this folder; wait for it")
            ) from None
        except OSError as err:
            self.__exit__()
            raise BatchError(_one_line(f"{self.folder}: cannot be used ({err.strerror})")) from None
        except BatchError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def pending(self):
        """Places of the items that are not done yet.

        Returns
        -------
        indices : list of int
        """
        return [index for index in range(len(self.items)) if not self._is_done(index)]

    def run(self, transcribe, report=None):
        """Transcribes what is not done yet.

        Arguments
        ---------
        transcribe : callable
            Takes a list of Item and gives (place, Transcript or AudioError) for each, in any
            order, as `DiffusionASR.stream_files`.
        report : callable, optional
            Is given each Item and its result when it is done.

        Returns
        -------
        summary : Summary

        Raises
        ------
        BatchError
            If an output cannot be written.
        """
        begin = time.perf_counter()
        pending = self.pending()
        failures, audio = {}, 0.0
        # Known from the start, so that a file that changes meanwhile is done anew.
        states = {index: _state(self.items[index].path) for index in pending}
        try:
            for place, result in transcribe([self.items[index] for index in pending]):
                index = pending[place]
                item = self.items[index]
                if isinstance(result, AudioError):
                    failures[index] = str(result)
                else:
                    audio += result.duration
                    self._write(index, result, states[index])
                if report is not None:
                    report(item, result)
        finally:
            self._write_failures(failures)
        self._tidy()
        seconds = time.perf_counter() - begin
        before = len(self.items) - len(pending)
        return Summary(len(self.items), before, len(failures), audio / 3600, seconds)

    def _write(self, index, transcript, state):
        item, output = self.items[index], self.outputs[index]
        try:
            write_transcript(self.folder / output, transcript.named(item.path), self.kind)
            entry = {"output": output, "audio": item.path, **state}
            self._entries[output] = entry
            self._append(entry)
        except WriterError as err:
            raise BatchError(_one_line(str(err))) from None
        except OSError as err:
            raise BatchError(
                _one_line(f"{self.folder / JOURNAL}: cannot be written ({err.strerror})")
            ) from None

    def _is_done(self, index):
        output, item = self.outputs[index], self.items[index]
        if not (self.folder / output).is_file():
            return False
        entry = self._entries.get(output)
        # Killed between output and journal: the output is whole all the same.
        return entry is None or {k: entry.get(k) for k in ("size", "mtime_ns")} == _state(item.path)

    def _read_journal(self):
        path = self.folder / JOURNAL
        lines = path.read_bytes().splitlines() if path.exists() else []
        entries, settings = {}, None
        for line in lines:
            # The last line may have been cut by a crash.
            with contextlib.suppress(ValueError):
                content = json.loads(line)
                if "settings" in content:
                    settings = content["settings"]
                elif "output" in content:
                    entries[content["output"]] = content
        if settings is None:
            self._append({"settings": self.settings})
        elif settings != self.settings:
            names = sorted(settings.keys() | self.settings.keys())
            told = [
                f"{name} {settings.get(name)!r}, now {self.settings.get(name)!r}"
                for name in names
                if settings.get(name) != self.settings.get(name)
            ]
            raise BatchError(
                _one_line(
                    f"{self.folder}: begun with other settings ({'; '.join(told)}); "
                    "name another folder"
                )
            )
        return entries

    def _append(self, content):
        with open(self.folder / JOURNAL, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(_json_line(content).encode())

    def _tidy(self):
        """Rewrites the journal in the order of the manifest, with what a crash left out of it."""
        lines = [_json_line({"settings": self.settings})]
        for index, output in enumerate(self.outputs):
            if not (self.folder / output).is_file():
                continue
            item = self.items[index]
            entry = self._entries.get(output)
            if entry is None:
                entry = {"output": output, "audio": item.path, **_state(item.path)}
            lines.append(_json_line(entry))
        write_atomically(self.folder / JOURNAL, "".join(lines))

    def _write_failures(self, failures):
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["ID", "wav", "reason"])
        for index in sorted(failures):
            item = self.items[index]
            writer.writerow([item.name, item.path, failures[index]])
        try:
            write_atomically(self.folder / FAILURES, table.getvalue(), errors="surrogateescape")
        except OSError as err:
            raise BatchError(
                _one_line(f"{self.folder / FAILURES}: cannot be written ({err.strerror})")
            ) from None


def _list_folder(path):
    items = []
    for folder, folders, names in os.walk(path, followlinks=False):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in AUDIO_ENDINGS:
                whole = os.path.join(folder, name)
                items.append(Item(os.path.relpath(whole, path), whole))
    return items


def _read_csv(path):
    folder = os.path.dirname(path)
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, restval="")
            if "wav" not in (rows.fieldnames or []):
                raise BatchError(_one_line(f"{path}: no column 'wav'; name a CSV file or a folder"))
            items = []
            for row in rows:
                wav = row["wav"].replace("$data_root", folder or ".")
                if not wav:
                    raise BatchError(
                        _one_line(f"{path}: line {rows.line_num}: no path in the column 'wav'")
                    )
                name = row.get("ID") or row["wav"]
                items.append(Item(name, os.path.join(folder, wav), row.get("lang") or None))
    except OSError as err:
        raise BatchError(_one_line(f"{path}: cannot be read ({err.strerror})")) from None
    except csv.Error as err:
        raise BatchError(_one_line(f"{path}: not a CSV file ({err})")) from None
    if not items:
        raise BatchError(_one_line(f"{path}: lists no files"))
    return items


def _lock(folder):
    """Keeps other runs out of a folder; ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _state(path):
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return {"size": None, "mtime_ns": None}
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _quoted(character):
    if character.isprintable() and character not in '/\\%:*?"<>|':
        return character
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))


def _folded(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _json_line(content):
    return json.dumps(content, sort_keys=True) + "\n"


def _one_line(message):
    return " ".join(message.splitlines())
