"""The language of an utterance, found from its audio."""

import json
from collections import Counter
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from speechbrain_diffasr.utils.atomic import replacing

# Where a pretrained folder keeps its `LanguageTable`.
LANGUAGE_FILE = "language.safetensors"
NO_TABLE = (
    f"the model's folder has no table of languages ({LANGUAGE_FILE}), so none is found from audio; "
    "name the language, or make a table: diffasr languages --help"
)
# Fitted on diffasr-tiny by benchmarks/language.py.
SMOOTHING = 0.1
TEMPERATURE = 0.9


def _check_temperature(temperature):
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: {temperature} is not over 0")


class LanguageTable:
    """How often each token occurs in the texts of each language.

    Arguments
    ---------
    counts : torch.Tensor
        Occurrences, [L, V].
    languages : list of str
        Codes, in the order of the counts.
    temperature : float
        Of the probabilities that `identify_language` gives for a model, fitted by
        benchmarks/language.py: the better CTC hears, the more tokens say the same. Default: that
        of diffasr-tiny.

    Raises
    ------
    ValueError
        If there are fewer than two languages, one comes twice, one has no text, the counts are of
        another number of languages, or the temperature is not over 0.

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

    def __init__(self, counts, languages, temperature=TEMPERATURE):
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
        _check_temperature(temperature)
        self.counts = counts
        self.languages = languages
        self.temperature = temperature

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
                languages = json.loads(file.metadata()["languages"])
                # A copy: the tensor is the file, which may be written anew.
                counts = file.get_tensor("counts").clone()
                temperature = TEMPERATURE
                if "temperature" in file.keys():  # noqa: SIM118, it is no dict
                    temperature = float(file.get_tensor("temperature"))
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}: not a table of languages; remove it, and make one with diffasr languages"
            ) from None
        return cls(counts, languages, temperature)

    def save(self, path):
        """Writes the table as a safetensors file.

        Arguments
        ---------
        path : str or Path
            In a pretrained folder, with the name `LANGUAGE_FILE`.
        """
        metadata = {"languages": json.dumps(self.languages)}
        temperature = torch.tensor(self.temperature, dtype=torch.float64)
        tensors = {"counts": self.counts.contiguous(), "temperature": temperature}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)
            temporary.chmod(0o644)  # safetensors writes for the owner only

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
    >>> from speechbrain_diffasr import shipped_model
    >>> from speechbrain_diffasr.lobes import Tokenizer
    >>> tokenizer = Tokenizer()
    >>> tokenizer.load(f"{shipped_model('diffasr-tiny')}/tokenizer.json")
    >>> old = LanguageTable.load(f"{shipped_model('diffasr-tiny')}/{LANGUAGE_FILE}")
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
    if len(texts) < 2:
        return None
    return LanguageTable(counts, texts, TEMPERATURE if table is None else table.temperature)


def _count_tokens(texts, tokenizer, vocab_size, progress):
    """Occurrences of each token in the texts of each language, [L, V]."""
    counts = torch.zeros(len(texts), vocab_size, dtype=torch.int32)
    total = sum(map(len, texts.values()))
    with tqdm(total=total, unit="text", desc="Languages", disable=not progress) as bar:
        for row, lines in zip(counts, texts.values(), strict=True):
            found = Counter()
            for line in lines:
                # Some tokenizers have a token for spaces alone.
                found.update(tokenizer.encode_text(line.strip()))
                bar.update()
            row[list(found)] = torch.tensor(list(found.values()), dtype=torch.int32)
    return counts


class FoundLanguage(NamedTuple):
    """The language of an utterance.

    Arguments
    ---------
    code : str
        Of the most probable language.
    probability : float
        From 0 to 1.
    probabilities : dict of float
        Of every language that was compared, by code; they sum up to 1.
    """

    code: str
    probability: float
    probabilities: dict


@torch.no_grad()
def identify_language(
    searcher,
    audio,
    table,
    languages=None,
    temperature=None,
    smoothing=SMOOTHING,
    chunk_size=256,
):
    """Finds the language of each utterance from its projected audio, before any decoding.

    CTC gives each frame a distribution over the vocabulary. Summed over frames it tells how often
    each token is expected, and the table how often each language has that token: together the
    log likelihood of a language under a bag of tokens. Languages are as probable as each other
    beforehand, and stay nearly so where CTC hears blanks only, as in silence.

    `benchmarks/language.py` measures it, and why it is not the prompt that is varied.

    Arguments
    ---------
    searcher : DiffusionSearcher
        Whose language model has the output layer, and whose prompt the blank.
    audio : torch.Tensor
        Projected audio, [B, num_frames, D], from `DiffusionASR.encode_batch`.
    table : LanguageTable
        Of the model's tokens, as `DiffusionASR.language_table`.
    languages : list of str, optional
        Those to compare. Default: all of the table.
    temperature : float, optional
        Divides log likelihoods, in which tokens count as if they were independent. Default: that
        of the table.
    smoothing : float
        See `LanguageTable.weights`.
    chunk_size : int
        Frames whose logits are in memory at once. Default: 256 (0.25 GiB in float32 at 262,144
        tokens).

    Returns
    -------
    found : list of FoundLanguage
        Of each utterance; that of one does not depend on the others.

    Raises
    ------
    ValueError
        If there is no table, it is of another vocabulary, a language is not in it, or a number is
        out of range.

    Example
    -------
    >>> from pathlib import Path
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> table = asr.language_table
    >>> wav = asr.load_audio(Path(shipped_model("diffasr-tiny")) / "samples" / "de_1.wav")
    >>> audio = asr.encode_batch(wav[None], torch.ones(1))
    >>> (found,) = identify_language(asr.mods.decoder, audio, table)
    >>> found.code, found.probability > 0.9
    ('de', True)
    >>> (found,) = identify_language(asr.mods.decoder, audio, table, languages=["en", "fr"])
    >>> sorted(found.probabilities)
    ['en', 'fr']
    """
    if temperature is not None:
        _check_temperature(temperature)
    if chunk_size < 1:
        raise ValueError(f"chunk_size: {chunk_size} is not 1 or more")
    if table is None:
        raise ValueError(f"table: {NO_TABLE}")
    model, prompt = searcher.model, searcher.prompt
    table.check_vocabulary(model.vocab_size)
    temperature = temperature or table.temperature
    languages = table.check_languages(languages)
    weights = table.weights(smoothing, languages).to(audio.device)  # [V, L]
    weights[prompt.tokenizer.token_id(prompt.slot_token)] = 0.0  # the blank
    dtype = model.head.weight.dtype
    found = []
    for frames in audio:  # one by one: shapes, and so rounding, are the same in every batch
        chunks = [
            model.logits(chunk).softmax(dim=-1) @ weights
            for chunk in frames.to(dtype).split(chunk_size)
        ]
        scores = torch.cat(chunks).sum(dim=0)  # [L]
        chances = (scores.double().cpu() / temperature).softmax(dim=0).tolist()
        best = max(range(len(languages)), key=chances.__getitem__)
        probabilities = dict(zip(languages, chances, strict=True))
        found.append(FoundLanguage(languages[best], chances[best], probabilities))
    return found
