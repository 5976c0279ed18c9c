"""Records how an utterance is decoded, for whoever wants to watch it."""

from dataclasses import dataclass

import torch

from speechbrain_diffasr.decoders.ctc import frame_seconds, read_pieces


@dataclass(frozen=True)
class Frame:
    """A canvas as one denoising step left it.

    Arguments
    ---------
    step : int
        1 for the first step; 0 for the noise that it read.
    canvas : list of int
        Accepted tokens, and fresh noise elsewhere: what the next step reads, [C].
    accepted : list of bool
        Positions that the sampler kept, [C].
    entropy : list of float
        Of the prediction at each position, in nats, [C]; none at step 0.
    tokens : list of int
        Most probable tokens, [C]; none at step 0.
    """

    step: int
    canvas: list
    accepted: list
    entropy: list
    tokens: list

    @property
    def mean_entropy(self):
        """Of all positions, in nats; None at step 0."""
        return sum(self.entropy) / len(self.entropy) if self.entropy else None


class Recorder:
    """Keeps what every denoising step left behind, as the `callback` of a decoding.

    A text that fills its canvas is decoded anew on a longer one: `frames` holds the last try.

    Arguments
    ---------
    row : int
        Utterance of the batch that is recorded. Default: 0.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> recorder = Recorder()
    >>> _ = asr.transcribe([torch.rand(16000)], steps=2, callback=recorder)
    >>> [frame.step for frame in recorder.frames], recorder.tries
    ([1, 2], 1)
    """

    def __init__(self, row=0):
        self.row = row
        self.frames = []
        self.tries = 0

    def __call__(self, draft):
        """Records a step.

        Arguments
        ---------
        draft : Draft
        """
        if draft.step == 1:
            self.frames = []
            self.tries += 1
        parts = draft.canvas, draft.accepted, draft.entropy, draft.tokens
        self.frames.append(Frame(draft.step, *(part[self.row].tolist() for part in parts)))


@dataclass(frozen=True)
class Explanation:
    """An utterance and how it was decoded.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    sample_rate : int
        Samples per second.
    language : str or None
        That the prompt named.
    seed : int
        Of the canvas noise.
    max_steps : int
        Denoising steps at most.
    frames : list of Frame
        The noise that decoding started from, then what each step left.
    tries : int
        Canvases that were tried: more than one if the text filled the first.
    text : str
        The transcript.
    words : list of Word
        Its words with times and confidence.
    pieces : list of Piece
        What CTC hears.
    ctc_text : str
        The same as text.
    """

    wav: torch.Tensor
    sample_rate: int
    language: str | None
    seed: int
    max_steps: int
    frames: list
    tries: int
    text: str
    words: list
    pieces: list
    ctc_text: str

    @property
    def duration(self):
        """Seconds of audio."""
        return len(self.wav) / self.sample_rate


def explain(asr, wav, language=None, steps=None, seed=None):
    """Transcribes an utterance and keeps everything that its page shows.

    Arguments
    ---------
    asr : DiffusionASR
    wav : torch.Tensor
        Waveform at the model's sample rate, [T].
    language : str, optional
        Code of the spoken language. Default: the model's own, or the prompt names none.
    steps : int, optional
        Denoising steps at most. Default: the model's own.
    seed : int, optional
        Of the canvas noise. Default: the model's own.

    Returns
    -------
    explanation : Explanation
        Whose text is that of `asr.transcribe`.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> wav = asr.load_audio(f"{shipped_model('diffasr-tiny')}/samples/en_2.wav")
    >>> explanation = explain(asr, wav, language="en")
    >>> explanation.text, [frame.step for frame in explanation.frames]
    ('oh there he is', [0, 1, 2])
    >>> explanation.words[0].text, explanation.words[0].end < explanation.duration
    ('oh', True)
    """
    encoder, decoder = asr.mods.encoder, asr.mods.decoder
    sampler, tokenizer = decoder.sampler, decoder.prompt.tokenizer
    language = decoder.language if language is None else language
    seed = sampler.seed if seed is None else seed
    max_steps = sampler.check_steps(steps)
    duration = len(wav) / asr.sample_rate
    recorder = Recorder()
    audio = asr.encode_batch(wav[None], torch.ones(1))  # [1, num_frames, D]
    with torch.no_grad(), asr.inference_ctx:
        (found,) = decoder.search(
            audio,
            languages=[language],
            seeds=[seed],
            steps=max_steps,
            callback=recorder,
            seconds=[duration],
        )
    start = sampler.start(
        keys=[None],
        seeds=[seed],
        vocab_size=decoder.model.vocab_size,
        steps=max_steps,
        width=len(recorder.frames[0].canvas),
    ).canvas[0]
    noise = Frame(0, start.tolist(), [False] * len(start), [], [])
    pieces = read_pieces(
        audio[0],
        decoder.model.head,
        blank=tokenizer.token_id(decoder.prompt.slot_token),
        frame=frame_seconds(encoder.whisper, encoder.projector),
        duration=duration,
    )
    return Explanation(
        wav=wav.float().cpu(),
        sample_rate=asr.sample_rate,
        language=language,
        seed=seed,
        max_steps=max_steps,
        frames=[noise, *recorder.frames],
        tries=recorder.tries,
        text=tokenizer.decode_ids(found.tokens),
        words=asr.aligner([wav], audio, [found.tokens], [found.log_probs])[0],
        pieces=pieces,
        ctc_text=tokenizer.decode_ids([piece.token for piece in pieces]),
    )
