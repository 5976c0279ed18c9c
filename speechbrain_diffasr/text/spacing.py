"""Which scripts put spaces between words, and where texts are divided and joined."""

import unicodedata

# Scripts written without spaces, by the ranges of their characters: kana and Han, and Thai, Lao,
# Burmese and Khmer.
_HAN = (
    (0x3005, 0x3007), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)  # fmt: skip
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), *_HAN)
# Kana and Han as a class of characters in a regular expression, without its brackets.
HAN = "".join(f"{chr(low)}-{chr(high)}" for low, high in _HAN)
# Languages that are written in them; Latin words in between keep their spaces.
HAN_LANGUAGES = ("zh", "yue", "ja")
# Languages that are scored by characters, as Whisper's paper scores zh, ja, th, lo and my
# (https://arxiv.org/abs/2212.04356, section 4.4); yue is written like zh.
CHARACTER_LANGUAGES = (*HAN_LANGUAGES, "th", "lo", "my")


def join_words(words):
    """Joins words to the text that they are from.

    Arguments
    ---------
    words : list
        Of anything that has `text` and `space`.

    Returns
    -------
    text : str

    Example
    -------
    >>> from speechbrain_diffasr import Word
    >>> join_words([Word("你", 0.0, 0.5, 0.9, False), Word("ok", 0.5, 1.0, 0.8, True)])
    '你 ok'
    """
    return "".join(" " * word.space + word.text for word in words)


def split_text(text):
    """Splits a text at spaces, and where a script has none, into characters.

    Combining marks and punctuation stay with the character before them, opening punctuation with
    the one behind.

    Arguments
    ---------
    text : str
        With single spaces.

    Returns
    -------
    spans : list of tuple of int
        Start and end of each word.

    Example
    -------
    >>> text = "क्या हाँ 我用iphone看，《3.5》"
    >>> [text[start:end] for start, end in split_text(text)]
    ['क्या', 'हाँ', '我', '用', 'iphone', '看，', '《3.5》']
    """
    spans = []
    begins, wordy, unspaced = True, False, False  # of the word that is being read
    for index, character in enumerate(text):
        if character == " ":
            begins = True
            continue
        category = unicodedata.category(character)
        is_wordy = category[0] in "LN"
        alone = any(low <= ord(character) <= high for low, high in _UNSPACED)
        divides = (is_wordy and (alone or unspaced)) or (category in ("Ps", "Pi") and unspaced)
        if begins or (wordy and divides):
            spans.append((index, index + 1))
            begins, wordy, unspaced = False, False, False
        spans[-1] = (spans[-1][0], index + 1)
        if is_wordy:
            wordy, unspaced = True, alone
    return spans


def join_texts(texts):
    """Joins texts of consecutive segments: with a space, but not between Chinese or Japanese.

    Arguments
    ---------
    texts : iterable of str
        Empty ones are passed over.

    Returns
    -------
    text : str

    Example
    -------
    >>> join_texts(["我们用", "", "电脑。", "好", "OK then"])
    '我们用电脑。好 OK then'
    """
    joined = ""
    for text in texts:
        text = " ".join(text.split())
        if joined and text and needs_space(joined, text):
            joined += " "
        joined += text
    return joined


def needs_space(left, right):
    """Whether a space stands between two texts that are joined.

    Arguments
    ---------
    left, right : str
        Not empty.

    Returns
    -------
    space : bool
        False only between two wide characters of scripts without spaces: Han, kana and their
        punctuation.

    Example
    -------
    >>> needs_space("한국어", "문장"), needs_space("你好。", "我"), needs_space("你好", "ok")
    (True, False, True)
    """
    return not (_is_spaceless(left[-1]) and _is_spaceless(right[0]))


def _is_spaceless(character):
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not unicodedata.name(character, "").startswith("HANGUL")
