"""Pretrained folders: what is in them, how they are read and written."""

import contextlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from huggingface_hub.errors import EntryNotFoundError
from hyperpyyaml.core import recursive_update
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from speechbrain.utils.checkpoints import PARAMFILE_EXT
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.fetching import FetchFrom, FetchSource, fetch, guess_source
from speechbrain.utils.parameter_transfer import Pretrainer

from speechbrain_diffasr.decoders.language_id import LANGUAGE_FILE, LanguageTable
from speechbrain_diffasr.decoders.ngram import TokenNGram
from speechbrain_diffasr.inference.eight_bits import from_eight_bits, to_eight_bits
from speechbrain_diffasr.lobes.tokenizer import Tokenizer
from speechbrain_diffasr.utils.atomic import write_atomically

DEFAULT_MODEL = "diffasr-base"
# In a folder that collects a model's files: which model that is.
SOURCE_FILE = "source.txt"
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
ADAPTER_CONFIG = "adapter_config.json"

# Those that recipes train; the rest stays frozen.
TRAINED = ("projector", "adapter")


class LanguageSlot:
    """A place for the table of languages, which a folder need not have.

    Example
    -------
    >>> slot = LanguageSlot()
    >>> slot.table is None
    True
    """

    table = None

    def load(self, path):
        """Reads the table of a folder."""
        self.table = LanguageTable.load(path)

    def save(self, path):
        """Writes the table; without one, removes what is of another model."""
        if self.table is None:
            Path(path).unlink(missing_ok=True)
        else:
            self.table.save(path)


@dataclass(frozen=True)
class Part:
    """How a part of a recognizer is kept in a pretrained folder.

    Arguments
    ---------
    filename : str
    load : callable
        Takes the part and the path of its file.
    save : callable
        Takes the part, the path, and the dtype to store floating-point weights in or None.
    """

    filename: str
    load: Callable
    save: Callable

    @classmethod
    def of_weights(cls, filename, read="state_dict", write="load_state_dict"):
        """A part of weights in safetensors.

        Arguments
        ---------
        filename : str
        read, write : str
            Its methods that give its weights and take them.

        Returns
        -------
        part : Part
        """

        def load(part, path):
            getattr(part, write)(from_eight_bits(load_file(path)))

        def save(part, path, dtype):
            weights = {key: value.detach().cpu() for key, value in getattr(part, read)().items()}
            if dtype == torch.int8:
                weights = to_eight_bits(weights)
            elif dtype is not None:
                weights = {
                    key: value.to(dtype) if value.is_floating_point() else value
                    for key, value in weights.items()
                }
            weights = {key: value.contiguous() for key, value in weights.items()}
            save_file(weights, path, metadata={"format": "pt"})
            path.chmod(0o644)  # safetensors writes for the owner only

        return cls(filename, load, save)


def _with_config(adapter):
    """The part of an adapter, whose configuration stands beside it as peft reads it."""

    def save(part, path, dtype):
        # peft reads no 8 bits.
        adapter.save(part, path, torch.float16 if dtype == torch.int8 else dtype)
        config = part.adapter_config().to_dict()
        config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        text = json.dumps(config, indent=2, default=str) + "\n"
        path.with_name(ADAPTER_CONFIG).write_text(text, encoding="utf-8")

    return replace(adapter, save=save)


# The parts of a recognizer, by the names that a Pretrainer in YAML gives them.
PARTS = {
    "tokenizer": Part("tokenizer.json", Tokenizer.load, lambda part, path, _: part.save(path)),
    "whisper": Part.of_weights("whisper.safetensors"),
    "base": Part.of_weights("base.safetensors", "base_state_dict", "load_base_state_dict"),
    "projector": Part.of_weights("projector.safetensors"),
    "adapter": _with_config(
        Part.of_weights(
            "adapter_model.safetensors", "adapter_state_dict", "load_adapter_state_dict"
        )
    ),
    "ngram": Part("ngram.safetensors", TokenNGram.load, lambda part, path, _: part.save(path)),
    "language": Part(LANGUAGE_FILE, LanguageSlot.load, lambda part, path, _: part.save(path)),
}
FILENAMES = {name: part.filename for name, part in PARTS.items()}


def check_source(source, hparams_file="hyperparams.yaml"):
    """Sees whether a model can be there at all, before anything is loaded.

    Arguments
    ---------
    source : str or Path
        A pretrained folder or the name of a Hub repository.
    hparams_file : str
        What a folder must have. Default: "hyperparams.yaml".

    Raises
    ------
    FileNotFoundError
        If it is neither.

    Example
    -------
    >>> check_source("nowhere/at/all")
    Traceback (most recent call last):
    FileNotFoundError: 'nowhere/at/all' is neither a folder nor OWNER/NAME on the Hub
    """
    source = str(source)
    if Path(source).is_dir():
        if not Path(source, hparams_file).is_file():
            raise FileNotFoundError(f"{source!r} has no {hparams_file}")
    # Anything but OWNER/NAME cannot be meant for the Hub.
    elif Path(source).exists() or not _HUB_NAME.fullmatch(source):
        raise FileNotFoundError(f"{source!r} is neither a folder nor OWNER/NAME on the Hub")


class FolderPretrainer(Pretrainer):
    """Collects a recognizer's parts from a pretrained folder and loads them, without pickle.

    SpeechBrain's Pretrainer expects `NAME.ckpt`; this one knows the file names of a pretrained
    folder (see `PARTS`), and any part can come from another folder or Hub repository.

    The part `language` comes by itself: if there is such a file in the folder, or else beside the
    projector, `language_table` holds it after loading, and otherwise stays None. It is missed only
    if `sources` says where it lies.

    Arguments
    ---------
    loadables : dict
        Objects by name of `PARTS`.
    sources : dict, optional
        Folder or Hub repository of those that do not lie in the folder being loaded; None stands
        for that folder. A relative path is looked for from that folder first.
    fresh : list of str, optional
        Parts that are not loaded: they are to be trained from the start.

    Example
    -------
    >>> import torch
    >>> from speechbrain_diffasr.lobes import ConvProjector
    >>> projector, folder = ConvProjector(4, 4, 4), getfixture("tmp_path")
    >>> save_part("projector", projector, folder)
    >>> twin = ConvProjector(4, 4, 4)
    >>> pretrainer = FolderPretrainer({"projector": twin})
    >>> _ = pretrainer.collect_files(default_source=str(folder))
    >>> pretrainer.load_collected()
    >>> bool((twin.linear.weight == projector.linear.weight).all())
    True
    """

    def __init__(self, loadables, sources=None, fresh=()):
        unknown = sorted({*loadables, *(sources or {}), *fresh} - set(FILENAMES))
        if unknown:
            raise ValueError(
                f"pretrainer: unknown part {unknown[0]!r}; choose from {', '.join(FILENAMES)}"
            )
        self.parts = {**loadables, "language": LanguageSlot()}
        self.sources = sources or {}
        self.folder = ""
        super().__init__(
            loadables={name: part for name, part in self.parts.items() if name not in fresh},
            custom_hooks={name: partial(_load_part, name) for name in self.parts},
        )

    @property
    def language_table(self):
        """The table of languages, a LanguageTable; None if the folder has none."""
        return self.parts["language"].table

    @language_table.setter
    def language_table(self, table):
        self.parts["language"].table = table

    def place(self, name):
        """Where a part lies that is not in the folder that was loaded.

        Arguments
        ---------
        name : str
            Of `PARTS`.

        Returns
        -------
        source : str or None
            An absolute path, or a Hub repository; None if it is in this folder.
        """
        source = self.sources.get(name)
        if not source:
            return None
        for folder in (Path(str(self.folder), str(source)), Path(str(source))):
            if folder.is_dir():
                return str(folder.resolve())
        return source

    def collect_files(self, default_source=None, **kwargs):
        """Finds or downloads the files.

        Arguments
        ---------
        default_source : str or FetchSource
            The pretrained folder.
        **kwargs : dict
            For `Pretrainer.collect_files`.

        Returns
        -------
        paths : dict
            Local path of each part.
        """
        self.folder = default_source or ""
        self._check_places()
        places = {name: self.place(name) or default_source for name in self.loadables}
        if "language" in places and not self.sources.get("language"):
            options = {"savedir": self.collect_in, "save_filename": f"language{PARAMFILE_EXT}"}
            self.conditions["language"] = False
            for place in dict.fromkeys((default_source, places.get("projector", default_source))):
                if _is_there(LANGUAGE_FILE, place, **options, **kwargs):
                    places["language"], self.conditions["language"] = place, True
                    break
        for name, place in places.items():
            if isinstance(place, FetchSource):
                fetch_from, folder = place
                self.paths[name] = FetchSource(fetch_from, f"{folder}/{FILENAMES[name]}")
            else:
                self.paths[name] = f"{place}/{FILENAMES[name]}"
        return super().collect_files(default_source=default_source, **kwargs)

    def _check_places(self):
        """Refuses paths of folders that are not there, before they are sought on the Hub."""
        missing = {}
        for name in self.loadables:
            place = self.place(name)
            if isinstance(place, str) and _is_path(place) and not Path(place).is_dir():
                missing.setdefault(place, []).append(name)
        for place, names in missing.items():
            raise FileNotFoundError(
                f"{self.folder}: {', '.join(names)} expected in {place!r}, seen from there, which "
                "is no folder; copy that too, or say where it is: overrides={'sources': "
                f"{{{names[0]!r}: FOLDER, ...}}}}"
            )


def _is_path(place):
    """Whether a source cannot be OWNER/NAME on the Hub, nor a web address."""
    return "://" not in place and not _HUB_NAME.fullmatch(place)


class SavedirRecord:
    """Which model the files are from that a folder collects, and how old they are.

    SpeechBrain's `fetch` takes what is in such a folder already, whichever model that is from, and
    however old it is.

    Arguments
    ---------
    savedir : str or Path
    source : str
        What is to be loaded.
    hparams_file : str
    revision : str, optional
        Of a Hub repository. Default: the newest.

    Example
    -------
    >>> savedir = getfixture("tmp_path") / "saved"
    >>> record = SavedirRecord(savedir, shipped_model("diffasr-tiny"), "hyperparams.yaml")
    >>> record.check()
    >>> record.write()
    >>> Path(record.path.read_text().splitlines()[0]).name
    'diffasr-tiny'
    """

    def __init__(self, savedir, source, hparams_file, revision=None):
        self.savedir, self.source, self.hparams_file = Path(savedir), source, hparams_file
        self.path = self.savedir / SOURCE_FILE
        self._folder = Path(source) if Path(source).is_dir() else None
        self._is_own = Path(source).resolve() == self.savedir.resolve()
        self._identity = source if revision is None else f"{source}@{revision}"
        self._states = {}
        if self._folder is not None:
            self._identity = str(self._folder.resolve())
            self._states = _states(self._folder, hparams_file)

    def check(self):
        """Sees whether the folder is for this model, and removes copies of what has changed since.

        Raises
        ------
        ValueError
            If it has the files of another model.
        """
        if self._is_own:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        held, there = lines[0] if lines else None, self.savedir / self.hparams_file
        # Collected by something else: links to the model's own files, or copies of them.
        is_unknown = held is None and self._folder is not None and there.is_file()
        if is_unknown and there.read_bytes() != (self._folder / self.hparams_file).read_bytes():
            held = "another model"
        if held not in (None, self._identity):
            raise ValueError(
                f"{self.savedir}: has the files of {held}, not of {self.source}; name another "
                "savedir, or delete it"
            )
        for name, state in self._states.items():
            copy = self.savedir / name
            if copy.is_file() and not copy.is_symlink() and f"{name} {state}" not in lines:
                copy.unlink(missing_ok=True)

    def write(self):
        """Remembers the model, if the folder can be written to."""
        if self._is_own:
            return
        text = "".join(f"{name} {state}\n" for name, state in self._states.items())
        with contextlib.suppress(OSError):  # it may be read-only
            self.savedir.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, f"{self._identity}\n{text}")


def _states(folder, hparams_file):
    """Size and time of a folder's files, by the names that they are collected under."""
    names = {hparams_file: hparams_file}
    names |= {f"{name}{PARAMFILE_EXT}": filename for name, filename in FILENAMES.items()}
    files = {name: folder / filename for name, filename in names.items()}
    stats = {name: path.stat() for name, path in files.items() if path.is_file()}
    return {name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in stats.items()}


@main_process_only
def _is_there(filename, source, **options):
    """Whether there is a file; one that is remote is fetched. All processes learn it from one."""
    if source is None:
        return False
    fetch_from, folder = guess_source(source)
    if fetch_from is FetchFrom.LOCAL:
        return Path(folder, filename).is_file()
    try:
        fetch(filename, source, **options)
    except EntryNotFoundError:
        return False
    except ValueError as error:  # SpeechBrain's, of a web address
        if getattr(error.__cause__, "code", None) != 404:
            raise
        return False
    return True


def override_yaml(text, overrides):
    """Changes values of a hyperparams.yaml, and nothing else of it.

    hyperpyyaml's `resolve_references` would put values in the place of references, after which a
    key could no longer be changed where the folder is loaded.

    Arguments
    ---------
    text : str
        The YAML text.
    overrides : dict or str
        As for `from_hparams`.

    Returns
    -------
    text : str

    Example
    -------
    >>> print(override_yaml("steps: 8 # at most\\nsampler: {steps: !ref <steps>}", {"steps": 16}))
    steps: 16 # at most
    sampler: {steps: !ref <steps>}
    <BLANKLINE>
    """
    yaml = YAML()
    yaml.indent(mapping=4, sequence=4, offset=2)
    yaml.width = 100
    yaml.preserve_quotes = True
    content = yaml.load(text)
    if isinstance(overrides, str):
        overrides = yaml.load(overrides)
    recursive_update(content, overrides, must_match=False)
    with io.StringIO() as stream:
        yaml.dump(content, stream)
        return stream.getvalue()


def _load_part(name, part, path):
    """Loads one part, and names the file when it does not fit."""
    try:
        PARTS[name].load(part, path)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{FILENAMES[name]}: {error}") from error


def save_part(name, part, folder, dtype=None):
    """Writes one part of a recognizer into a pretrained folder.

    Arguments
    ---------
    name : str
        Of `PARTS`.
    part : object
        The tokenizer, module or slot.
    folder : str or Path
        Where to write.
    dtype : torch.dtype, optional
        To store floating-point weights in; torch.int8 rounds matrices, see `to_eight_bits`.
        Default: as they are.
    """
    PARTS[name].save(part, Path(folder) / FILENAMES[name], dtype)


def save_pretrained(pretrainer, hyperparams, folder, dtype=None, parts=None):
    """Writes a folder that `from_hparams(source=folder)` loads.

    Arguments
    ---------
    pretrainer : FolderPretrainer
        Holds the parts.
    hyperparams : str
        The YAML text to put beside them.
    folder : str or Path
        Made if needed.
    dtype : torch.dtype, optional
        To store floating-point weights in; torch.int8 rounds matrices, see `to_eight_bits`.
        Default: as they are.
    parts : list of str, optional
        Those to write. Default: all that did not come from another source.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if parts is None:
        # Relative paths would not lead there any more. A table is small, and may be another one
        # than was loaded.
        sources = {name: pretrainer.place(name) for name in pretrainer.sources} | {"language": None}
        if any(pretrainer.sources.get(name) != source for name, source in sources.items()):
            hyperparams = override_yaml(hyperparams, {"sources": sources})
        parts = [name for name in pretrainer.parts if not sources.get(name)]
    (folder / "hyperparams.yaml").write_text(hyperparams, encoding="utf-8")
    for name in parts:
        save_part(name, pretrainer.parts[name], folder, dtype)


def save_finetuned(asr, source, folder):
    """Writes what was trained, and where the rest is, as a folder for `from_hparams`.

    The table of languages goes with it, if there is one, and so do names of languages that were
    added to the prompt.

    Arguments
    ---------
    asr : DiffusionASR
    source : str or Path
        What it was loaded from.
    folder : str or Path
        To write to.
    """
    pretrainer = asr.hparams.pretrainer
    here = str(Path(source).resolve()) if Path(source).exists() else str(source)
    sources = {name: pretrainer.place(name) or here for name in pretrainer.parts}
    sources |= dict.fromkeys((*TRAINED, "language"))
    languages = dict(asr.mods.decoder.prompt.languages)
    changes = {"sources": sources, "fresh": [], "languages": languages}
    text = override_yaml(asr.hyperparams, changes)
    text = f"# Projector and LoRA trained from {source}, whose comments follow.\n{text}"
    save_pretrained(pretrainer, text, folder, parts=(*TRAINED, "language"))


def shipped_model(name: str) -> str:
    """A model that comes with the package.

    Arguments
    ---------
    name : str
        `diffasr-base`, which hears people, `diffasr-tiny`, a test bed that knows a synthesizer, or
        `diffasr-tiny-digits`.

    Returns
    -------
    folder : str
        For `DiffusionASR.from_hparams`: of the checkout, or else of the wheel.

    Raises
    ------
    FileNotFoundError
        If the package was installed without it.

    Example
    -------
    >>> Path(shipped_model("diffasr-tiny")).name
    'diffasr-tiny'
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "pretrained", package.parent / "pretrained"):
        if (folder / name / "hyperparams.yaml").is_file():
            return str(folder / name)
    raise FileNotFoundError(
        f"{package}: {name} did not come with this installation; name another model, such as "
        "source=FOLDER in Python or --model FOLDER on the command line"
    )


def default_model() -> str:
    """The model that is used where none is named.

    Returns
    -------
    folder : str
        That of `diffasr-base`; see `shipped_model`.

    Raises
    ------
    FileNotFoundError
        If the package was installed without its models.

    Example
    -------
    >>> Path(default_model()).name
    'diffasr-base'
    """
    return shipped_model(DEFAULT_MODEL)
