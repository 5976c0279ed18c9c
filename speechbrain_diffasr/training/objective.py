"""One pass of training through the recognizer: what is drawn at random, and the three losses."""

import zlib
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from speechbrain_diffasr.decoders.canvas import corrupt_canvas, fill_canvas, round_up
from speechbrain_diffasr.decoders.ctc import read_canvas
from speechbrain_diffasr.kernels.vocabulary import read_logits
from speechbrain_diffasr.training.losses import AutoregressiveLoss, CTCLoss, DiffusionLoss

IGNORED = -100
# Not cuDNN's, which plans anew for every shape: 10 ms a call, and seconds for the first ones.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


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

    Such a canvas is unlike those that a sampler makes, where the errors are the model's own and
    noise is left where it is unsure. `unrolled` examples therefore get, for the pass that is
    trained, the canvas that the sampler would make of the first guess (step-unrolled denoising;
    Savinov et al., https://arxiv.org/abs/2112.06749).

    Arguments
    ---------
    model : DiffusionGemma
        The language model.
    prompt : AudioPrompt
        Builds the prompts.
    sampler : EntropyBoundSampler
        What canvases are decoded by; also says how many tokens they have.
    self_conditioning : float
        Share of examples that see a first guess. Default: 0.5.
    unrolled : float
        Share of examples that see a first guess and the sampler's canvas of it, at most
        `self_conditioning`. Default: 0.
    open_language : float
        Share of examples whose prompt names no language, so that both ways work. Default: 0.5.
    min_rate, max_rate : float
        Range of the corruption rate. Default: 0.001 to 1.
    drafted : float
        Share of examples whose canvas is not their transcript but what CTC reads of their audio,
        corrupted: for decoding that starts from it. Default: 0.
    draft_rate : float
        Largest corruption rate of these. Default: 0.3.
    blank : int, optional
        Token of a slot in which nothing is said; `drafted` needs it.
    chunk_size : int
        Rows of logits in memory at once. Default: 1024.
    compile : bool
        Whether to compile the model's layers, with all sequences padded to the longest that there
        can be. Worth it for small models, which launches would slow down. Default: False.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> searcher = asr.mods.decoder
    >>> losses = LanguageModelLosses(searcher.model, searcher.prompt, searcher.sampler)
    >>> audio = asr.encode_batch(torch.rand(2, 16000), torch.ones(2))
    >>> diffusion, autoregressive = losses(audio, ["en", "de"], [[300, 301], [302]])
    >>> diffusion.shape
    torch.Size([])
    """

    def __init__(
        self,
        model,
        prompt,
        sampler,
        self_conditioning=0.5,
        unrolled=0.0,
        open_language=0.5,
        min_rate=0.001,
        max_rate=1.0,
        drafted=0.0,
        draft_rate=0.3,
        blank=None,
        chunk_size=1024,
        compile=False,
    ):
        self.model = model
        self.prompt = prompt
        self.sampler = sampler
        self.canvas_length = sampler.canvas_length
        if not 0 <= unrolled <= self_conditioning <= 1:
            raise ValueError(
                f"unrolled: {unrolled}; expected a share of the examples that see a first guess "
                f"(self_conditioning: {self_conditioning})"
            )
        self.self_conditioning = self_conditioning
        self.unrolled = unrolled
        self.open_language = open_language
        self.min_rate, self.max_rate = min_rate, max_rate
        if drafted > 0 and blank is None:
            raise ValueError(f"drafted: {drafted}; what CTC reads needs blank")
        self.drafted, self.draft_rate, self.blank = drafted, draft_rate, blank
        self.rows = chunk_size
        self.diffusion = DiffusionLoss(chunk_size)
        self.autoregressive = AutoregressiveLoss(chunk_size, IGNORED)
        self.layers = CompiledLayers(model) if compile else None

    def __call__(self, audio, languages, tokens, seeds=None, filled=None, window=None):
        """Computes both losses.

        Arguments
        ---------
        audio : torch.Tensor
            Projected audio, [B, num_frames, D]; with `filled`, of fewer frames if no utterance of
            such a batch can fill more.
        languages : list
            A code or None for each utterance.
        tokens : list of list of int
            Transcripts.
        seeds : list of int, optional
            Of all that is drawn at random for each utterance: corruption, whether it sees a first
            guess, whether its language is named. Default: torch's own generator decides.
        filled : list of int, optional
            Frames that the audio of each fills. If given, the batch is as decoding with
            `trim_slots` and `tokens_per_second` makes it: with slots for the audio only, unless
            the prompt chooses what has one, and canvases of any length that holds the transcript.
        window : int, optional
            Frames of such a batch at most, if its audio was chosen already: it is then
            [B, num_slots, D], of which each fills `filled`.

        Returns
        -------
        diffusion, autoregressive : torch.Tensor
            Scalars, in nats per token.
        """
        device, model, eos = audio.device, self.model, self.prompt.tokenizer.eos_id
        generators = None
        if seeds is not None:
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        dice = _rand(len(tokens), 2, generators)  # [B, 2]
        languages = [
            None if chance < self.open_language else language
            for chance, language in zip(dice[:, 0].tolist(), languages, strict=True)
        ]
        transcripts = [[*row, eos] for row in tokens]
        compiled = self.layers is not None and torch.is_grad_enabled()
        chooses = self.prompt.most_blank is not None
        most_frames = window or audio.shape[1]
        width, length = self.canvas_length, None
        if compiled:
            width = self._widest(most_frames, tokens)
            longest = self._longest(self.prompt.num_slots if chooses else most_frames)
            length = round_up(longest + width + 1)
        frames = audio
        canvas_lens, slots, filled_frames = None, None, None
        if filled is not None:
            filled_frames = [max(1, min(own, audio.shape[1])) for own in filled]
            canvas_lens = self._trim(tokens, generators, width)
            width = width if compiled else int(canvas_lens.max())
            if not chooses:
                slots = filled_frames
                audio = torch.nn.functional.pad(
                    audio, (0, 0, 0, self.prompt.num_slots - most_frames)
                )
            canvas_lens, filled_frames = canvas_lens.to(device), torch.tensor(filled_frames)
        sequence, lengths = self.prompt(languages, transcripts, device, length, slots)
        if filled_frames is None:
            filled_frames = torch.full((len(tokens),), audio.shape[1])
        filled_frames = filled_frames.to(device)
        if chooses and window is None:
            audio, slots = self.prompt.choose(audio, model.head, filled_frames, self.rows)
        elif filled is not None:
            slots = filled_frames
        canvas = fill_canvas(tokens, width, eos, device)
        noisy, _, _ = corrupt_canvas(
            canvas, model.vocab_size, generators, self.min_rate, self.max_rate
        )
        if self.drafted > 0:
            is_draft = _rand(len(tokens), 1, generators) < self.drafted
            draft = self._read(frames, filled_frames, width, generators)
            noisy = torch.where(is_draft.to(device), draft, noisy)
        informed = (dice[:, 1] < self.self_conditioning).to(device)
        step = None
        if self.unrolled > 0:
            step = (dice[:, 1] < self.unrolled).to(device), *self._draw_step(canvas, generators)
        with sdpa_kernel(ATTENTION), self.layers if compiled else nullcontext():
            hidden, denoised = self._run(
                audio, sequence, lengths, noisy, informed, step, slots, canvas_lens
            )
        if canvas_lens is not None:
            canvas = canvas.masked_fill(~_inside(canvas_lens, canvas.shape[1]), IGNORED)

        transcript_lens = torch.tensor([len(row) for row in transcripts]).to(device)
        targets = next_tokens(sequence, lengths, transcript_lens)
        autoregressive = self.autoregressive(hidden, model.head, targets)
        return self.diffusion(denoised, model.head, canvas), autoregressive

    def _trim(self, tokens, generators, most):
        """Tokens of each canvas, [B]: half are as long as the longest of the batch."""
        dice = _rand(len(tokens), 2, generators)
        least = torch.tensor([len(row) + 1.0 for row in tokens])
        # Hardly longer than its transcripts, mostly: decoding does not ask for more.
        longest = least.max() * (most / least.max()) ** dice[0, 0] ** 2
        own = least + (longest - least) * (2 * dice[:, 1]).clamp(max=1.0)
        return own.floor().long().clamp(max=most)

    def _read(self, audio, lengths, width, generators):
        """What CTC reads, corrupted, [B, C]."""
        model = self.model
        eos = self.prompt.tokenizer.eos_id
        canvas = read_canvas(audio, model.head, self.blank, lengths, width, eos, self.rows)
        return corrupt_canvas(canvas, model.vocab_size, generators, 0.0, self.draft_rate)[0]

    def _draw_step(self, canvas, generators):
        """What a step of the sampler draws: temperatures [B], uniforms and fresh tokens [B, C]."""
        batch, length = canvas.shape
        dice = _rand(batch, 1 + 2 * length, generators, canvas.device)
        # Somewhere between the sampler's first step and its last.
        temperature = self.sampler.temperature(dice[:, 0], 1)
        fresh = (dice[:, 1 + length :] * self.model.vocab_size).to(canvas.dtype)
        return temperature, dice[:, 1 : 1 + length], fresh

    def _run(self, audio, sequence, lengths, noisy, informed, step, slots=None, canvas_lens=None):
        """Hidden states of the encoder [B, T, D] and of the decoder [B, C, D]."""
        model = self.model
        embeddings = self.prompt.scatter(model.embed(sequence), audio, slots)
        hidden, context = model.encode(embeddings, lengths)
        guess = None
        if self.self_conditioning > 0:
            with torch.no_grad():
                first = model.denoise(noisy, context, lengths=canvas_lens)
                guess = model.logits(first).to(embeddings.dtype)
                if step is not None:
                    unrolled = step[0]
                    stepped, scaled = self._step(guess, canvas_lens, *step[1:])
                    noisy = torch.where(unrolled[:, None], stepped, noisy)
                    guess = torch.where(unrolled[:, None, None], scaled, guess)
        return hidden, model.denoise(noisy, context, guess, informed, canvas_lens)

    def _step(self, guess, canvas_lens, temperature, uniforms, fresh):
        """What the sampler makes of logits [B, C, V]: the next canvas [B, C], and what it reads."""
        rows = max(1, self.rows // guess.shape[1])  # utterances at once, for memory
        canvas = []
        inside = torch.ones_like(fresh, dtype=torch.bool)
        if canvas_lens is not None:
            inside = _inside(canvas_lens, guess.shape[1])
        parts = (x.split(rows) for x in (guess, temperature, uniforms, fresh, inside))
        for *part, noise, is_canvas in zip(*parts, strict=True):
            predictions = read_logits(*part)
            accepted = self.sampler.accept(predictions.entropy.masked_fill(~is_canvas, torch.inf))
            canvas.append(self.sampler.renoise(predictions.proposals, accepted, noise))
        scaled = (guess / temperature[:, None, None]).to(guess.dtype)
        return torch.cat(canvas), scaled

    def _longest(self, slots):
        """Tokens of the longest prompt."""
        languages = [None, *self.prompt.languages]
        return max(len(self.prompt.tokens(one, slots)) for one in languages)

    def _widest(self, frames, tokens):
        """Tokens of all canvases for so many frames, unless some transcript is longer."""
        if frames < self.prompt.num_frames:
            width = round_up(self.canvas_length * frames / self.prompt.num_frames)
            if max(map(len, tokens)) < width < self.canvas_length:
                return width
        return self.canvas_length


class CompiledLayers:
    """A context in which the layers of a language model run compiled, each by itself.

    For the shapes that they see: a model of few sizes is compiled in a minute or two on a GPU,
    and again in seconds from the compiler's cache.

    Arguments
    ---------
    model : DiffusionGemma
    backend : str
        Of torch.compile. Default: "inductor".
    """

    # Of one layer's code; each layer, shape and half has its own.
    most_versions = 256

    def __init__(self, model, backend="inductor"):
        gemma = model.core.model
        layers = [*gemma.encoder.language_model.layers, *gemma.decoder.layers]
        self.forwards = [
            (layer, torch.compile(layer.forward, dynamic=False, backend=backend))
            for layer in layers
        ]
        self.limits = torch._dynamo.config.patch(
            recompile_limit=self.most_versions, accumulated_recompile_limit=self.most_versions
        )

    def __enter__(self):
        self.limits.__enter__()
        for layer, forward in self.forwards:
            layer.forward = forward

    def __exit__(self, *error):
        for layer, _ in self.forwards:
            del layer.forward
        self.limits.__exit__(*error)


class RecognizerLosses(torch.nn.Module):
    """From audio to the three losses: all that is trained, as one module.

    Distributed training synchronizes gradients where a module's forward is called; this is that
    module. Its means are taken over the batches of all processes, so that two processes learn
    what one with twice the batch does.

    Arguments
    ---------
    encoder : torch.nn.Module
        Its `whisper` turns waveforms into frames, its `projector` frames into audio embeddings.
    decoder : DiffusionSearcher
        Holds the language model and its prompt.
    blank : int
        Token of a slot in which nothing is said.
    chunk_size : int
        Rows of logits in memory at once. Default: 1024.
    **settings : dict
        For `LanguageModelLosses`.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> blank = asr.tokenizer.token_id("<|audio|>")
    >>> losses = RecognizerLosses(asr.mods.encoder, asr.mods.decoder, blank)
    >>> audio = losses.embed_audio(torch.rand(2, 16000), torch.ones(2))
    >>> parts = losses.from_audio(audio, ["en", "de"], [[300, 301], [302]], seeds=[1, 2])
    >>> sorted(parts)
    ['autoregressive', 'ctc', 'diffusion', 'infeasible']
    """

    def __init__(self, encoder, decoder, blank, chunk_size=1024, **settings):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.ctc = CTCLoss(blank, chunk_size)
        self.language_model = LanguageModelLosses(
            decoder.model,
            decoder.prompt,
            decoder.sampler,
            blank=blank,
            chunk_size=chunk_size,
            **settings,
        )

    def embed_audio(self, wavs=None, wav_lens=None, frames=None):
        """Audio embeddings of waveforms, or of frames that were encoded before.

        Arguments
        ---------
        wavs : torch.Tensor, optional
            [B, T].
        wav_lens : torch.Tensor, optional
            Relative to the longest, [B].
        frames : torch.Tensor, optional
            What the Whisper encoder makes of the waveforms, [B, frames, width]; given instead.

        Returns
        -------
        audio : torch.Tensor
            [B, num_frames, D].
        """
        if frames is not None:
            return self.encoder.projector(frames)
        return self.encoder(wavs, wav_lens)

    def forward(self, languages, tokens, seeds=None, filled=None, **audio):
        """Computes the losses of a batch.

        Arguments
        ---------
        languages : list
            A code or None for each utterance.
        tokens : list of list of int
            Transcripts.
        seeds : list of int, optional
            Of all that is drawn at random for each utterance.
        filled : list of int, optional
            Frames that the audio of each fills.
        **audio : dict
            For `embed_audio`.

        Returns
        -------
        parts : dict
            As `from_audio` gives them.
        """
        return self.from_audio(self.embed_audio(**audio), languages, tokens, seeds, filled)

    def from_audio(self, audio, languages, tokens, seeds=None, filled=None):
        """Computes the losses of audio embeddings.

        Arguments
        ---------
        audio : torch.Tensor
            [B, num_frames, D].
        languages, tokens, seeds, filled
            As for `forward`.

        Returns
        -------
        parts : dict
            Scalars: diffusion (nats per position), autoregressive and ctc (nats per token), and
            how many transcripts were infeasible, too long for the frames.
        """
        diffusion, autoregressive = self.language_model(audio, languages, tokens, seeds, filled)
        lens = torch.tensor([len(row) for row in tokens])
        targets = pad_sequence([torch.tensor(row, dtype=torch.long) for row in tokens], True)
        frames = torch.full_like(lens, audio.shape[1])
        ctc, infeasible = self.ctc(
            audio,
            self.decoder.model.head,
            targets.to(audio.device),
            frames.to(audio.device),
            lens.to(audio.device),
        )
        # What each mean is taken over: utterances, tokens with their end, feasible utterances.
        counts = torch.stack(
            [
                infeasible.new_tensor(len(tokens)),
                infeasible.new_tensor(int(lens.sum()) + len(tokens)),
                len(tokens) - infeasible,
            ]
        )
        diffusion, autoregressive, ctc = _over_all_processes(
            torch.stack([diffusion, autoregressive, ctc]), counts
        )
        return {
            "diffusion": diffusion,
            "autoregressive": autoregressive,
            "ctc": ctc,
            "infeasible": infeasible,
        }


def utterance_seed(*parts):
    """A seed that depends on all parts and is the same everywhere.

    Arguments
    ---------
    *parts : object
        Such as the seed of the run, the epoch, the step and the utterance.

    Returns
    -------
    seed : int

    Example
    -------
    >>> utterance_seed(1986, 1, "a") == utterance_seed(1986, 1, "a") != utterance_seed(1986, 2, "a")
    True
    """
    return zlib.crc32(" ".join(map(str, parts)).encode())


def _inside(lengths, width):
    """Which positions are before the end of each row, bool [B, width]."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def _rand(batch, number, generators, device=None):
    """Uniform numbers [B, number], of each utterance from its own generator."""
    if generators is None:
        return torch.rand(batch, number, device=device)
    rows = [torch.rand(number, generator=generator) for generator in generators]
    return torch.stack(rows).to(device)


def _over_all_processes(means, counts):
    """Weighs means so that averaging them over the processes gives the mean over everything.

    Arguments
    ---------
    means : torch.Tensor
        Of this process.
    counts : torch.Tensor
        What each of them is the mean of.
    """
    if not (torch.is_grad_enabled() and torch.distributed.is_initialized()):
        return means
    total = counts.clone()
    torch.distributed.all_reduce(total)
    return means * counts * torch.distributed.get_world_size() / total.clamp(min=1)
