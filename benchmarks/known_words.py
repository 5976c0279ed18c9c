"""Speech whose words are known: espeak-ng's and joined digits with times, recordings without."""

import importlib.util
import random
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
import torchaudio
from espeak_words import Speaker

from speechbrain_diffasr.dataio import load_audio, read_rows
from speechbrain_diffasr.evaluation.selection import usable_rows
from speechbrain_diffasr.text.spacing import split_text
from speechbrain_diffasr.text.spelling import normalize_text

RECIPES = Path(__file__).parents[1] / "recipes"
LEAD_SECONDS = (0.0, 0.3)  # of silence before an utterance
PAUSE_SECONDS = (0.2, 0.8)  # between two sentences
# As in recipes/SyntheticSpeech, whose test sentences these are.
NUM_VALID, NUM_TEST, TEXT_SEED = 40, 200, 1986
RATES, PITCHES = (130, 210), (25, 75)


@dataclass
class Spoken:
    """An utterance and its words as they were spoken.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    lang : str
    words : list of tuple
        Text, start and end in seconds; both are None where nobody knows them.
    """

    wav: torch.Tensor
    lang: str
    words: list

    @property
    def text(self):
        """Its words, with spaces but in Chinese."""
        return ("" if self.lang == "zh" else " ").join(word for word, _, _ in self.words)


def load_prepare(name):
    """Imports the preparation of a recipe."""
    path = RECIPES / name / "prepare.py"
    spec = importlib.util.spec_from_file_location(f"{name}_prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speak_sentences(folder, split, count, languages, seed, sample_rate, max_seconds):
    """Speaks sentences that training did not hear.

    Arguments
    ---------
    folder : str or Path
        With LANG.txt for each language.
    split : str
        valid or test.
    count : int
        Utterances of each language at most.
    languages : list of str
    seed : int
        Decides voices, rates, pitches and pauses.
    sample_rate : int
        In Hz.
    max_seconds : float
        Longer utterances are left out.

    Returns
    -------
    spoken : list of Spoken
    left_out : int
        Utterances too long, or with words that espeak-ng speaks as one.
    """
    recipe, speaker = load_prepare("SyntheticSpeech"), Speaker()
    spoken, left_out = [], 0
    for lang in languages:
        sentences, words, _ = recipe.read_texts(folder, lang)
        parts = recipe.split_sentences(sentences, words, lang, NUM_VALID, NUM_TEST, TEXT_SEED)
        rng, lines = random.Random(f"{seed} {split} {lang}"), iter(parts[split])
        for number in range(count):
            chosen = [line for line, _ in zip(lines, range(1 + number % 2), strict=False)]
            if len(chosen) < 1 + number % 2:
                break
            pieces, times, complete = [], [], True
            for place, line in enumerate(chosen):
                voice = recipe.join_voice(
                    rng.choice(recipe.VOICES[lang]), rng.choice(recipe.VARIANTS)
                )
                wav, edges = speaker.speak(line, voice, rng.randint(*RATES), rng.randint(*PITCHES))
                silence = rng.uniform(*(PAUSE_SECONDS if place else LEAD_SECONDS))
                pieces.append(torch.zeros(int(silence * speaker.sample_rate)))
                begin = sum(map(len, pieces)) / speaker.sample_rate
                pieces.append(wav)
                texts = [line[start:end] for start, end in split_text(line)]
                complete = complete and len(texts) == len(edges)
                times += [
                    (text, begin + start, begin + end)
                    for text, (start, end) in zip(texts, edges, strict=False)
                ]
            wav = torchaudio.functional.resample(
                torch.cat(pieces), speaker.sample_rate, sample_rate
            )
            if complete and len(wav) <= max_seconds * sample_rate:
                spoken.append(Spoken(wav, lang, times))
            else:
                left_out += 1
    return spoken, left_out


def join_digits(folder, split, count, seed, sample_rate, max_seconds):
    """Joins recordings of single digits; arguments and result are those of `speak_sentences`."""
    recipe = load_prepare("SpokenDigits")
    folder = recipe.find_recordings(folder)
    recordings = recipe.split_recordings(recipe.list_recordings(folder), 5)[split]
    plan = recipe.plan_strings(folder, split, recordings, count, (3, 7), (0.05, 0.4), seed)
    spoken = []
    for utterance in plan:
        wav, rate = recipe.join_recordings(utterance)
        words, begin = [], 0.0
        for text, file, pause in zip(
            utterance.wrd.split(),
            utterance.how["files"],
            [*utterance.how["pauses"], 0.0],
            strict=True,
        ):
            end = begin + soundfile.info(file).duration
            words.append((text, begin, end))
            begin = end + pause
        wav = torchaudio.functional.resample(wav, rate, sample_rate)
        if len(wav) <= max_seconds * sample_rate:
            spoken.append(Spoken(wav, recipe.LANGUAGE, words))
    return spoken, count - len(spoken)


def read_recordings(path, split, count, tuning, languages, sample_rate, max_seconds):
    """Reads recordings of people, whose words have no times.

    Arguments
    ---------
    path : str or Path
        CSV file with the columns ID, wav, wrd and lang.
    split : str
        valid or test: the first `tuning` utterances of each language, or those behind them.
    count : int
        Utterances of each language at most.
    tuning : int
    languages : list of str
    sample_rate : int
        In Hz.
    max_seconds : float
        Longer utterances are left out.

    Returns
    -------
    spoken : list of Spoken
    left_out : int
        Utterances too long.
    """
    rows, _ = usable_rows(read_rows(path), languages)
    spoken, left_out = [], 0
    for lang in languages:
        own = [row for row in rows if row.get("lang") == lang]
        chosen = own[:tuning] if split == "valid" else own[tuning : tuning + count]
        for row in chosen:
            wav = load_audio(row["wav"], sample_rate)
            text = normalize_text(row["wrd"], lang)
            words = [(text[start:end], None, None) for start, end in split_text(text)]
            if len(wav) <= max_seconds * sample_rate:
                spoken.append(Spoken(wav, lang, words))
            else:
                left_out += 1
    return spoken, left_out


def add_noise(spoken, snr, seed):
    """Adds white noise to utterances, `snr` dB below each."""
    generator = torch.Generator().manual_seed(seed)
    for utterance in spoken:
        level = utterance.wav.square().mean().sqrt() * 10 ** (-snr / 20)
        noise = torch.randn(len(utterance.wav), generator=generator)
        utterance.wav = utterance.wav + level * noise
