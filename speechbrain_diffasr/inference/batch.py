"""Batches of files that survive a crash: what is done stays done, and is not done twice."""

import contextlib
import csv
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from speechbrain_diffasr.dataio.header import file_seconds
from speechbrain_diffasr.inference.manifest import output_names
from speechbrain_diffasr.transcripts.writers import file_ending, write_transcript
from speechbrain_diffasr.utils.atomic import remove_leftovers, write_atomically
from speechbrain_diffasr.utils.errors import AudioError, ManifestError, WriterError

JOURNAL = "journal.jsonl"
FAILURES = "failures.csv"
# Of audio in a group: less is decoded again after a crash, more keeps a decoder busier.
GROUP_SECONDS = 192.0


@dataclass(frozen=True)
class BatchSummary:
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
    empty : int
        Of the files that this run transcribed, those in which nobody speaks. Default: 0.

    Example
    -------
    >>> print(BatchSummary(files=9, done_before=0, failures=1, hours=0.5, seconds=60.0, empty=2))
    8 files transcribed, 2 of them empty, 30.0 min of audio, RTFx 30.0, 1 failed
    """

    files: int
    done_before: int
    failures: int
    hours: float
    seconds: float
    empty: int = 0

    def __str__(self):
        new = self.files - self.done_before - self.failures
        if self.hours < 1 / 60:
            audio = f"{3600 * self.hours:.1f} s"
        elif self.hours < 1:
            audio = f"{60 * self.hours:.1f} min"
        else:
            audio = f"{self.hours:.2f} h"
        rate = 3600 * self.hours / self.seconds if self.seconds else 0.0
        before = f" ({self.done_before} more were done before)" if self.done_before else ""
        empty = f", {self.empty} of them empty" if self.empty else ""
        return (
            f"{new} file{'' if new == 1 else 's'} transcribed{empty}{before}, {audio} of audio, "
            f"RTFx {rate:.1f}, {self.failures} failed"
        )


class BatchJob:
    """Transcribes the files of a manifest into a folder, one output for each.

    A file is done when its output is there, which is written all or nothing. A journal beside
    the outputs has a line for each, and which settings they were made with; other settings are
    refused. A file that has changed since is done anew, but no output of another recording is
    replaced. Files that failed are tried again by the next run, and listed in failures.csv.

    What is decoded together shows in the last digits of confidences. So that a run that was
    killed ends with the very outputs of one that was not, files are decoded in groups, and a
    group that was cut is decoded again; what was written of it stays.

    Arguments
    ---------
    items : list of Item
    folder : str or Path
        For the outputs; made if needed.
    kind : str
        A key of `transcripts.FORMATS`.
    settings : dict
        What the transcripts depend on, such as model and language; JSON takes it.

    Raises
    ------
    ManifestError
        If the folder cannot be used, holds outputs of other settings or recordings, or another
        run writes to it now.
    """

    def __init__(self, items, folder, kind, settings):
        self.items = items
        self.kind = kind
        self.folder = Path(folder)
        ending = file_ending(kind)
        self.settings = {"format": ending, **settings}
        self.outputs = output_names([item.name for item in items], ending)
        self._lock = None

    def __enter__(self):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder / JOURNAL)
            remove_leftovers(self.folder, own=True)
            self._entries = self._read_journal()
            self._check_recordings()
        except BlockingIOError:
            self.__exit__()
            raise ManifestError(
                f"{self.folder}: another run writes to this folder; wait for it"
            ) from None
        except OSError as err:
            self.__exit__()
            raise ManifestError(f"{self.folder}: cannot be used ({err.strerror})") from None
        except ManifestError:
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

    def run(self, transcribe, report=None, group_seconds=GROUP_SECONDS):
        """Transcribes what is not done yet.

        Arguments
        ---------
        transcribe : callable
            Takes a list of Item and gives (place, Transcript or AudioError) for each, in any
            order, as `DiffusionASR.stream_files`.
        report : callable, optional
            Is given each Item and its result when it is done.
        group_seconds : float
            Seconds of audio in a group, but for a single longer file. Default: 192.

        Returns
        -------
        summary : BatchSummary

        Raises
        ------
        ManifestError
            If an output cannot be written.
        """
        begin = time.perf_counter()
        pending = self.pending()
        failures, audio, empty = {}, 0.0, 0
        # Known from the start, so that a file that changes meanwhile is done anew.
        states = {index: _state(self.items[index].path) for index in pending}
        try:
            for index, result in self._results(transcribe, pending, group_seconds):
                if isinstance(result, AudioError):
                    failures[index] = str(result)
                else:
                    audio += result.duration
                    empty += not result.text.strip()
                    self._write(index, result, states[index])
                if report is not None:
                    report(self.items[index], result)
        finally:
            self._write_failures(failures)
        self._tidy()
        seconds = time.perf_counter() - begin
        before = len(self.items) - len(pending)
        return BatchSummary(len(self.items), before, len(failures), audio / 3600, seconds, empty)

    def _results(self, transcribe, pending, seconds):
        """Results of what is not done yet, group by group."""
        wanted = set(pending)
        for group in self._groups(pending, seconds):
            self._note({"group": [self.outputs[index] for index in group]})
            for place, result in transcribe([self.items[index] for index in group]):
                if group[place] in wanted:
                    wanted.remove(group[place])
                    yield group[place], result
            self._note({"group_done": True})

    def _groups(self, pending, seconds):
        """Files that are decoded together: first again those that a crash has cut."""
        places = {output: index for index, output in enumerate(self.outputs)}
        last = [places[output] for output in self._group if output in places]
        known = set(last)
        if not self._group_done and not known.isdisjoint(pending):
            yield last
        # What failed or changed further up must not move the bounds of the groups to come.
        reached = max(last, default=-1)
        pending = [index for index in pending if index not in known]
        for part in (
            [index for index in pending if index > reached],
            [index for index in pending if index < reached],
        ):
            group, total = [], 0.0
            for index in part:
                duration = file_seconds(self.items[index].path)
                if group and total + duration > seconds:
                    yield group
                    group, total = [], 0.0
                group.append(index)
                total += duration
            if group:
                yield group

    def _write(self, index, transcript, state):
        item, output = self.items[index], self.outputs[index]
        try:
            write_transcript(self.folder / output, transcript, self.kind)
        except WriterError as err:
            raise ManifestError(str(err)) from None
        self._entries[output] = {"output": output, "audio": os.path.abspath(item.path), **state}
        self._note(self._entries[output])

    def _note(self, content):
        with self._writing(JOURNAL) as path:
            _append(path, content)

    def _is_done(self, index):
        output, item = self.outputs[index], self.items[index]
        if not (self.folder / output).is_file():
            return False
        entry, state = self._entries.get(output), _state(item.path)
        # Killed between output and journal: the output is whole all the same. So it is if the
        # audio has been removed since.
        return None in (entry, state["size"]) or {name: entry.get(name) for name in state} == state

    def _read_journal(self):
        path = self.folder / JOURNAL
        entries, settings = {}, None
        self._group, self._group_done = [], True  # outputs of the group that was begun last
        for line in path.read_bytes().splitlines() if path.exists() else []:
            # The last line may have been cut by a crash.
            with contextlib.suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict) and "settings" in content:
                    settings = content["settings"]
                elif isinstance(content, dict) and "output" in content:
                    entries[content["output"]] = content
                elif isinstance(content, dict) and "group" in content:
                    self._group, self._group_done = content["group"], False
                elif isinstance(content, dict) and "group_done" in content:
                    self._group_done = True
        if settings == self.settings:
            return entries
        made = [name for name in [*entries, *self.outputs] if (self.folder / name).is_file()]
        if made:
            raise ManifestError(f"{self.folder}: {self._difference(settings, made[0])}")
        # Nothing has come of those settings.
        with open(path, "wb"):
            pass
        _append(path, {"settings": self.settings})
        return {}

    def _difference(self, settings, output):
        """Why outputs that are there are not those of this batch."""
        if settings is None:
            told = f"{output} is there already, and no {JOURNAL} says how it was made"
        else:
            both = [
                (name, settings.get(name), self.settings.get(name))
                for name in sorted(settings.keys() | self.settings.keys())
            ]
            changes = [f"{name} {old!r}, now {new!r}" for name, old, new in both if old != new]
            told = f"begun with other settings ({'; '.join(changes)})"
        return f"{told}; name another folder"

    def _check_recordings(self):
        """Refuses to write over the transcript of another recording that has the same name."""
        for item, output in zip(self.items, self.outputs, strict=True):
            other = self._entries.get(output, {}).get("audio")
            if (
                other not in (None, os.path.abspath(item.path))
                and (self.folder / output).is_file()
                and os.path.exists(other)
                and os.path.exists(item.path)
                and not os.path.samefile(other, item.path)
            ):
                raise ManifestError(
                    f"{self.folder}: {output} is the transcript of {other}, not of "
                    f"{item.path}; name another folder"
                )

    def _tidy(self):
        """Rewrites the journal in the order of the manifest, with what a crash left out of it."""
        entries = dict(self._entries)
        for item, output in zip(self.items, self.outputs, strict=True):
            known = {"output": output, "audio": os.path.abspath(item.path), **_state(item.path)}
            entries[output] = entries.pop(output, known)
        kept = [entry for name, entry in entries.items() if (self.folder / name).is_file()]
        with self._writing(JOURNAL) as path:
            write_atomically(path, "".join(map(_json_line, [{"settings": self.settings}, *kept])))

    def _write_failures(self, failures):
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["ID", "wav", "reason"])
        for index in sorted(failures):
            item = self.items[index]
            writer.writerow([item.name, item.path, failures[index]])
        with self._writing(FAILURES) as path:
            write_atomically(path, table.getvalue(), errors="surrogateescape")

    @contextlib.contextmanager
    def _writing(self, name):
        """Turns what goes wrong while a file is written into one line about it."""
        path = self.folder / name
        try:
            yield path
        except OSError as err:
            raise ManifestError(f"{path}: cannot be written ({err.strerror})") from None


def _lock(path):
    """Keeps other runs away from a journal; ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    while True:
        # For writing, since that is what locks over a network ask for.
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:  # a file system without locks
            return handle
        # A run that ended meanwhile has replaced the journal.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)


def _append(path, content):
    """Adds a line to a journal, behind one that a crash has cut."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(_json_line(content).encode())


def _state(path):
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return {"size": None, "mtime_ns": None}
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _json_line(content):
    return json.dumps(content, sort_keys=True) + "\n"
