"""Speaks lines with Kokoro-82M in mixed voices: nearer to people than espeak-ng, and slower.

Kokoro (https://huggingface.co/hexgrad/Kokoro-82M, Apache-2.0) knows en, es, fr, hi, it, pt and zh;
German it reads with the accents of its voices. A voice is a vector, so two or three of them, mixed
at random, are a new one.

    pip install kokoro misaki pypinyin jieba ordered-set
    python prepare_kokoro.py --lines lines.tsv --kokoro_folder kokoro --output_folder kokoro_speech

The folder of Kokoro holds config.json, kokoro.safetensors or kokoro-v1_0.pth, and
voices/NAME.pt or voices.safetensors. kokoro_onnx.py makes such a folder of its ONNX export.
"""

import json
import multiprocessing
import random
from collections import defaultdict
from pathlib import Path

import torch
from phonemes import ESPEAK_VOICES, phonemize
from safetensors.torch import load_file

from speechbrain_diffasr.recipe import render_dataset, run_prepare
from speechbrain_diffasr.recipe.rendering import PlannedUtterance
from speechbrain_diffasr.training.objective import utterance_seed

SAMPLE_RATE = 24000
# The first letter of a voice's name says what its speaker speaks.
NATIVE = {"en-us": "a", "en-gb": "b", "es": "e", "es-419": "e", "fr-fr": "f", "hi": "h"}
NATIVE |= {"it": "i", "pt-br": "p", "zh": "z", "de": ""}
LANGUAGES = ("en", "de", "fr", "es", "hi", "zh")


def prepare_kokoro(
    lines,
    kokoro_folder,
    output_folder,
    languages=LANGUAGES,
    utterances_per_language=2000,
    min_speed=0.85,
    max_speed=1.3,
    native=0.6,
    min_seconds=0.3,
    max_seconds=13.5,
    devices=None,
    seed=1986,
    workers=None,
    progress=True,
):
    """Makes train.csv and its WAV files.

    Arguments
    ---------
    lines : str or Path
        Tab-separated id, lang, text as it is spoken, text as it is trained on.
    kokoro_folder : str or Path
        The model and its voices.
    output_folder : str or Path
        Where train.csv and the folder wavs go.
    languages : list of str
    utterances_per_language : int
        The first so many of the lines.
    min_speed, max_speed : float
        Speaking rate; 1 is the voice's own.
    native : float
        Share of utterances whose main voice is of the language.
    min_seconds, max_seconds : float
        Utterances outside of this range are skipped.
    devices : list of str or None
        Where the worker processes compute, in turn. None takes the GPUs, or else the CPU.
    seed : int
        Decides voices and rates.
    workers : int or None
        Number of processes. None takes five for each GPU, or all cores.
    progress : bool
        Whether to show a progress bar.
    """
    kokoro = Kokoro(kokoro_folder, devices)
    by_language = defaultdict(list)
    for line in Path(lines).read_text(encoding="utf-8").splitlines():
        name, lang, text, wrd = line.split("\t")
        if lang in languages and len(by_language[lang]) < utterances_per_language:
            by_language[lang].append((name, text, wrd))
    plan = []
    for lang in languages:
        for name, text, wrd in by_language[lang]:
            rng = random.Random(f"{seed} {name}")
            accent = rng.choice(ESPEAK_VOICES.get(lang, ("zh",)))
            mix = mix_voices(kokoro.names, NATIVE[accent], native, rng)
            how = {"text": text, "accent": accent, "mix": mix}
            how["speed"] = round(rng.uniform(min_speed, max_speed), 3)
            plan.append(PlannedUtterance(name, "train", lang, max(mix, key=mix.get), wrd, how))
    random.Random(seed).shuffle(plan)
    settings = {
        "lines": str(Path(lines).name),
        "languages": list(languages),
        "utterances_per_language": utterances_per_language,
        "speeds": [min_speed, max_speed],
        "native": native,
        "seed": seed,
    }
    if workers is None and kokoro.devices[0] != "cpu":
        workers = 5 * len(kokoro.devices)
    render_dataset(
        {"train": plan},
        output_folder,
        renderer=kokoro,
        settings=settings,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        workers=workers,
        progress=progress,
    )


def mix_voices(names, letter, native, rng):
    """Draws one to three voices and their shares.

    Arguments
    ---------
    names : list of str
    letter : str
        That the names of native voices begin with; none if empty.
    native : float
        Share of utterances whose main voice is one of these.
    rng : random.Random

    Returns
    -------
    mix : dict
        Shares by name, about 1 together.

    Example
    -------
    >>> mix = mix_voices(["af_heart", "zf_xiaoni"], "a", 1.0, random.Random(0))
    >>> "af_heart" in mix, 0.99 < sum(mix.values()) < 1.01
    (True, True)
    """
    own = [name for name in names if letter and name.startswith(letter)]
    first = rng.choice(own if own and rng.random() < native else names)
    others = rng.choices(names, k=rng.choice((0, 1, 1, 2)))
    weights = [1.0 + rng.random(), *(0.2 + rng.random() for _ in others)]
    mix = defaultdict(float)
    for name, weight in zip([first, *others], weights, strict=True):
        mix[name] += weight / sum(weights)
    return dict(mix)


class Kokoro:
    """The synthesizer as a renderer; each process that uses it loads the model once.

    Arguments
    ---------
    folder : str or Path
    devices : list of str or None
        See `prepare_kokoro`.
    """

    def __init__(self, folder, devices=None):
        self.folder = Path(folder)
        path = self.folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"kokoro_folder: {path} is not there; see --help")
        self.symbols = json.loads(path.read_text(encoding="utf-8"))["vocab"]
        self.voices = self._load_voices()
        self.names = sorted(self.voices)
        gpus = torch.cuda.device_count()
        self.devices = devices or [f"cuda:{number}" for number in range(gpus)] or ["cpu"]
        self.model = None

    def _load_voices(self):
        """Vectors by name, [510, 256] each: one for each number of symbols."""
        packed = self.folder / "voices.safetensors"
        if packed.is_file():
            voices = load_file(packed)
        else:
            paths = sorted(self.folder.glob("voices/*.pt"))
            voices = {path.stem: torch.load(path, weights_only=True) for path in paths}
        if not voices:
            raise FileNotFoundError(f"kokoro_folder: {self.folder} has no voices; see --help")
        return {name: voice.float().view(-1, 256) for name, voice in voices.items()}

    def _load(self):
        from kokoro.model import KModel
        from loguru import logger

        logger.disable("kokoro")  # it tells of every sentence
        process = multiprocessing.current_process()._identity
        self.device = self.devices[(process[0] if process else 0) % len(self.devices)]
        weights = self.folder / "kokoro.safetensors"
        if weights.is_file():
            self.model = plain_model(self.folder / "config.json")
            self.model.load_state_dict(
                {name: weight.float() for name, weight in load_file(weights).items()}, strict=False
            )
        else:
            self.model = KModel(
                "hexgrad/Kokoro-82M",
                str(self.folder / "config.json"),
                str(self.folder / "kokoro-v1_0.pth"),
            )
        self.model.to(self.device).eval()

    def __call__(self, utterance):
        """Speaks an utterance: a waveform [T] and its sample rate."""
        if self.model is None:
            self._load()
        how = utterance.how
        phonemes = phonemize(how["text"], utterance.lang, how["accent"], self.symbols)
        if not 0 < len(phonemes) <= 500:
            return torch.zeros(0), SAMPLE_RATE
        style = sum(
            share * self.voices[name][len(phonemes) - 1] for name, share in how["mix"].items()
        )
        torch.manual_seed(utterance_seed("kokoro", utterance.utterance_id))
        wav = self.model(phonemes, style[None], how["speed"]).float().cpu()
        return 0.7 * wav / wav.abs().max().clamp(min=1e-4), SAMPLE_RATE


def plain_model(config):
    """A KModel with random weights and without weight norm, for weights that have it folded in.

    Arguments
    ---------
    config : str or Path

    Returns
    -------
    model : KModel
    """
    from unittest.mock import patch

    from kokoro.model import KModel

    # It insists on reading a checkpoint.
    with patch("torch.load", return_value={}):
        model = KModel("hexgrad/Kokoro-82M", str(config), "none")
    for module in model.modules():
        if hasattr(module, "weight_g"):
            torch.nn.utils.remove_weight_norm(module)
    return model


if __name__ == "__main__":
    run_prepare(prepare_kokoro)
