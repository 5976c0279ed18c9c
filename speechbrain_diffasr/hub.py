"""Pretrained folders: what is in them, how they are read and written."""

import io
import json
import re
from pathlib import Path

from hyperpyyaml.core import recursive_update
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from speechbrain.utils.fetching import FetchSource
from speechbrain.utils.parameter_transfer import Pretrainer

ADAPTER_CONFIG = "adapter_config.json"

# The parts of a recognizer, by the names that a Pretrainer in YAML gives them.
FILENAMES = {
    "tokenizer": "tokenizer.json",
    "whisper": "whisper.safetensors",
    "base": "base.safetensors",
    "projector": "projector.safetensors",
    "adapter": "adapter_model.safetensors",
}
# Those that recipes train; the rest stays frozen.
TRAINED = ("projector", "adapter")


def check_source(source):
    """Sees whether a model can be there at all, before anything is loaded.

    Arguments
    ---------
    source : str or Path
        A pretrained folder or the name of a Hub repository.

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
        if not Path(source, "hyperparams.yaml").is_file():
            raise FileNotFoundError(f"{source!r} has no hyperparams.yaml")
    # Anything but OWNER/NAME cannot be meant for the Hub.
    elif Path(source).exists() or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", source):
        raise FileNotFoundError(f"{source!r} is neither a folder nor OWNER/NAME on the Hub")


class FolderPretrainer(Pretrainer):
    """Collects a recognizer's parts from a pretrained folder and loads them, without pickle.

    SpeechBrain's Pretrainer expects `NAME.ckpt`; this one knows the file names of a pretrained
    folder (see `FILENAMES`), and any part can come from another folder or Hub repository.

    Arguments
    ---------
    loadables : dict
        Objects by name of `FILENAMES`.
    sources : dict, optional
        Folder or Hub repository of those that do not lie in the folder being loaded; None stands
        for that folder. A relative path is looked for from that folder first.
    fresh : list of str, optional
        Parts that are not loaded: they are to be trained from the start.

    Example
    -------
    >>> import torch
    >>> from speechbrain_diffasr.lobes.projector import ConvProjector
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
        super().__init__(
            loadables={name: part for name, part in loadables.items() if name not in fresh},
            custom_hooks={name: _loader(name) for name in loadables},
        )
        self.parts = loadables
        self.sources = sources or {}

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
        for name in self.loadables:
            source = self.sources.get(name) or default_source
            beside = Path(str(default_source), str(source))
            if source is not default_source and beside.is_dir():
                source = str(beside)
            if isinstance(source, FetchSource):
                fetch_from, folder = source
                self.paths[name] = FetchSource(fetch_from, f"{folder}/{FILENAMES[name]}")
            else:
                self.paths[name] = f"{source}/{FILENAMES[name]}"
        return super().collect_files(default_source=default_source, **kwargs)


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


def _loader(name):
    """The hook that loads one part and names the file when it does not fit."""

    def load(part, path):
        try:
            if name == "tokenizer":
                part.load(path)
            elif name == "base":
                part.load_base_state_dict(load_file(path))
            elif name == "adapter":
                part.load_adapter_state_dict(load_file(path))
            else:
                part.load_state_dict(load_file(path))
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{FILENAMES[name]}: {error}") from error

    return load


def save_part(name, part, folder, dtype=None):
    """Writes one part of a recognizer into a pretrained folder.

    Arguments
    ---------
    name : str
        Of `FILENAMES`.
    part : object
        The tokenizer or module.
    folder : str or Path
        Where to write.
    dtype : torch.dtype, optional
        To store floating-point weights in. Default: as they are.
    """
    folder = Path(folder)
    path = folder / FILENAMES[name]
    if name == "tokenizer":
        part.backend.backend_tokenizer.save(str(path))
        return
    if name == "base":
        weights = part.base_state_dict()
    elif name == "adapter":
        weights = part.adapter_state_dict()
        config = part.adapter_config().to_dict()
        config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, default=str) + "\n")
    else:
        weights = part.state_dict()
    save_file(
        {
            key: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
            for key, value in weights.items()
        },
        path,
        metadata={"format": "pt"},
    )
    path.chmod(0o644)  # safetensors writes for the owner only


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
        To store floating-point weights in. Default: as they are.
    parts : list of str, optional
        Those to write. Default: all that did not come from another source.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(hyperparams, encoding="utf-8")
    if parts is None:
        parts = [name for name in pretrainer.parts if not pretrainer.sources.get(name)]
    for name in parts:
        save_part(name, pretrainer.parts[name], folder, dtype)


def save_finetuned(asr, source, folder, languages=None):
    """Writes what was trained, and where the rest is, as a folder for `from_hparams`.

    Arguments
    ---------
    asr : DiffusionASR
    source : str or Path
        What it was loaded from.
    folder : str or Path
        To write to.
    languages : dict, optional
        Names by code of languages that were added to the prompt.
    """
    pretrainer = asr.hparams.pretrainer
    here = str(Path(source).resolve()) if Path(source).exists() else str(source)
    sources = {}
    for name in pretrainer.parts:
        before = pretrainer.sources.get(name) or here
        beside = Path(here, before)
        sources[name] = str(beside.resolve()) if beside.is_dir() else before
    sources |= dict.fromkeys(TRAINED)
    changes = {"sources": sources, "fresh": [], "languages": languages or {}}
    text = override_yaml(asr.hyperparams, changes)
    text = f"# Projector and LoRA trained from {source}, whose comments follow.\n{text}"
    save_pretrained(pretrainer, text, folder, parts=TRAINED)
