"""The spelling that models are trained on: the same for every corpus of a language."""

import re
import unicodedata

from speechbrain_diffasr.text.spacing import HAN, HAN_LANGUAGES

# Where an apostrophe inside a word is a matter of taste (geht's, gehts), it is left out.
NO_APOSTROPHE_LANGUAGES = ("de", "es")

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))
_FULL_WIDTH = re.compile("[\u3000\uff01-\uff5e]+")
_HAN_SPACE = re.compile(rf"(?<=[{HAN}]) +(?=[{HAN}])")
_HAN_BESIDE_LATIN = re.compile(
    rf"(?<=[{HAN}])(?=[a-z\u00df-\u024f])|(?<=[a-z\u00df-\u024f])(?=[{HAN}])"
)
_POINT_IN_ABBREVIATION = re.compile(r"(?<!\w)([^\W\d_])\.(?=[^\W\d_](?!\w))")
_LONE_APOSTROPHE = re.compile(r"(?<![^\W_])'|'(?![^\W_])")
_LONE_POINT = re.compile(r"(?<!\d)[.,]|[.,](?!\d)")


class _Kept(dict):
    """Table for str.translate: letters, marks and numbers stay, all else becomes a space."""

    def __missing__(self, code):
        category = unicodedata.category(chr(code))
        self[code] = " "
        if category[0] in "LMN":
            self[code] = chr(code)
        elif category == "Cf":
            # Format characters, such as a soft hyphen or a joiner, stand inside of words.
            self[code] = ""
        return self[code]


_KEPT = _Kept({ord(char): char for char in "',."})


def normalize_text(text, lang):
    """Spells a text as training targets and references are spelled.

    Lower case, in Unicode's form NFC, without punctuation and symbols, one space between words.
    Letters, marks and numbers stay: vowel signs, nukta and virama of Devanagari are marks.

    - Hyphens, dashes and slashes become spaces.
    - Apostrophes stay inside of words; in German and Spanish they vanish.
    - Full stops vanish in abbreviations of single letters: p.m. becomes pm.
    - Digits are not spelled out, and no space is put between them and letters or taken away.
      A point or comma between two digits stays.
    - Chinese and Japanese: full-width forms become ordinary ones (NFKC), there is no space between
      two characters, and one between them and a Latin word.

    Arguments
    ---------
    text : str
        As the corpus has it.
    lang : str
        Language code, such as ``en`` or ``en-US``. A language with no rule of its own gets the
        general ones.

    Returns
    -------
    text : str
        Empty if the text had no word.

    Example
    -------
    >>> normalize_text("“Don’t!” – said MR. Smith-Jones, at 3.5 p.m.", "en")
    "don't said mr smith jones at 3.5 pm"
    >>> normalize_text("Wie geht's? Das ist GROß; der 2. Versuch.", "de")
    'wie gehts das ist groß der 2 versuch'
    >>> normalize_text("Aujourd’hui, l'œuvre : est-ce «\u00a0Ça\u00a0» ?", "fr")
    "aujourd'hui l'œuvre est ce ça"
    >>> normalize_text("¿Qué? ¡EL NIÑO PINGÜINO!", "es")
    'qué el niño pingüino'
    >>> normalize_text("क्या यह ज़्यादा सही है? हाँ।", "hi")
    'क्या यह ज़्यादा सही है हाँ'
    >>> normalize_text("我 用ｉＰｈｏｎｅ看 Open AI，１０月。", "zh")
    '我用 iphone 看 open ai 10月'
    >>> normalize_text("Perché l'ANNO dell’amico è un po' così…", "it")
    "perché l'anno dell'amico è un po così"
    >>> normalize_text("П'ять — це ЧИСЛО", "uk")
    "п'ять це число"
    """
    language = re.split("[-_]", lang)[0].lower()
    if language in HAN_LANGUAGES:
        text = _FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = unicodedata.normalize("NFC", text.lower()).translate(_APOSTROPHES)
    text = _LONE_APOSTROPHE.sub("", text)
    if language in NO_APOSTROPHE_LANGUAGES:
        text = text.replace("'", "")
    text = _POINT_IN_ABBREVIATION.sub(r"\1", text)
    text = " ".join(_LONE_POINT.sub(" ", text).translate(_KEPT).split())
    if language in HAN_LANGUAGES:
        text = _HAN_BESIDE_LATIN.sub(" ", _HAN_SPACE.sub("", text))
    return text
