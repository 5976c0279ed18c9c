"""Text to tokens and back, as SpeechBrain's decoders expect it."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast


class Tokenizer:
    """A transformers tokenizer with the `decode_ids` that SpeechBrain's interfaces call.

    Arguments
    ---------
    source : str, optional
        Hub name or folder of a transformers tokenizer. Default: `load` is called later, as a
        Pretrainer does.
    eos_token : str
        Ends a transcript and fills the canvas behind it. Default: "<eos>".

    Example
    -------
    >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
    >>> backend = Backend(models.WordLevel({"<eos>": 0, "<unk>": 1, "hello": 2, "you": 3}, "<unk>"))
    >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> path = getfixture("tmp_path") / "tokenizer.json"
    >>> backend.save(str(path))
    >>> tokenizer = Tokenizer()
    >>> tokenizer.load(path)
    >>> tokenizer.encode_text("hello you")
    [2, 3]
    >>> tokenizer.decode_ids([2, 3, 0, 2])
    'hello you'
    """

    def __init__(self, source=None, eos_token="<eos>"):
        self.eos_token = eos_token
        self._backend = AutoTokenizer.from_pretrained(source) if source else None

    def load(self, path):
        """Reads a `tokenizer.json`.

        Arguments
        ---------
        path : str
            File in the format of the tokenizers library.
        """
        self._backend = PreTrainedTokenizerFast(tokenizer_file=str(Path(path)))

    @property
    def backend(self):
        """The transformers tokenizer."""
        if self._backend is None:
            raise ValueError("Tokenizer: nothing is loaded; give source, or call load")
        return self._backend

    def save(self, path):
        """Writes tokenizer.json.

        Arguments
        ---------
        path : str or Path
            Of the file.
        """
        self.backend.backend_tokenizer.save(str(path))

    def __len__(self):
        return len(self.backend)

    @property
    def eos_id(self):
        """The token that ends a transcript."""
        return self.token_id(self.eos_token)

    def token_id(self, token):
        """Finds a special token.

        Arguments
        ---------
        token : str
            Its text, such as "<eos>".

        Returns
        -------
        index : int

        Raises
        ------
        ValueError
            If the vocabulary does not hold it as one token.
        """
        # Not `get_vocab`, which makes a dictionary of the whole vocabulary, nor
        # `convert_tokens_to_ids`, which gives the unknown token.
        index = self.backend.backend_tokenizer.token_to_id(token)
        if index is None:
            raise ValueError(f"the tokenizer has no token {token!r}; set another one in the YAML")
        return index

    def encode(self, text):
        """Tokenizes a prompt: special tokens written in it are recognized, none is added.

        Arguments
        ---------
        text : str

        Returns
        -------
        tokens : list of int
        """
        return self.backend.encode(text, add_special_tokens=False)

    def encode_text(self, text):
        """Tokenizes what is said: "<eos>" and the like, which a corpus may hold, are text in it.

        Arguments
        ---------
        text : str

        Returns
        -------
        tokens : list of int
        """
        return self.backend.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode_ids(self, tokens):
        """Turns tokens up to the first end-of-text into text.

        Arguments
        ---------
        tokens : list of int

        Returns
        -------
        text : str
        """
        tokens = [int(token) for token in tokens]
        if self.eos_id in tokens:
            tokens = tokens[: tokens.index(self.eos_id)]
        text = self.backend.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return " ".join(text.split())
