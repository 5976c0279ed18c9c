"""What Kokoro-82M reads: the phonemes of espeak-ng and of pinyin, in the symbols it was trained on.

The tables are those of misaki (https://github.com/hexgrad/misaki, Apache-2.0), which Kokoro was
trained with; German, which it was not trained with, takes the nearest symbols.
"""

import re
import subprocess
import unicodedata

ESPEAK_VOICES = {"en": ("en-us", "en-gb"), "es": ("es", "es-419"), "fr": ("fr-fr",)}
ESPEAK_VOICES |= {"de": ("de",), "hi": ("hi",), "it": ("it",), "pt": ("pt-br",)}

# In this order: longer ones first. ^ ties two symbols to one sound.
ENGLISH = (
    ("ʔˌn\u0329", "ʔn"), ("ʔn\u0329", "ʔn"), ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"),
    ("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("ə^l", "ᵊl"), ("ʲo", "jo"), ("ʲə", "jə"),
    ("ʲ", ""), ("e", "A"), ("r", "ɹ"), ("ɚ", "əɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"),
    ("ɬ", "l"), ("\u0303", ""),
)  # fmt: skip
AMERICAN = (("o^ʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""))
BRITISH = (("e^ə", "ɛː"), ("iə", "ɪə"), ("ə^ʊ", "Q"))
OTHERS = (
    ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^z", "ʣ"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"), ("o^ʊ", "O"),
    ("ə^ʊ", "Q"), ("s^s", "S"), ("t^s", "ʦ"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("-", ""),
)  # fmt: skip
NEAREST = str.maketrans("gʏɵʱɫʀɱʉɘɞʐɭħ", "ɡyøʰlʁmuəœɻlh")
TONES = (("˧˩˧", "↓"), ("˧˥", "↗"), ("˥˩", "↘"), ("˥", "→"))
CHINESE_MARKS = str.maketrans("、，。！：；？《》「」", ",,.!:;?“”“”")
CLAUSE = re.compile(r"([,.!?;:—…\"“”()]+)")
HAN = re.compile("([\u4e00-\u9fff]+)")


def phonemize(text, lang, voice, symbols):
    """Turns a text into symbols of Kokoro.

    Arguments
    ---------
    text : str
        With its punctuation, which is heard as pauses.
    lang : str
    voice : str
        Of espeak-ng; not used for zh.
    symbols : collection of str
        That the model knows; others are left out.

    Returns
    -------
    phonemes : str
    """
    if lang == "zh":
        return _fit(_mandarin(text), symbols)
    text = text.translate(str.maketrans("«»–।", "“”—."))
    parts = []
    for number, part in enumerate(CLAUSE.split(text)):
        if number % 2:
            parts.append(part + " ")
        elif part.strip():
            # Names of languages that espeak-ng switches to stand in parentheses.
            sounds = re.sub(r"\([a-z-]+\)", "", _espeak(part, voice))
            parts.append(_rewrite(sounds, lang, voice))
    return _fit(" ".join(parts), symbols)


def _espeak(text, voice):
    command = ["espeak-ng", "-q", "--ipa", "--tie=^", "-v", voice, "--stdin"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    return " ".join(done.stdout.decode().split("\n")).strip()


def _rewrite(sounds, lang, voice):
    if lang != "en":
        return _replace(sounds, OTHERS).replace("^", "").replace("\u0329", "")
    sounds = re.sub("(\\S)\u0329", "ᵊ\\1", _replace(sounds, ENGLISH)).replace("\u0329", "")
    sounds = _replace(sounds, BRITISH if voice == "en-gb" else AMERICAN)
    return _replace(sounds, (("o", "ɔ"), ("ɾ", "T"), ("ʔ", "t"), ("^", "")))


def _mandarin(text):
    import jieba
    from misaki.transcription import pinyin_to_ipa
    from pypinyin import Style, lazy_pinyin

    jieba.setLogLevel("ERROR")
    parts = []
    for part in HAN.split(text.translate(CHINESE_MARKS)):
        if not HAN.fullmatch(part):
            parts.append(part + " ")
            continue
        for word in jieba.cut(part):
            pinyin = lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True)
            sounds = "".join("".join(pinyin_to_ipa(syllable)[0]) for syllable in pinyin)
            parts.append(
                _replace(sounds, TONES).replace("ɻ\u0329", "ɨ").replace("ɹ\u0329", "ɨ") + " "
            )
    return "".join(parts)


def _replace(text, table):
    for old, new in table:
        text = text.replace(old, new)
    return text


def _fit(sounds, symbols):
    """Leaves what the model knows; accents are symbols of their own, but for the cedilla."""
    text = "ç".join(unicodedata.normalize("NFD", part) for part in sounds.split("ç"))
    kept = "".join(symbol for symbol in text.translate(NEAREST) if symbol in symbols)
    return re.sub(r" +([,.!?;:])", r"\1", " ".join(kept.split()))
