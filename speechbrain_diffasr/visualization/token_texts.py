"""What single tokens look like to a person: on a page and in a terminal."""

import re
import unicodedata
from dataclasses import dataclass

from speechbrain_diffasr.text.display import printable

_DOTTED_CIRCLE = "\u25cc"
# How tokenizers with byte fallback name their bytes.
_BYTE = re.compile(r"<(0x[0-9A-F]{2})>")


@dataclass(frozen=True)
class TokenText:
    """What a token looks like.

    Arguments
    ---------
    text : str
        Harmless in a terminal and in one line: no control characters, no spaces at the ends. A
        combining mark that stands first sits on a dotted circle.
    space : bool
        Whether it begins with a space.
    kind : str
        "text", "end" for the end-of-text token, "special" for other special tokens, "byte" for
        one that is part of a character only.
    """

    text: str
    space: bool
    kind: str


class TokenTexts:
    """Shows tokens one by one, each in a way that tells it from the others.

    Arguments
    ---------
    tokenizer : Tokenizer

    Example
    -------
    >>> from speechbrain_diffasr import shipped_model
    >>> from speechbrain_diffasr.lobes import Tokenizer
    >>> tokenizer = Tokenizer()
    >>> tokenizer.load(f"{shipped_model('diffasr-tiny')}/tokenizer.json")
    >>> texts = TokenTexts(tokenizer)
    >>> [texts(token) for token in tokenizer.encode_text("oh")]
    [TokenText(text='oh', space=True, kind='text')]
    >>> texts(tokenizer.eos_id).kind
    'end'
    """

    def __init__(self, tokenizer):
        self.backend = tokenizer.backend
        self.end = tokenizer.eos_id
        added = self.backend.added_tokens_decoder
        self.special = {int(token) for token, entry in added.items() if entry.special}
        self._known = {}
        # Many tokenizers drop the space at the beginning of a text: tokens are shown behind one.
        anchor = [token for token in self.backend.encode("a", add_special_tokens=False)][-1:]
        self._anchor = anchor
        self._prefix = self._decode(anchor)

    def __call__(self, token):
        """Shows a token.

        Arguments
        ---------
        token : int

        Returns
        -------
        text : TokenText
        """
        token = int(token)
        if token not in self._known:
            self._known[token] = self._make(token)
        return self._known[token]

    def _make(self, token):
        name = str(self.backend.convert_ids_to_tokens(token))
        if token == self.end:
            return TokenText(printable(name), False, "end")
        if token in self.special:
            return TokenText(printable(name), False, "special")
        if match := _BYTE.fullmatch(name):
            return TokenText(match[1], False, "byte")
        text = self._decode([*self._anchor, token])
        text = text.removeprefix(self._prefix) if text.startswith(self._prefix) else name
        if "\ufffd" in text:
            return TokenText(printable(name), False, "byte")
        shown = printable(text.strip(" "))
        if shown and unicodedata.category(shown[0]).startswith("M"):
            shown = _DOTTED_CIRCLE + shown
        return TokenText(shown, text.startswith(" "), "text")

    def _decode(self, tokens):
        return self.backend.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
