"""Texts that others wrote of an utterance, for a canvas to start from."""

import unicodedata
from itertools import pairwise

from speechbrain_diffasr.decoders.canvas import Guess
from speechbrain_diffasr.text.spacing import join_texts

# Share of tokens with capitals that a model has which writes none but in the names of languages.
FEW_CAPITALS = 0.02


def make_guesses(drafts, tokenizer):
    """Turns texts into what canvases start from, spelled as the model spells.

    Arguments
    ---------
    drafts : str, list of str, or list of list
        A text; several, the best first, for as many candidates; or instead of a text its words,
        as pairs of a text and how sure it is, from 0 to 1.
    tokenizer : Tokenizer

    Returns
    -------
    guesses : tuple of Guess

    Raises
    ------
    ValueError
        If a draft is nothing of the kind.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> tokenizer = DiffusionASR.from_hparams(shipped_model("diffasr-tiny")).tokenizer
    >>> (guess,) = make_guesses("Oh, there he is.", tokenizer)
    >>> tokenizer.decode_ids(guess.tokens), guess.confidences
    ('oh there he is', None)
    >>> (guess,) = make_guesses([[("oh", 0.9), ("there", 0.4)]], tokenizer)
    >>> guess.confidences
    [0.9, 0.4]
    """
    drafts = [drafts] if isinstance(drafts, str) else drafts
    spell = Speller(tokenizer)
    guesses = []
    for draft in drafts:
        try:
            if isinstance(draft, str):
                guesses.append(Guess(tokenizer.encode_text(spell(draft))))
                continue
            pairs = [(spell(text), float(sure)) for text, sure in draft]
        except (TypeError, ValueError):
            raise ValueError(
                f"draft: {draft!r} is no text, and no words as pairs of text and confidence"
            ) from None
        guesses.append(_from_words([pair for pair in pairs if pair[0]], tokenizer))
    return tuple(guesses)


class Speller:
    """Spells a text as a model does that writes no capitals, or no punctuation.

    Curved apostrophes become straight ones, and dashes spaces, where only those have a token.

    Arguments
    ---------
    tokenizer : Tokenizer
        Whose tokens tell what it writes.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> spell = Speller(DiffusionASR.from_hparams(shipped_model("diffasr-tiny")).tokenizer)
    >>> spell("It's  Émile, isn’t it? The well-known one.")
    "it's émile isn't it the well known one"
    """

    def __init__(self, tokenizer):
        backend = tokenizer.backend
        special = set(backend.all_special_ids)
        pieces = backend.convert_ids_to_tokens(
            [index for index in range(len(tokenizer)) if index not in special]
        )
        # Pieces in angle brackets are single bytes or unused ones.
        pieces = [piece for piece in pieces if piece and not piece.startswith("<")]
        self.letters = set("".join(pieces))
        capital = sum(any(map(str.isupper, piece)) for piece in pieces)
        self.has_capitals = capital > FEW_CAPITALS * len(pieces)

    def __call__(self, text):
        """The text, without the punctuation that no token has."""
        text = text if self.has_capitals else text.lower()
        return " ".join("".join(map(self._spell, text)).split())

    def _spell(self, letter):
        category = unicodedata.category(letter)
        if letter in self.letters or category[0] not in "PS":
            return letter
        if letter == "’" and "'" in self.letters:
            return "'"
        return " " if category == "Pd" else ""


def _from_words(pairs, tokenizer):
    """A guess whose words are not equally sure."""
    words = [text for text, _ in pairs]
    text = join_texts(words)
    tokens, confidences = tokenizer.encode_text(text), []
    # A token belongs to the word in which the text before it and its own ends.
    ends = [len(join_texts(words[: count + 1])) for count in range(len(words))]
    reached = [len(tokenizer.decode_ids(tokens[:count])) for count in range(len(tokens) + 1)]
    place = len(ends) - 1
    for before, now in reversed(list(pairwise(reached))):
        # A space by itself, which decoding leaves out at the end, belongs to what follows it.
        if now != before:
            place = next((index for index, end in enumerate(ends) if now <= end), len(ends) - 1)
        confidences.append(pairs[place][1])
    return Guess(tokens, confidences[::-1])
