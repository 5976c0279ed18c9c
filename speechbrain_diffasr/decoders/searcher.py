"""From projected audio to tokens, behind the interface of SpeechBrain's searchers."""

from dataclasses import dataclass

import torch
from torch import nn

from speechbrain_diffasr.decoders.sampler import Sample


@dataclass(frozen=True)
class Hypotheses:
    """What a search found.

    Arguments
    ---------
    tokens : list of list of int
        Of each utterance, without the end-of-text token and what follows it.
    sample : Sample
        The whole canvases, [B, C].
    """

    tokens: list
    sample: Sample


class DiffusionSearcher(nn.Module):
    """Transcribes projected audio by denoising a canvas behind the prompt.

    Arguments
    ---------
    model : DiffusionGemma
        The language model.
    prompt : AudioPrompt
        Builds the prompt and knows the slots.
    sampler : EntropyBoundSampler
        The denoising loop.
    language : str, optional
        Code of the language that is spoken. Default: the prompt names none.

    Example
    -------
    >>> from speechbrain_diffasr.inference import DiffusionASR, default_model
    >>> asr = DiffusionASR.from_hparams(default_model())  # doctest: +ELLIPSIS
    >>> audio = asr.encode_batch(torch.rand(2, 16000), torch.ones(2))
    >>> tokens, lengths, scores, log_probs = asr.mods.decoder(audio)
    >>> len(tokens), list(lengths.shape), list(scores.shape)
    (2, [2], [2])
    """

    def __init__(self, model, prompt, sampler, language=None):
        super().__init__()
        self.model = model
        self.prompt = prompt
        self.sampler = sampler
        self.language = language

    def search(self, audio, languages=None, seeds=None, steps=None, callback=None):
        """Transcribes a batch.

        Arguments
        ---------
        audio : torch.Tensor
            Projected audio, [B, num_slots, D].
        languages : list, optional
            A code or None for each utterance. Default: the searcher's own for all.
        seeds : list, optional
            A seed or None for each utterance. Default: the sampler's own for all.
        steps : int, optional
            Denoising steps at most. Default: the sampler's own.
        callback : callable, optional
            Is given a `Draft` after every step.

        Returns
        -------
        hypotheses : Hypotheses
        """
        batch = len(audio)
        languages = [self.language] * batch if languages is None else languages
        seeds = [None] * batch if seeds is None else seeds
        with torch.no_grad():
            tokens, lengths = self.prompt(languages, device=audio.device)
            embeddings = self.prompt.scatter(self.model.embed(tokens), audio)
            _, context = self.model.encode(embeddings, lengths)

            def predict(canvas, previous):
                if previous is not None:
                    previous = previous.to(embeddings.dtype)
                return self.model.logits(self.model.denoise(canvas, context, previous))

            sample = self.sampler(
                predict,
                vocab_size=self.model.vocab_size,
                seeds=seeds,
                device=audio.device,
                steps=steps,
                callback=callback,
            )
        return Hypotheses([self._until_end(row) for row in sample.tokens.tolist()], sample)

    def _until_end(self, tokens):
        """Cuts a canvas at its first end-of-text token."""
        end = self.prompt.tokenizer.eos_id
        return tokens[: tokens.index(end)] if end in tokens else tokens

    def forward(self, audio, wav_lens=None):
        """Transcribes a batch as SpeechBrain's searchers do.

        Arguments
        ---------
        audio : torch.Tensor
            Projected audio, [B, num_slots, D].
        wav_lens : torch.Tensor, optional
            Relative lengths, [B]. Not needed: silence fills the slots behind the audio, here as
            in training.

        Returns
        -------
        tokens : list of list of int
            Of each utterance.
        lengths : torch.Tensor
            Their number, [B].
        scores : torch.Tensor
            Sum of their log probabilities, [B].
        log_probs : torch.Tensor
            Log probability of each token of the canvas, [B, C].
        """
        hypotheses = self.search(audio)
        log_probs = hypotheses.sample.log_probs
        lengths = torch.tensor([len(row) for row in hypotheses.tokens], device=log_probs.device)
        inside = torch.arange(log_probs.shape[1], device=log_probs.device) < lengths[:, None]
        return hypotheses.tokens, lengths, (log_probs * inside).sum(dim=1), log_probs
