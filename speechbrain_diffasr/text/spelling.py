"""The spelling that models are trained on: the same for every corpus of a language."""

import re
import unicodedata

from speechbrain_diffasr.text.spacing import CHARACTER_LANGUAGES, HAN, HAN_LANGUAGES

# Where an apostrophe inside a word is a matter of taste (geht's, gehts), it is left out.
NO_APOSTROPHE_LANGUAGES = ("de", "es")

# Small letters of İ and I, elsewhere those of I with a dot too many and of I.
_TURKIC_LANGUAGES = ("tr", "az", "crh", "tt", "gag")
_TURKIC = str.maketrans("İI", "iı")
# Where a mark between letters divides no word: MidLetter of UAX #29, section 4.1.
_MARKS_IN_WORDS = {"ca": "·", "oc": "·", "fi": ":", "sv": ":"}
_MIDDLE_DOTS = str.maketrans(
    {**dict.fromkeys("\u2022\u2027\u2219\u22c5\u0387", "·"), "ŀ": "l·", "Ŀ": "L·"}
)
_HEBREW = "\u05d0-\u05f2"
_HEBREW_MARKS = "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
_GERSHAYIM = re.compile(rf"(?<=[{_HEBREW}{_HEBREW_MARKS}])[\"\u05f4\u201d\u201e](?=[{_HEBREW}])")
_GERESH = re.compile(rf"(?<=[{_HEBREW}{_HEBREW_MARKS}])['\u05f3](?=[{_HEBREW}])")
_APOSTROPHES = str.maketrans(
    dict.fromkeys("\u2019\u2018\u201b\u2032\u02bc\u02bd\u02ca\u02cb\u055a\u1fbd\u1fbf`´＇", "'")
)
# Signs that stand on a vowel inside of a word, or only make it longer: Armenian stress,
# exclamation and question marks; Arabic tatweel.
_OVER_LETTERS = dict.fromkeys(map(ord, "\u055b\u055c\u055e\u0640"))
# Forms that only look different (NFKC): ligatures, letters of Arabic as they are joined, letters
# of mathematics, full and half width. Not superscripts and fractions, which read otherwise.
_FORMS = re.compile(
    "[\u0132\u0133\u01c4-\u01cc\u01f1-\u01f3\u3000\ufb00-\ufdff\ufe70-\ufefc\uff01-\uff9f"
    "\U0001d400-\U0001d7ff]+"
)
# A zero-width space is a break, and breaks are not written where there are no spaces.
_ZERO_WIDTH_SPACE = "\u200b"
_UNSPACED_LANGUAGES = (*CHARACTER_LANGUAGES, "km")
_HAN_SPACE = re.compile(rf"(?<=[{HAN}]) +(?=[{HAN}])")
_HAN_BESIDE_LATIN = re.compile(
    rf"(?<=[{HAN}])(?=[a-z\u00df-\u024f])|(?<=[a-z\u00df-\u024f])(?=[{HAN}])"
)
_POINT_IN_ABBREVIATION = re.compile(r"(?<!\w)([^\W\d_])\.(?=[^\W\d_](?!\w))")
_LONE_APOSTROPHE = re.compile(r"(?<![^\W_])'|'(?![^\W_])")
_LONE_POINT = re.compile(r"(?<!\d)[.,٫٬]|[.,٫٬](?!\d)")
_LONE_MARK = re.compile(r"(?<![^\W\d_])[·:]|[·:](?![^\W\d_])")


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


_KEPT = _Kept({ord(char): char for char in "',.٫٬׳״"})
_KEPT_WITH = {mark: _Kept({**_KEPT, ord(mark): mark}) for mark in _MARKS_IN_WORDS.values()}


def base_language(lang):
    """The language of a code, without country or script.

    Arguments
    ---------
    lang : str or None

    Returns
    -------
    language : str

    Example
    -------
    >>> base_language("zh-TW"), base_language("en_US")
    ('zh', 'en')
    """
    return re.split("[-_]", str(lang))[0].lower()


def unify_forms(text, language):
    """Writes letters in one form only: what looks different and is not, and what is invisible.

    Arguments
    ---------
    text : str
    language : str
        Its code.

    Returns
    -------
    text : str

    Example
    -------
    >>> unify_forms("the \ufb01ne\u200b\ufb02ow", "en")
    'the fine flow'
    """
    text = _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    gap = "" if base_language(language) in _UNSPACED_LANGUAGES else " "
    text = text.replace(_ZERO_WIDTH_SPACE, gap)
    return text.translate(_OVER_LETTERS).translate(_MIDDLE_DOTS)


def lower_case(text, language):
    """Small letters, as the language has them.

    Arguments
    ---------
    text : str
    language : str
        Its code.

    Returns
    -------
    text : str

    Example
    -------
    >>> lower_case("IŞIK İLE", "tr"), lower_case("ISTANBUL İ", "en")
    ('ışık ile', 'istanbul i')
    """
    text = text.replace("I\u0307", "İ")
    if base_language(language) in _TURKIC_LANGUAGES:
        text = text.translate(_TURKIC)
    return text.replace("İ", "i").lower()


def join_marks(text, language):
    """Takes marks out of words that they do not divide, so that each stays one.

    Arguments
    ---------
    text : str
    language : str
        Its code.

    Returns
    -------
    text : str

    Example
    -------
    >>> join_marks("col·legi", "ca"), join_marks("צה״ל", "he")
    ('collegi', 'צהל')
    """
    inside = _MARKS_IN_WORDS.get(base_language(language))
    if inside is not None:
        text = re.sub(rf"(?<=[^\W\d_]){inside}(?=[^\W\d_])", "", text)
    return _GERSHAYIM.sub("", _GERESH.sub("", text))


def normalize_text(text, lang):
    """Spells a text as training targets and references are spelled.

    Lower case, in Unicode's form NFC, without punctuation and symbols, one space between words.
    Letters, marks and numbers stay: vowel signs, nukta and virama of Devanagari are marks.

    - Hyphens, dashes and slashes become spaces.
    - Apostrophes stay inside of words; in German and Spanish they vanish.
    - Marks that divide no word stay inside of it: l·l of Catalan and Occitan, geresh and gershayim
      of Hebrew (whichever quotation mark stands for them), the colon of Swedish and Finnish
      endings. Armenian signs on vowels and the Arabic tatweel vanish.
    - The small letters of I and İ are ı and i in Turkish, Azeri and their relatives.
    - Ligatures, and letters that only look different, become ordinary ones. A zero-width space
      ends a word, but in languages without spaces.
    - Full stops vanish in abbreviations of single letters: p.m. becomes pm.
    - Digits are not spelled out, and no space is put between them and letters or taken away.
      A point or comma between two digits stays, the Arabic ones too.
    - Chinese and Japanese: there is no space between two characters, and one between them and a
      Latin word.

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
    >>> normalize_text("İstanbul'da IŞIK", "tr"), normalize_text("El COL·LEGI", "ca")
    ("istanbul'da ışık", 'el col·legi')
    """
    language = base_language(lang)
    text = lower_case(unify_forms(text, language), language)
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES)
    text = _GERSHAYIM.sub("״", _GERESH.sub("׳", text))
    text = _LONE_APOSTROPHE.sub("", text)
    if language in NO_APOSTROPHE_LANGUAGES:
        text = text.replace("'", "")
    text = _POINT_IN_ABBREVIATION.sub(r"\1", text)
    text = _LONE_MARK.sub(" ", _LONE_POINT.sub(" ", text))
    inside = _MARKS_IN_WORDS.get(language)
    text = " ".join(text.translate(_KEPT if inside is None else _KEPT_WITH[inside]).split())
    if language in HAN_LANGUAGES:
        text = _HAN_BESIDE_LATIN.sub(" ", _HAN_SPACE.sub("", text))
    return text
