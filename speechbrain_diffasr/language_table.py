"""How the languages of a model are spelled: what tells them apart when they are heard."""

import json
import os
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from speechbrain_diffasr.utterances import read_rows

# Where a pretrained folder keeps its `LanguageTable`.
LANGUAGE_FILE = "language.safetensors"
NO_TABLE = (
    f"the model's folder has no table of languages ({LANGUAGE_FILE}), so none is found from audio; "
    "name the language, or make a table: diffasr languages --help"
)
# Fitted on diffasr-tiny by benchmarks/language.py.
SMOOTHING = 0.1


class LanguageTable:
    """How often each token occurs in the texts of each language.

    Arguments
    ---------
    counts : torch.Tensor
        Occurrences, [L, V].
    languages : list of str
        Codes, in the order of the counts.

    Raises
    ------
    ValueError
        If there are fewer than two languages, one comes twice, one has no text, or the counts are
        of another number of languages.

    Example
    -------
    >>> table = LanguageTable(torch.tensor([[8, 2, 0, 0], [2, 8, 0, 9]]), ["en", "de"])
    >>> table.weights(smoothing=0.1).shape
    torch.Size([4, 2])
    >>> path = getfixture("tmp_path") / LANGUAGE_FILE
    >>> table.save(path)
    >>> LanguageTable.load(path).languages
    ['en', 'de']
    """

    def __init__(self, counts, languages):
        languages = list(languages)
        if len(languages) < 2 or len(set(languages)) < len(languages):
            raise ValueError(f"languages: expected two or more different codes, not {languages}")
        if counts.ndim != 2 or len(counts) != len(languages):
            raise ValueError(
                f"counts: {list(counts.shape)} are not those of {len(languages)} languages"
            )
        for row, language in zip(counts, languages, strict=True):
            if row.sum() == 0 or row.min() < 0:
                raise ValueError(f"counts: the language {language!r} has no text; leave it out")
        self.counts = counts
        self.languages = languages

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote.

        Arguments
        ---------
        path : str or Path

        Returns
        -------
        table : LanguageTable

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it holds something else.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                # A copy: the tensor is the file, which may be written anew.
                return cls(
                    file.get_tensor("counts").clone(), json.loads(file.metadata()["languages"])
                )
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError):
            raise ValueError(
                f"{path}: not a table of languages; remove it, and make one with diffasr languages"
            ) from None

    def save(self, path):
        """Writes the table as a safetensors file.

        Arguments
        ---------
        path : str or Path
            In a pretrained folder, with the name `LANGUAGE_FILE`.
        """
        metadata = {"languages": json.dumps(self.languages)}
        temporary = Path(f"{path}.tmp")
        save_file({"counts": self.counts.contiguous()}, temporary, metadata)
        temporary.chmod(0o644)  # safetensors writes for the owner only
        os.replace(temporary, path)

    def check_vocabulary(self, vocab_size):
        """Sees whether the table is of a model's vocabulary.

        Arguments
        ---------
        vocab_size : int
            Of the model.

        Raises
        ------
        ValueError
            If it is not.
        """
        if self.counts.shape[1] != vocab_size:
            raise ValueError(
                f"the table counts {self.counts.shape[1]} tokens, the model has {vocab_size}; "
                "remove it, and make one with diffasr languages"
            )

    def weights(self, smoothing=SMOOTHING, languages=None):
        """What a token says for each language, against the mean over languages.

        It is the log of the token's share in the language's texts. Shares are interpolated with
        their mean over languages (Jelinek and Mercer, 1980), so that a token that a language has
        never had costs it no more than log(1 / smoothing). A token that none has says nothing.

        Arguments
        ---------
        smoothing : float
            Weight of the mean, over 0 and at most 1. Default: 0.1.
        languages : list of str, optional
            Those to compare. Default: all.

        Returns
        -------
        weights : torch.Tensor
            In nats, float32 [V, L].

        Raises
        ------
        ValueError
            If the smoothing is outside of this range, or a language is not in the table.
        """
        if not 0 < smoothing <= 1:
            raise ValueError(f"smoothing: {smoothing} is not over 0 and at most 1")
        languages = self.check_languages(languages)
        counts = self.counts[[self.languages.index(language) for language in languages]].float()
        shares = counts / counts.sum(dim=1, keepdim=True)  # [L, V]
        mean = shares.mean(dim=0)
        seen = mean > 0
        logs = torch.zeros_like(shares)
        logs[:, seen] = ((1 - smoothing) * shares + smoothing * mean)[:, seen].log()
        return (logs - logs.mean(dim=0)).T.contiguous()

    def check_languages(self, languages=None):
        """The languages to compare, all of the table if None.

        Arguments
        ---------
        languages : list of str, optional

        Returns
        -------
        languages : list of str

        Raises
        ------
        ValueError
            If one is not in the table, or none is given.
        """
        languages = self.languages if languages is None else list(dict.fromkeys(languages))
        if not languages:
            raise ValueError(f"languages: none is given; choose from {', '.join(self.languages)}")
        for language in languages:
            if language not in self.languages:
                raise ValueError(
                    f"languages: {language!r} cannot be told from audio by this model; "
                    f"choose from {', '.join(self.languages)}"
                )
        return languages


def read_texts(paths):
    """Reads the texts of CSV files.

    Arguments
    ---------
    paths : list of str or Path
        Files with the columns ID, wav, wrd and lang, such as the train.csv of a recipe.

    Returns
    -------
    texts : dict of list of str
        By language, in the order of the files.

    Raises
    ------
    ValueError
        If a file cannot be read, or a line has no language.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> _ = path.write_text("ID,wav,lang,wrd\\na,a.wav,de,guten tag\\nb,b.wav,en,hello\\n")
    >>> read_texts([path])
    {'de': ['guten tag'], 'en': ['hello']}
    """
    texts = {}
    for path in paths:
        for number, row in enumerate(read_rows(path), 2):
            if not row.get("lang"):
                raise ValueError(
                    f"{path}: line {number} has no lang; write the code of its language"
                )
            texts.setdefault(row["lang"], []).append(row["wrd"] or "")
    return texts


def count_languages(texts, tokenizer, vocab_size, table=None, progress=False):
    """Makes a table of languages from the texts that a model was trained on.

    Arguments
    ---------
    texts : dict of list of str
        Transcripts by language, spelled as those that the model was trained on. A language with
        more of them gets no advantage.
    tokenizer : Tokenizer
        Of the model.
    vocab_size : int
        Of the model.
    table : LanguageTable, optional
        What it was trained on before: these languages stay as they are, others are added.
        Default: none.
    progress : bool
        Whether to show a progress bar. Default: False.

    Returns
    -------
    table : LanguageTable or None
        None if there is only one language, which leaves nothing to tell apart.

    Raises
    ------
    ValueError
        If the table is of another vocabulary.

    Example
    -------
    >>> from speechbrain_diffasr.inference import default_model
    >>> from speechbrain_diffasr.tokenizer import Tokenizer
    >>> tokenizer = Tokenizer()
    >>> tokenizer.load(f"{default_model()}/tokenizer.json")
    >>> old = LanguageTable.load(f"{default_model()}/{LANGUAGE_FILE}")
    >>> count_languages({"it": ["buongiorno"]}, tokenizer, 3072, old).languages
    ['en', 'de', 'fr', 'es', 'hi', 'zh', 'it']
    """
    if table is not None:
        table.check_vocabulary(vocab_size)
        texts = {code: lines for code, lines in texts.items() if code not in table.languages}
    counts = _count_tokens(texts, tokenizer, vocab_size, progress)
    # A language whose texts are empty is not a row.
    texts = [language for language, row in zip(texts, counts, strict=True) if row.any()]
    counts = counts[counts.any(dim=1)]
    if table is not None:
        counts = torch.cat([table.counts, counts])
        texts = [*table.languages, *texts]
    return LanguageTable(counts, texts) if len(texts) > 1 else None


def _count_tokens(texts, tokenizer, vocab_size, progress):
    """Occurrences of each token in the texts of each language, [L, V]."""
    counts = torch.zeros(len(texts), vocab_size, dtype=torch.int32)
    total = sum(map(len, texts.values()))
    with tqdm(total=total, unit="text", desc="Languages", disable=not progress) as bar:
        for row, lines in zip(counts, texts.values(), strict=True):
            found = Counter()
            for line in lines:
                # Some tokenizers have a token for spaces alone.
                found.update(tokenizer.encode(line.strip()))
                bar.update()
            row[list(found)] = torch.tensor(list(found.values()), dtype=torch.int32)
    return counts
