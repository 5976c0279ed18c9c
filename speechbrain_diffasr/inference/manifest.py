"""Which files a batch has, and what their outputs are called."""

import hashlib
import os
import unicodedata
from dataclasses import dataclass

from speechbrain_diffasr.dataio.tables import open_table
from speechbrain_diffasr.utils.errors import CsvError, ManifestError

# What a folder is searched for.
AUDIO_ENDINGS = (
    ".aif", ".aifc", ".aiff", ".au", ".avr", ".caf", ".flac", ".htk", ".ircam", ".mp1",
    ".mp2", ".mp3", ".mpc", ".nist", ".oga", ".ogg", ".opus", ".paf", ".pvf", ".rf64", ".sf",
    ".snd", ".sph", ".svx", ".voc", ".w64", ".wav", ".wave", ".wavex", ".wve",
)  # fmt: skip
# Sound too, which needs the extra `av`: a line that says so is better than none.
FOREIGN_ENDINGS = (
    ".3g2", ".3ga", ".3gp", ".aac", ".ac3", ".amr", ".ape", ".avi", ".flv", ".m4a", ".m4b",
    ".m4v", ".mka", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ra", ".tta", ".weba", ".webm",
    ".wma", ".wmv", ".wv",
)  # fmt: skip
# Names of outputs are cut to so many characters: file systems take 255 bytes.
_LONGEST_NAME = 120
_LONGEST_BYTES = 200
_DIGEST = 12


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


def read_manifest(path):
    """Lists the files of a batch.

    Arguments
    ---------
    path : str or Path
        A folder, or a CSV file with the column ``wav`` (relative paths are relative to the CSV
        file), and perhaps ``ID`` and ``lang``. In a folder files with endings of audio are
        sought, behind symbolic links too, but none is taken twice.

    Returns
    -------
    items : list of Item

    Raises
    ------
    ManifestError
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
            raise ManifestError(f"{path}: no audio files in this folder")
        return items
    items = _read_csv(path)
    seen = set()
    for item in items:
        if item.name in seen:
            raise ManifestError(f"{path}: {item.name!r} is listed twice; give each an ID")
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


def _list_folder(path):
    items = []

    def unreadable(error):
        # It fails like a file, so that nobody takes it for empty.
        items.append(Item(os.path.relpath(error.filename, path), error.filename))

    # Links are followed behind all else: what can be reached without one is called so.
    links, walked = [path], set()
    for start in links:
        for folder, folders, names in os.walk(start, onerror=unreadable):
            real = os.path.realpath(folder)
            if real in walked:
                folders.clear()
                continue
            walked.add(real)
            folders.sort()
            linked = [os.path.join(folder, name) for name in folders]
            links += filter(os.path.islink, linked)
            for name in sorted(names):
                if os.path.splitext(name)[1].lower() in AUDIO_ENDINGS + FOREIGN_ENDINGS:
                    whole = os.path.join(folder, name)
                    items.append(Item(os.path.relpath(whole, path), whole))
    items.sort(key=lambda item: os.path.islink(item.path))
    own = {os.path.realpath(item.path): item for item in reversed(items)}
    return sorted(own.values(), key=lambda item: item.name)


def _read_csv(path):
    folder = os.path.dirname(path)
    items = []
    try:
        # What is no file's name fails by it.
        with open_table(path, errors="surrogateescape", with_breaks=("wav", "ID")) as rows:
            if "wav" not in (rows.fieldnames or []):
                raise ManifestError(f"{path}: no column 'wav'; name a CSV file or a folder")
            for row in rows:
                wav = (row["wav"] or "").replace("$data_root", os.path.abspath(folder))
                if not wav:
                    raise ManifestError(
                        f"{path}: line {rows.line_num}: no path in the column 'wav'"
                    )
                name = row.get("ID") or row["wav"]
                items.append(Item(name, os.path.join(folder, wav), row.get("lang") or None))
    except CsvError as err:
        raise ManifestError(str(err)) from None
    if not items:
        raise ManifestError(f"{path}: lists no files")
    return items


def _quoted(character):
    if character.isprintable() and character not in '/\\%:*?"<>|':
        return character
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))


def _folded(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
