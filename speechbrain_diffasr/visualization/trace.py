"""Records how an utterance is decoded, for whoever wants to watch it."""

from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass

import torch

from speechbrain_diffasr.decoders.ctc import frame_seconds, read_pieces
from speechbrain_diffasr.decoders.drafts import make_guesses


@dataclass(frozen=True)
class Frame:
    """A canvas as one denoising step left it.

    Arguments
    ---------
    step : int
        1 for the first step; 0 for what that read.
    canvas : list of int
        Accepted tokens, and fresh noise elsewhere: what the next step reads, [C].
    accepted : list of bool
        Positions that the sampler kept, [C].
    entropy : list of float
        Of the prediction at each position, in nats, [C]; none at step 0.
    tokens : list of int
        Most probable tokens, [C]; none at step 0.
    given : list of bool
        Positions at step 0 that hold what CTC or a draft gave, and no noise, [C]. Default: none.
    """

    step: int
    canvas: list
    accepted: list
    entropy: list
    tokens: list
    given: tuple | list = ()

    @property
    def mean_entropy(self):
        """Of all positions, in nats; None at step 0."""
        return sum(self.entropy) / len(self.entropy) if self.entropy else None


class Recorder:
    """Keeps what every denoising step left behind, as the `callback` of a decoding.

    A text that fills its canvas is decoded anew on a longer one: `frames` holds the last try. Of
    several candidates, which follow each other in a batch of one, the first is recorded if the
    recorder sees where they start, see `watch_starts`.

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
        self._beginning, self._is_first = [], True

    def start(self, canvases, given):
        """Records what the first step will read.

        Arguments
        ---------
        canvases : Canvases
        given : torch.Tensor
            Positions that hold no noise, bool [B, C].
        """
        self._is_first = canvases.keys[self.row].copy == 0
        canvas, given = (part[self.row].tolist() for part in (canvases.canvas, given))
        self._beginning = [Frame(0, canvas, [False] * len(canvas), [], [], given)]

    def __call__(self, draft):
        """Records a step.

        Arguments
        ---------
        draft : Draft
        """
        if not self._is_first:
            return
        if draft.step == 1:
            self.frames = [*self._beginning]
            self.tries += 1
        parts = draft.canvas, draft.accepted, draft.entropy, draft.tokens
        self.frames.append(Frame(draft.step, *(part[self.row].tolist() for part in parts)))


@contextmanager
def watch_starts(decoder, see):
    """Shows what canvases start from, for as long as the context lasts.

    Arguments
    ---------
    decoder : DiffusionSearcher
    see : callable
        Is given `Canvases` that have taken no step, and which positions hold no noise, bool
        [B, C].

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> with watch_starts(asr.mods.decoder, lambda canvases, given: print(given.any().item())):
    ...     _ = asr.transcribe([torch.rand(16000)], steps=1)
    ...     _ = asr.transcribe([torch.rand(16000)], steps=1, drafts=["oh there he is"])
    False
    True
    """
    sampler = decoder.sampler
    watched = copy(sampler)

    def start(*args, canvas=None, **kwargs):
        canvases = sampler.start(*args, canvas=canvas, **kwargs)
        # On canvases of what is no token, whatever is one was given.
        empty = torch.full_like(canvases.canvas, -1)
        see(canvases, (empty if canvas is None else canvas(empty)) >= 0)
        return canvases

    watched.start = start
    decoder.sampler = watched
    try:
        yield
    finally:
        decoder.sampler = sampler


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
        What decoding started from, then what each step left.
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
    origin : str
        What the canvas started from: noise, ctc or draft. Default: noise.
    ctc_weight : float
        Power of CTC's probabilities at each step. Default: 0, they had no say.
    keywords : int
        Words that were expected. Default: 0.
    candidates : int
        Canvases of which the first is recorded. Default: 1.
    readings : int
        Readings of CTC among which the text was chosen, too. Default: 0.
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
    origin: str = "noise"
    ctc_weight: float = 0.0
    keywords: int = 0
    candidates: int = 1
    readings: int = 0

    @property
    def duration(self):
        """Seconds of audio."""
        return len(self.wav) / self.sample_rate

    @property
    def fates(self):
        """What became of the start at each position, [C].

        "stayed" where the last step reads what CTC or the draft gave, "changed" where it reads
        something else, "filled" where there was noise; none if all was noise.
        """
        first, last = self.frames[0], self.frames[-1]
        if not any(first.given):
            return []
        return [
            ("stayed" if start == end else "changed") if given else "filled"
            for start, end, given in zip(first.canvas, last.tokens, first.given, strict=True)
        ]


def explain(asr, wav, language=None, steps=None, seed=None, draft=None, keywords=None):
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
    draft : str or list, optional
        What may be said, as `make_guesses` takes it, for the canvas to start from. Default: none.
    keywords : list of str, optional
        Words to expect. Default: none.

    Returns
    -------
    explanation : Explanation
        Whose text is that of `asr.transcribe`.

    Raises
    ------
    ValueError
        If there are no such steps, the draft is none, or the keywords cannot be heard.

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
    guesses = None if draft is None else make_guesses(draft, tokenizer)
    expected = asr.keywords(keywords, language)
    recorder = Recorder()
    audio = asr.encode_batch(wav[None], torch.ones(1))  # [1, num_frames, D]
    with watch_starts(decoder, recorder.start), torch.no_grad(), asr.inference_ctx:
        (found,) = decoder.search(
            audio,
            languages=[language],
            seeds=[seed],
            steps=max_steps,
            callback=recorder,
            seconds=[duration],
            drafts=[guesses],
            keywords=[expected],
        )
    if guesses:
        origin = "draft"
    else:
        origin = "ctc" if guesses is None and decoder.start == "ctc" else "noise"
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
        frames=recorder.frames,
        tries=recorder.tries,
        text=tokenizer.decode_ids(found.tokens),
        words=asr.aligner([wav], audio, [found.tokens], [found.log_probs])[0],
        pieces=pieces,
        ctc_text=tokenizer.decode_ids([piece.token for piece in pieces]),
        origin=origin,
        ctc_weight=decoder.ctc_weight,
        keywords=len(keywords or ()),
        candidates=decoder.candidates,
        # Those of CTC have no vote in a choice by consensus.
        readings=decoder.readings if decoder.choose == "likelihood" else 0,
    )
