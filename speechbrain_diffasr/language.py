"""The language of an utterance, found in what CTC reads from the projector's frames."""

from typing import NamedTuple

import torch

from speechbrain_diffasr.language_table import NO_TABLE, SMOOTHING

# Fitted on diffasr-tiny by benchmarks/language.py.
TEMPERATURE = 0.9


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
    temperature=TEMPERATURE,
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
        Projected audio, [B, num_slots, D], from `DiffusionASR.encode_batch`.
    table : LanguageTable
        Of the model's tokens, as `DiffusionASR.language_table`.
    languages : list of str, optional
        Those to compare. Default: all of the table.
    temperature : float
        Divides log likelihoods, in which tokens count as if they were independent. Default: as
        fitted on diffasr-tiny.
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
    >>> from speechbrain_diffasr.inference import DiffusionASR, default_model
    >>> asr = DiffusionASR.from_hparams(default_model())
    >>> table = asr.language_table
    >>> wav = asr.load_audio(Path(default_model()) / "samples" / "de_1.wav")
    >>> audio = asr.encode_batch(wav[None], torch.ones(1))
    >>> (found,) = identify_language(asr.mods.decoder, audio, table)
    >>> found.code, found.probability > 0.9
    ('de', True)
    >>> (found,) = identify_language(asr.mods.decoder, audio, table, languages=["en", "fr"])
    >>> sorted(found.probabilities)
    ['en', 'fr']
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: {temperature} is not over 0")
    if chunk_size < 1:
        raise ValueError(f"chunk_size: {chunk_size} is not 1 or more")
    if table is None:
        raise ValueError(f"table: {NO_TABLE}")
    model, prompt = searcher.model, searcher.prompt
    table.check_vocabulary(model.vocab_size)
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
