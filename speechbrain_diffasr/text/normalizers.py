"""What of a text counts when a transcript is compared with its reference."""

import json
import unicodedata
from importlib import resources

from speechbrain_diffasr.text.spacing import CHARACTER_LANGUAGES
from speechbrain_diffasr.text.spelling import (
    base_language,
    join_marks,
    lower_case,
    unify_forms,
)


def is_scored_by_characters(language):
    """Whether a language is written without spaces between words.

    Arguments
    ---------
    language : str or None
        A code such as `zh` or `zh-TW`.

    Returns
    -------
    characters : bool

    Example
    -------
    >>> is_scored_by_characters("zh"), is_scored_by_characters("hi")
    (True, False)
    """
    return base_language(language) in CHARACTER_LANGUAGES


class PlainText:
    """Leaves a text as it stands.

    Example
    -------
    >>> PlainText()("The Cat's  hat.", "en")
    "The Cat's  hat."
    """

    name = "none"
    description = "text as it stands"

    def __call__(self, text, language=None):
        """Returns the text."""
        return text


class MarkKeepingNormalizer:
    """Lower case and no punctuation, but combining marks stay where they are.

    Unicode's compatibility composition and case folding; marks that divide no word (l·l, geresh,
    gershayim, Armenian signs, tatweel) are taken out of it; punctuation and symbols (categories P
    and S) become spaces; marks (M) are kept, which vowels of Hindi and many other languages are;
    invisible format characters (Cf) are dropped.

    Example
    -------
    >>> MarkKeepingNormalizer()("नमस्ते, दुनिया!", "hi")
    'नमस्ते दुनिया'
    >>> MarkKeepingNormalizer()("Straße ５: ÇA VA?", "de")
    'strasse 5 ça va'
    """

    name = "marks"
    description = (
        "NFKC and case folding, punctuation and symbols to spaces, combining marks kept, "
        "format characters dropped"
    )

    def __call__(self, text, language=None):
        """Normalizes a text.

        Arguments
        ---------
        text : str
        language : str, optional
            Its code: Turkish and its relatives have small letters of their own for I and İ.

        Returns
        -------
        text : str
        """
        text = join_marks(unify_forms(text, language), language)
        if language is not None:
            text = lower_case(text, language)
        # Symbols go before and after NFKC: it turns U+00B4 into a space with a combining accent,
        # and ½ into 1⁄2.
        text = unicodedata.normalize("NFKC", _without_symbols(text)).casefold()
        return " ".join(_without_symbols(unicodedata.normalize("NFKC", text)).split())


class WhisperNormalizer:
    """The normalizers of Whisper, as transformers has them.

    English goes through `EnglishTextNormalizer`, as the literature scores it: numbers,
    contractions, titles and British spellings count as their equals. The other languages go
    through `BasicTextNormalizer`, which for those written without spaces splits characters apart.
    It replaces combining marks by spaces and so tears words of Hindi into pieces: see
    `MarkKeepingNormalizer`.

    Arguments
    ---------
    english_spelling : dict, optional
        American spellings by British ones. Default: Whisper's, as the package whisper-normalizer
        holds them; transformers holds none.

    Example
    -------
    >>> WhisperNormalizer()("Don't, Mr. Grey! Twenty-one colours.", "en")
    'do not mister gray 21 colors'
    >>> WhisperNormalizer()("这是。", "zh"), WhisperNormalizer()("नमस्ते", "hi")
    ('这 是', 'नमस त')
    """

    name = "whisper"

    def __init__(self, english_spelling=None):
        # Here, since the command line reads the names of this file without a wait.
        from transformers.models.whisper.english_normalizer import (
            BasicTextNormalizer,
            EnglishTextNormalizer,
        )

        basic = "transformers BasicTextNormalizer, characters apart for languages without spaces"
        if english_spelling is None:
            table = resources.files("whisper_normalizer") / "normalizers" / "english.json"
            english_spelling = json.loads(table.read_text(encoding="utf-8"))
        self.basic = BasicTextNormalizer()
        self.by_characters = BasicTextNormalizer(split_letters=True)
        self.english = EnglishTextNormalizer(english_spelling)
        self.description = f"{basic}; for English EnglishTextNormalizer"

    def __call__(self, text, language=None):
        """Normalizes a text.

        Arguments
        ---------
        text : str
        language : str, optional
            Its code. Default: neither English nor written without spaces.

        Returns
        -------
        text : str
        """
        normalizer = self.basic
        if base_language(language) == "en":
            normalizer = self.english
        elif is_scored_by_characters(language):
            normalizer = self.by_characters
        return normalizer(text).strip()


NORMALIZERS = {kind.name: kind for kind in (WhisperNormalizer, MarkKeepingNormalizer, PlainText)}


def make_normalizer(name, english_spelling=None):
    """Makes a normalizer by its name.

    Arguments
    ---------
    name : str
        `whisper`, `marks` or `none`.
    english_spelling : str or Path, optional
        A table of spellings for `whisper`, such as `normalizer.json` of an openai/whisper model.
        Default: that of the package whisper-normalizer.

    Returns
    -------
    normalizer : callable
        Takes a text and its language; has `name` and `description`.

    Raises
    ------
    ValueError
        If there is no such normalizer, or the file is not a table of spellings.

    Example
    -------
    >>> make_normalizer("marks")("Two-fold", "en")
    'two fold'
    """
    if name not in NORMALIZERS:
        raise ValueError(f"unknown normalizer {name!r}; choose from {', '.join(NORMALIZERS)}")
    if name != "whisper" or english_spelling is None:
        return NORMALIZERS[name]()
    return WhisperNormalizer(_read_spelling(english_spelling))


def _read_spelling(path):
    try:
        with open(path, encoding="utf-8") as file:
            table = json.load(file)
    except OSError as err:
        raise ValueError(f"{path}: {err.strerror}") from None
    except ValueError:
        table = None
    if not isinstance(table, dict) or not all(isinstance(word, str) for word in table.values()):
        raise ValueError(
            f"{path}: not a table of spellings; give normalizer.json of an openai/whisper model"
        )
    return table


def _without_symbols(text):
    kinds = ((character, unicodedata.category(character)) for character in text)
    return "".join(" " if kind[0] in "PS" else c for c, kind in kinds if kind != "Cf")
