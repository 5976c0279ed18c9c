"""Speaks text files with espeak-ng, in many voices, to train and test a recognizer on.

Reads TEXT_FOLDER/LANG.txt, one utterance a line, and where there is one LANG_words.txt, whose
lines are spoken for training only. Training, validation and test share no sentence, and
test_unseen_voices speaks the test sentences in voices that training never hears.

    python prepare.py --text_folder texts --output_folder data

A run that was stopped continues where it stopped when it is started again.
"""

import hashlib
import random
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import torch

from speechbrain_diffasr.recipe import render_dataset, run_prepare
from speechbrain_diffasr.recipe.rendering import PlannedUtterance

# By the name of the voice's file: espeak-ng 1.51 drops the variant of "en-gb" and "fr-fr", which
# are languages of the voices en and fr. fr-be and fr-ch sound as fr, except for some numbers.
VOICES = {
    "en": ["en-us", "en", "en-gb-scotland", "en-gb-x-rp"],
    "de": ["de"],
    "fr": ["fr"],
    "es": ["es", "es-419"],
    "hi": ["hi"],
    "zh": ["cmn-latn-pinyin"],
    "it": ["it"],
}
LANGUAGES = ("en", "de", "fr", "es", "hi", "zh")
# "" is the voice as it is. Left out are whispers, robots, and voices with little above 2 kHz.
VARIANTS = ("", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f5")
VARIANTS += ("klatt2", "Annie", "Alex", "belinda")
UNSEEN_VARIANTS = ("f4", "m8", "Mike", "aunty")


def prepare_synthetic_speech(
    text_folder,
    output_folder,
    languages=LANGUAGES,
    train_utterances_per_language=30000,
    num_valid=40,
    num_test=200,
    voices=VOICES,
    variants=VARIANTS,
    unseen_variants=UNSEEN_VARIANTS,
    min_rate=130,
    max_rate=210,
    min_pitch=25,
    max_pitch=75,
    min_seconds=0.15,
    max_seconds=9.5,
    seed=1986,
    workers=None,
    progress=True,
):
    """Makes train, valid, test and test_unseen_voices: 16 kHz WAV files and a CSV file each.

    Arguments
    ---------
    text_folder : str or Path
        Folder of LANG.txt and optional LANG_words.txt, UTF-8.
    output_folder : str or Path
        Where the CSV files and the folder wavs go. Paths in the CSV files begin with
        ``$data_root``, which stands for this folder.
    languages : list of str
        Languages to speak.
    train_utterances_per_language : int
        Training utterances. Every line is spoken once before any is spoken twice, and each time
        with a voice, rate and pitch of its own.
    num_valid, num_test : int
        Sentences per language, at most a tenth of what is there each.
    voices : dict of list of str
        The espeak-ng voices of each language.
    variants : list of str
        Variants of these voices in train, valid and test; "" is the voice as it is.
    unseen_variants : list of str
        Variants in test_unseen_voices, and nowhere else.
    min_rate, max_rate : int
        Speaking rate (words per minute).
    min_pitch, max_pitch : int
        Pitch (espeak-ng's scale, 0 to 99).
    min_seconds, max_seconds : float
        Utterances outside of this range are skipped.
    seed : int
        Decides splits, voices, rates and pitches.
    workers : int or None
        Number of processes; None takes all cores.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    FileNotFoundError
        If a text file or espeak-ng is missing.
    ValueError
        If an argument or a text file makes no sense, or the folder holds other data.
    """
    check_ranges(min_rate, max_rate, min_pitch, max_pitch, variants, unseen_variants)
    if not languages:
        raise ValueError("languages: name at least one")
    for lang in languages:
        if lang not in voices:
            raise ValueError(f"languages: no voice for '{lang}'; name one in the argument voices")
    bases = sorted({base for lang in languages for base in voices[lang]})
    version = check_espeak(bases, [*variants, *unseen_variants])

    plan = {"train": [], "valid": [], "test": [], "test_unseen_voices": []}
    digests = {}
    for lang in languages:
        sentences, words, digests[lang] = read_texts(text_folder, lang)
        parts = split_sentences(sentences, words, lang, num_valid, num_test, seed)
        lines = {**parts, "test_unseen_voices": parts["test"]}
        lines["train"] = cycle_lines(parts["train"], train_utterances_per_language, lang, seed)
        for split in plan:
            allowed = unseen_variants if split == "test_unseen_voices" else variants
            for number, line in enumerate(lines[split]):
                utterance_id = f"{lang}_{split}_{number:06d}"
                # A generator per utterance: what one gets does not depend on how many there are.
                rng = random.Random(f"{seed} {utterance_id}")
                voice = join_voice(rng.choice(voices[lang]), rng.choice(allowed))
                how = {
                    "rate": rng.randint(min_rate, max_rate),
                    "pitch": rng.randint(min_pitch, max_pitch),
                }
                plan[split].append(PlannedUtterance(utterance_id, split, lang, voice, line, how))

    settings = {
        "seed": seed,
        "languages": list(languages),
        "train_utterances_per_language": train_utterances_per_language,
        "num_valid": num_valid,
        "num_test": num_test,
        "voices": {lang: voices[lang] for lang in languages},
        "variants": list(variants),
        "unseen_variants": list(unseen_variants),
        "rates": [min_rate, max_rate],
        "pitches": [min_pitch, max_pitch],
        "texts": digests,
        "espeak_ng": version,
    }
    render_dataset(
        plan,
        output_folder,
        renderer=speak,
        settings=settings,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        workers=workers,
        progress=progress,
    )


def check_ranges(min_rate, max_rate, min_pitch, max_pitch, variants, unseen_variants):
    """Raises ValueError where arguments contradict each other."""
    if not 80 <= min_rate <= max_rate <= 450:
        raise ValueError(
            f"min_rate, max_rate: {min_rate} to {max_rate} is no range within 80 to 450 words/min"
        )
    if not 0 <= min_pitch <= max_pitch <= 99:
        raise ValueError(f"min_pitch, max_pitch: {min_pitch} to {max_pitch} is no range in 0 to 99")
    both = sorted(set(variants) & set(unseen_variants))
    if both:
        raise ValueError(f"unseen_variants: {both} are in variants too; name each in one of them")
    if not variants or not unseen_variants:
        raise ValueError("variants, unseen_variants: name at least one each")


def join_voice(base, variant):
    """Returns espeak-ng's name of a voice, e.g. en-us+f1."""
    return f"{base}+{variant}" if variant else base


def run_espeak(*arguments, text=""):
    """Runs espeak-ng and returns what it writes to stdout, as bytes."""
    try:
        done = subprocess.run(
            ["espeak-ng", *arguments], input=text.encode(), capture_output=True, check=True
        )
    except FileNotFoundError:
        raise FileNotFoundError(
            "espeak-ng is not installed; install it (Debian, Ubuntu: apt install espeak-ng, "
            "macOS: brew install espeak-ng)"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip() or f"exit status {error.returncode}"
        raise RuntimeError(f"espeak-ng {' '.join(arguments)}: {reason}") from None
    return done.stdout


def check_espeak(bases, variants):
    """Returns the version of espeak-ng, or raises ValueError where it lacks a voice.

    It would speak an unknown variant as the plain voice without a word.
    """
    for listing, names in (("--voices", bases), ("--voices=variant", variants)):
        lines = run_espeak(listing).decode().splitlines()[1:]
        # Columns: priority, language, age and gender, name, file. Files are folder/voice.
        known = {line.split()[4].rpartition("/")[2].lower() for line in lines}
        unknown = [name for name in names if name and name.lower() not in known]
        if unknown:
            raise ValueError(
                f"espeak-ng has no voice file '{unknown[0]}'; `espeak-ng {listing}` lists them in "
                "the column File"
            )
    return run_espeak("--version").decode().split("Data at")[0].strip()


def sentence_key(line):
    """Returns the letters, marks and digits of a line, to compare sentences by.

    Example
    -------
    >>> sentence_key("I'm  here!") == sentence_key("im here")
    True
    """
    line = unicodedata.normalize("NFKC", line).casefold()
    return "".join(char for char in line if unicodedata.category(char)[0] in "LMN")


def read_lines(path):
    """Returns the different lines of a text file as {key: line}, NFC and with single spaces."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}, byte {error.start})") from None
    lines = {}
    for line in text.splitlines():
        line = " ".join(unicodedata.normalize("NFC", line).split())
        key = sentence_key(line)
        # In SpeechBrain's CSV files, $ begins the name of a folder.
        if key and "$" not in line:
            lines.setdefault(key, line)
    return lines


def read_texts(text_folder, lang):
    """Returns sentences and words of a language as {key: line}, and a digest of both."""
    path = Path(text_folder) / f"{lang}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"text_folder: '{text_folder}' has no file '{path.name}'; expected one utterance a "
            "line, or leave the language out"
        )
    sentences = read_lines(path)
    if not sentences:
        raise ValueError(f"{path}: no text; expected one utterance a line")
    words_path = path.with_name(f"{lang}_words.txt")
    words = read_lines(words_path) if words_path.is_file() else {}
    text = "\n".join([*sentences.values(), "", *words.values()])
    return sentences, words, hashlib.sha256(text.encode()).hexdigest()[:16]


def split_sentences(sentences, words, lang, num_valid, num_test, seed):
    """Splits sentences into train, valid and test, and adds to train the words of no other.

    Arguments
    ---------
    sentences, words : dict
        {key: line}; two lines of one key count as one sentence.
    lang : str
    num_valid, num_test : int
        Sentences, at most a tenth of all each.
    seed : int

    Returns
    -------
    dict of list of str

    Example
    -------
    >>> sentences = {letter: letter for letter in "abcdefghijklmnopqrst"}
    >>> parts = split_sentences(sentences, {"a": "a", "z": "z"}, "en", 9, 1, seed=0)
    >>> {split: len(lines) for split, lines in parts.items()}["valid"]
    2
    """

    # Ordered by a hash, a sentence stays where it is when others are added to the file.
    def order(key):
        return hashlib.sha256(f"{seed} {lang} {key}".encode()).digest()

    keys = sorted(sentences, key=order)
    most = len(keys) // 10
    num_test, num_valid = min(num_test, most), min(num_valid, most)
    held_out = {"test": keys[:num_test], "valid": keys[num_test : num_test + num_valid]}
    parts = {split: [sentences[key] for key in chosen] for split, chosen in held_out.items()}
    train = {**words, **sentences}
    for key in keys[: num_test + num_valid]:
        del train[key]
    return {"train": list(train.values()), **parts}


def cycle_lines(lines, count, lang, seed):
    """Returns ``count`` lines: all of them in a new order each time round."""
    cycled = []
    for turn in range(-(-count // len(lines))):
        cycled += random.Random(f"{seed} {lang} {turn}").sample(lines, len(lines))
    return cycled[:count]


def readable(text, lang):
    """What espeak-ng is given: characters of Mandarin it would read as something else.

    Arguments
    ---------
    text : str
    lang : str

    Returns
    -------
    text : str
        Pinyin with the numbers of the tones for zh, else as it is.
    """
    if lang != "zh":
        return text
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError:
        raise ImportError("zh is spoken from pinyin; pip install pypinyin") from None
    return " ".join(lazy_pinyin(text, style=Style.TONE3, neutral_tone_with_five=True))


def speak(utterance, max_silence=0.1):
    """Speaks an utterance with espeak-ng.

    Arguments
    ---------
    utterance : PlannedUtterance
        Its ``how`` holds ``rate`` (words per minute) and ``pitch`` (0 to 99).
    max_silence : float
        Seconds of digital zeros that may stay at the end.

    Returns
    -------
    wav : torch.Tensor
        [T], float32.
    sample_rate : int
        In Hz.
    """
    arguments = ["-v", utterance.voice, "-s", utterance.how["rate"], "-p", utterance.how["pitch"]]
    # From stdin, since a text on the command line may begin with a dash.
    text = readable(utterance.wrd, utterance.lang)
    riff = run_espeak(*map(str, arguments), "--stdin", "--stdout", text=text)
    if not riff:
        return torch.zeros(0), 16000
    # The header on stdout is 44 bytes and its sizes are wrong: they are not known yet.
    rate = int.from_bytes(riff[24:28], "little")
    samples = np.frombuffer(riff, dtype="<i2", offset=44)  # [T]
    end = np.flatnonzero(samples)[-1] + 1 if samples.any() else 0
    samples = samples[: end + int(max_silence * rate)]
    return torch.from_numpy(samples.astype(np.float32) / 32768), rate


if __name__ == "__main__":
    run_prepare(prepare_synthetic_speech)
