"""One pass of training through the language model: the diffusion and autoregressive losses."""

import torch

from speechbrain_diffasr.decoders.canvas import corrupt_canvas, fill_canvas
from speechbrain_diffasr.losses import AutoregressiveLoss, DiffusionLoss

IGNORED = -100


def next_tokens(sequence, lengths, transcript_lens):
    """Targets of the causal encoder: each position of the transcript from those before it.

    Arguments
    ---------
    sequence : torch.Tensor
        Prompts with their transcripts, [B, T].
    lengths : torch.Tensor
        Length of each prompt, [B].
    transcript_lens : torch.Tensor
        Length of each transcript, [B].

    Returns
    -------
    targets : torch.Tensor
        Shifted by one, `IGNORED` outside the transcript, [B, T].

    Example
    -------
    >>> next_tokens(torch.tensor([[9, 9, 4, 5, 0]]), torch.tensor([2]), torch.tensor([2]))
    tensor([[-100,    4,    5, -100, -100]])
    """
    targets = torch.roll(sequence, -1, dims=1)
    place = torch.arange(sequence.shape[1], device=sequence.device)
    first = lengths[:, None] - 1
    inside = (place >= first) & (place < first + transcript_lens[:, None])
    return targets.masked_fill(~inside, IGNORED)


class LanguageModelLosses:
    """Trains both halves of a DiffusionGemma in one pass over prompt and transcript.

    The causal encoder reads the prompt with its audio and the transcript behind it, and is asked
    for the next token; the decoder sees the prompt only, and is asked for the clean canvas.
    Recipe of the released model: corruption uniform over the vocabulary at a rate drawn per
    example, self-conditioning on a first guess without gradient for some of the examples.

    Arguments
    ---------
    model : DiffusionGemma
        The language model.
    prompt : AudioPrompt
        Builds the prompts.
    canvas_length : int
        Tokens of a canvas.
    self_conditioning : float
        Share of examples that see a first guess. Default: 0.5.
    open_language : float
        Share of examples whose prompt names no language, so that both ways work. Default: 0.5.
    min_rate, max_rate : float
        Range of the corruption rate. Default: 0.001 to 1.
    chunk_size : int
        Rows of logits in memory at once. Default: 1024.
    compile : bool
        Whether to compile the pass through the model, with all sequences padded to the longest
        that there can be. Worth it for small models, which launches would slow down.
        Default: False.

    Example
    -------
    >>> from speechbrain_diffasr.inference import DiffusionASR, default_model
    >>> asr = DiffusionASR.from_hparams(default_model())
    >>> searcher = asr.mods.decoder
    >>> losses = LanguageModelLosses(searcher.model, searcher.prompt, canvas_length=16)
    >>> audio = asr.encode_batch(torch.rand(2, 16000), torch.ones(2))
    >>> diffusion, autoregressive = losses(audio, ["en", "de"], [[300, 301], [302]])
    >>> diffusion.shape
    torch.Size([])
    """

    def __init__(
        self,
        model,
        prompt,
        canvas_length,
        self_conditioning=0.5,
        open_language=0.5,
        min_rate=0.001,
        max_rate=1.0,
        chunk_size=1024,
        compile=False,
    ):
        self.model = model
        self.prompt = prompt
        self.canvas_length = canvas_length
        self.self_conditioning = self_conditioning
        self.open_language = open_language
        self.min_rate, self.max_rate = min_rate, max_rate
        self.diffusion = DiffusionLoss(chunk_size)
        self.autoregressive = AutoregressiveLoss(chunk_size, IGNORED)
        self.compile = compile
        self.compiled_run = torch.compile(self._run, dynamic=False)

    def __call__(self, audio, languages, tokens):
        """Computes both losses.

        Arguments
        ---------
        audio : torch.Tensor
            Projected audio, [B, num_slots, D].
        languages : list
            A code or None for each utterance.
        tokens : list of list of int
            Transcripts.

        Returns
        -------
        diffusion, autoregressive : torch.Tensor
            Scalars, in nats per token.
        """
        device, model, eos = audio.device, self.model, self.prompt.tokenizer.eos_id
        dice = torch.rand(len(languages)).tolist()
        languages = [
            None if chance < self.open_language else language
            for chance, language in zip(dice, languages, strict=True)
        ]
        transcripts = [[*row, eos] for row in tokens]
        compiled = self.compile and torch.is_grad_enabled()
        length = self._longest() if compiled else None
        sequence, lengths = self.prompt(languages, transcripts, device, length)
        canvas = fill_canvas(tokens, self.canvas_length, eos, device)
        noisy, _, _ = corrupt_canvas(
            canvas, model.vocab_size, min_rate=self.min_rate, max_rate=self.max_rate
        )
        informed = torch.rand(len(tokens), device=device) < self.self_conditioning
        run = self.compiled_run if compiled else self._run
        hidden, denoised = run(audio, sequence, lengths, noisy, informed)

        transcript_lens = torch.tensor([len(row) for row in transcripts]).to(device)
        targets = next_tokens(sequence, lengths, transcript_lens)
        autoregressive = self.autoregressive(hidden, model.head, targets)
        return self.diffusion(denoised, model.head, canvas), autoregressive

    def _run(self, audio, sequence, lengths, noisy, informed):
        """Hidden states of the encoder [B, T, D] and of the decoder [B, C, D]."""
        model = self.model
        embeddings = self.prompt.scatter(model.embed(sequence), audio)
        hidden, context = model.encode(embeddings, lengths)
        guess = None
        if self.self_conditioning > 0:
            with torch.no_grad():
                guess = model.logits(model.denoise(noisy, context)).to(embeddings.dtype)
        return hidden, model.denoise(noisy, context, guess, informed)

    def _longest(self):
        """Tokens of the longest prompt with the longest transcript behind it."""
        languages = [None, *self.prompt.languages]
        return max(len(self.prompt.tokens(one)) for one in languages) + self.canvas_length + 1
