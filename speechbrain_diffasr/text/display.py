"""Text as it is shown: harmless, in one line, so and so wide."""

import unicodedata

import wcwidth

# What ends a line or a field for Python's `splitlines` or a reader of tables.
_ENDS = "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"


def clean_text(text):
    """One line of what can be shown: no control characters, no broken surrogates.

    Arguments
    ---------
    text : str

    Returns
    -------
    text : str
        With single spaces.

    Example
    -------
    >>> clean_text(" two\\nlines\\x1b[0m ")
    'two lines[0m'
    """
    kept = "".join(
        "\ufffd" if unicodedata.category(character) == "Cs" else character
        for character in text
        if character.isspace() or unicodedata.category(character) != "Cc"
    )
    return " ".join(kept.split())


def one_field(text):
    """A text as one field of a line whose fields are divided by tabs.

    Arguments
    ---------
    text : str

    Returns
    -------
    field : str
        Tabs and line ends as escapes; all else as it is, bytes of file names too.

    Example
    -------
    >>> print(one_field("two\\nlines\\tof a name"))
    two\\nlines\\tof a name
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii") if character in _ENDS else character
        for character in text
    )


def text_width(text):
    """Columns that a text takes where every character has the same width.

    Arguments
    ---------
    text : str

    Returns
    -------
    columns : int
        Wide characters count as two, combining marks as none.

    Example
    -------
    >>> text_width("e\u0301té"), text_width("你好")
    (3, 4)
    """
    return sum(max(0, wcwidth.wcwidth(character)) for character in text)


# Invisible characters that join or divide letters of Indic scripts, and nothing else.
_JOINERS = "\u200c\u200d"
# Control, format, surrogate, private and unassigned characters; line and paragraph separators.
_UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text):
    """One line in which nothing is hidden and nothing steers a terminal.

    Arguments
    ---------
    text : str

    Returns
    -------
    text : str
        Control characters, line ends, direction marks, lone surrogates and the like as escapes.

    Example
    -------
    >>> printable("a\\x1b[2J\\u2028\\u202eb"), printable("क्\\u200dष")
    ('a\\\\x1b[2J\\\\u2028\\\\u202eb', 'क्\\u200dष')
    """
    return "".join(
        character
        if character in _JOINERS or unicodedata.category(character) not in _UNSHOWN
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )
