"""From projected audio to tokens, behind the interface of SpeechBrain's searchers."""

import logging
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from speechbrain_diffasr.decoders.candidates import (
    Candidate,
    CandidateRanker,
    expected_errors,
    find_letters,
)
from speechbrain_diffasr.decoders.canvas import Guess, mix_seeds, round_up, start_canvases
from speechbrain_diffasr.decoders.eager import EagerDenoiser
from speechbrain_diffasr.decoders.fused import FusedDenoiser
from speechbrain_diffasr.decoders.joint import Evidence, JointSettings, hear
from speechbrain_diffasr.decoders.packing import unsupported_reason
from speechbrain_diffasr.decoders.queueing import Queue, Utterance

# Waiting utterances enter when this share of a batch is free: prompts are encoded together.
REFILL = 0.25
STARTS = "noise", "ctc", "draft"
CHOICES = "likelihood", "consensus"
NOISES = "seed", "audio"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hypothesis:
    """What was found for one utterance.

    Arguments
    ---------
    key : object
        Of the utterance.
    tokens : list of int
        Without the end-of-text token and what follows it.
    log_probs : torch.Tensor
        Log probability of each token of the canvas, [C].
    entropy : torch.Tensor
        Of the last prediction at each position, in nats, [C].
    steps : int
        Denoising steps that were taken.
    candidates : tuple of Candidate
        What it was chosen among, the best first. Default: nothing else was there.
    """

    key: object
    tokens: list
    log_probs: torch.Tensor
    entropy: torch.Tensor
    steps: int
    candidates: tuple = ()


@dataclass(frozen=True)
class Heard:
    """What CTC hears in an utterance.

    Arguments
    ---------
    reading : Guess
        Read greedily.
    evidence : Evidence
        Of one utterance.
    """

    reading: Guess
    evidence: Evidence


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
    fused : bool
        Whether denoising runs through fused layers, on a GPU as CUDA graphs, rather than through
        the modules of transformers; the transcripts are the same. Default: True.
    window : float, optional
        Seconds of audio that all slots hold; what follows needs it.
    tokens_per_second : float or dict, optional
        More than anyone speaks, by language code if it is a dict: a canvas gets no more tokens
        than so many for its seconds, and if the text fills it, a longer one. Default: every canvas
        has the sampler's `canvas_length`.
    trim_slots : bool
        Whether the prompt has slots for the audio only, rather than for a whole window of audio
        and silence. For adapters that were trained so. Default: False.
    top_tokens : int, optional
        Self-conditioning from so many of the most probable tokens at each position. Default: from
        the whole vocabulary, as in training.
    fp8_experts : bool
        Whether the weights of the experts are rounded to float8 when fused: half the bytes to
        read, at the price of an error. Default: False.
    start : str
        What canvases start from: "noise", as the paper's; "ctc", what CTC reads in the audio; or
        "draft", what the caller gives, and else noise. A draft that is given is always started
        from. Default: "noise".
    draft_confidence : float
        Confidence from which tokens of a draft are kept; the others start as noise. Of further
        `candidates` each keeps less of it. Default: 0.5.
    draft_margin : float, optional
        A canvas that starts from a draft has so many more tokens than it, as a share of them, and
        grows if that is too few. Default: its length follows from `tokens_per_second`.
    ctc_weight : float
        Power of CTC's probabilities that are joined with the denoiser's at every step, see
        `decoders.joint`. Default: 0, the denoiser alone.
    ctc_tokens : int
        Tokens of CTC's that are looked at for `start`, `ctc_weight` and `noise`: the likeliest of
        each utterance. Default: 256.
    noise : str
        What the noise of an utterance follows from: "seed", which is one for all, or "audio", so
        that one seed's luck does not move the score of a whole corpus: the seed and what CTC reads
        in it. Default: "seed".
    candidates : int
        Canvases of each utterance, each from noise of its own. Default: 1.
    choose : str
        Among several candidates: "likelihood", what CTC and the causal half of the language model
        find most likely together, see `CandidateRanker`, or "consensus", the canvas with the fewest
        word errors if any of them is right, see `expected_errors`. Default: "likelihood".
    readings : int
        Readings of CTC that are candidates, too, if the choice is by likelihood. Default: 0.
    rank_weight : float
        Share of CTC's log-likelihood in that choice. Default: 0.5.
    ngram : TokenNGram, optional
        N-grams that have a say in that, too, and in which readings there are. Default: none.
    ngram_weight : float
        Their say. Default: 0.
    token_bonus : float
        Nats for each token, against their taste for short texts. Default: 0.
    scripts : dict, optional
        By language code, the first words of the Unicode names of its letters, such as
        `{hi: [DEVANAGARI]}`: where the language is named, CTC, which does not know of it, reads
        pieces in no other letters. Default: any.
    keyword_bonus, keyword_floor, keyword_lift : float
        How words that are to be expected are heard: nats a token in their favour, the least mean
        log probability of their tokens, and nats by which they then stand above all else, see
        `Keywords`. Default: 2.5, -3, 4.

    Raises
    ------
    ValueError
        If what needs `window` is given without it, slots are trimmed of a prompt that chooses its
        audio, or as `configure` says.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))  # doctest: +ELLIPSIS
    >>> audio = asr.encode_batch(torch.rand(2, 16000), torch.ones(2))
    >>> tokens, lengths, scores, log_probs = asr.mods.decoder(audio)
    >>> len(tokens), list(lengths.shape), list(scores.shape)
    (2, [2], [2])
    """

    def __init__(
        self,
        model,
        prompt,
        sampler,
        language=None,
        fused=True,
        window=None,
        tokens_per_second=None,
        trim_slots=False,
        top_tokens=None,
        fp8_experts=False,
        start="noise",
        draft_confidence=0.5,
        draft_margin=None,
        ctc_weight=0.0,
        ctc_tokens=256,
        noise="seed",
        candidates=1,
        choose="likelihood",
        readings=0,
        rank_weight=0.5,
        ngram=None,
        ngram_weight=0.0,
        token_bonus=0.0,
        scripts=None,
        keyword_bonus=2.5,
        keyword_floor=-3.0,
        keyword_lift=4.0,
    ):
        super().__init__()
        if window is None and (tokens_per_second is not None or trim_slots):
            raise ValueError("DiffusionSearcher: tokens_per_second and trim_slots need window")
        if trim_slots and prompt.most_blank is not None:
            raise ValueError(
                "trim_slots: the prompt chooses its audio (most_blank), and canvases are to begin "
                "at the same place behind it; set trim_slots to False or most_blank to null"
            )
        self.model = model
        self.prompt = prompt
        self.sampler = sampler
        self.language = language
        self.fused = fused
        self.window = window
        self.tokens_per_second = tokens_per_second
        self.trim_slots = trim_slots
        self.top_tokens = top_tokens
        self.fp8_experts = fp8_experts
        self.draft_confidence, self.draft_margin = draft_confidence, draft_margin
        self.ctc_tokens, self.rank_weight = ctc_tokens, rank_weight
        self.configure(start, ctc_weight, noise, candidates, choose, readings)
        self.ngram, self.ngram_weight, self.token_bonus = ngram, ngram_weight, token_bonus
        self.scripts = dict(scripts or {})
        self.keyword_options = {
            "bonus": keyword_bonus,
            "floor": keyword_floor,
            "lift": keyword_lift,
        }
        self._allowed = {}  # by language: tokens that CTC may read
        self._denoiser, self._made_for = None, None
        self._turn = None  # of the decoding that began last: all share memory
        self._heard = {}  # of utterances on their way

    def __getstate__(self):
        # Packed weights and CUDA graphs are made anew where a copy decodes.
        return self.__dict__ | {"_denoiser": None, "_made_for": None, "_turn": None, "_heard": {}}

    def configure(
        self,
        start=None,
        ctc_weight=None,
        noise=None,
        candidates=None,
        choose=None,
        readings=None,
    ):
        """Changes how utterances are decoded from now on; what is not given stays.

        Arguments
        ---------
        start, noise, choose : str, optional
        ctc_weight : float, optional
        candidates, readings : int, optional
            As for the searcher itself.

        Raises
        ------
        ValueError
            If something is unknown or out of its range, or readings would have no vote; then
            nothing has changed.
        """
        given = {
            "start": (start, STARTS),
            "ctc_weight": (ctc_weight, 0),
            "noise": (noise, NOISES),
            "candidates": (candidates, 1),
            "choose": (choose, CHOICES),
            "readings": (readings, 0),
        }
        new = {}
        for name, (value, known) in given.items():
            if value is None:
                new[name] = getattr(self, name)
                continue
            if isinstance(known, tuple) and value not in known:
                raise ValueError(f"{name}: {value!r} is unknown; expected {' or '.join(known)}")
            if not isinstance(known, tuple) and value < known:
                raise ValueError(f"{name}: {value}; expected {known} or more")
            new[name] = value
        if new["choose"] == "consensus" and new["readings"]:
            raise ValueError(
                "choose: consensus is of canvases, and readings have no vote; set readings to 0, "
                "or choose to likelihood"
            )
        for name, value in new.items():
            setattr(self, name, value)

    def settings(self):
        """What `configure` changes, as it is.

        Returns
        -------
        settings : dict
        """
        names = "start", "ctc_weight", "noise", "candidates", "choose", "readings"
        return {name: getattr(self, name) for name in names}

    def denoiser(self):
        """What runs the model, for its weights as they are now.

        Returns
        -------
        denoiser : FusedDenoiser or EagerDenoiser
        """
        dtype = _autocast_dtype(self._device()) or self.model.core.dtype
        made_for = self.fused, dtype, self.top_tokens, self.fp8_experts
        if self._denoiser is None or self._made_for != made_for:
            self._denoiser, self._made_for = None, made_for  # frees what was there
            self._denoiser = EagerDenoiser(self.model)
            if self.fused:
                reason = unsupported_reason(self.model.model)
                if reason is None:
                    self._denoiser = FusedDenoiser(self.model, *made_for[1:])
                else:
                    logger.warning("decoding without fused layers: %s", reason)
        elif not self._denoiser.is_current():
            self._denoiser.pack()
        return self._denoiser

    def _device(self):
        return next(self.model.parameters()).device

    def release(self):
        """Frees the memory of fused layers, caches and graphs; they are made again when needed."""
        self._denoiser = None

    def warm_up(self, batch_sizes=(1,), seconds=(None,), languages=(None,)):
        """Decodes silence, so that later utterances need not wait for kernels and graphs.

        Arguments
        ---------
        batch_sizes : list of int
            Batches to come. Default: one utterance.
        seconds : list of float
            Of the audio to come. Default: as much as the slots hold.
        languages : list of str
            To come. Default: none is named.

        Returns
        -------
        seconds : float
            That it took.
        """
        begin = time.perf_counter()
        audio = torch.zeros(self.prompt.num_frames, self.model.hidden_size, device=self._device())
        # Choosing among readings has nothing to make ready, and takes long.
        candidates, readings = self.candidates, self.readings
        self.candidates, self.readings = 1, 0
        try:
            for batch in sorted(batch_sizes, reverse=True):
                for length in seconds:
                    for language in languages:
                        silence = [
                            Utterance(audio, language=language, seconds=length)
                            for _ in range(batch)
                        ]
                        list(self.stream(silence, batch, steps=2))
        finally:
            self.candidates, self.readings = candidates, readings
        return time.perf_counter() - begin

    def stream(self, utterances, batch_size=16, steps=None, callback=None, on_start=None):
        """Transcribes utterances; those that end make room for those that wait.

        Arguments
        ---------
        utterances : iterable of Utterance or Queue
            Taken as there is room. Best sorted by their seconds. To a `Queue` more may be added
            before the next hypothesis is asked for.
        batch_size : int
            Decoded at once at most. Default: 16.
        steps : int, optional
            Denoising steps at most. Default: the sampler's own.
        callback : callable, optional
            Is given a `Draft` after every step.
        on_start : callable, optional
            Is given each utterance when its canvas starts.

        Returns
        -------
        hypotheses : iterator of Hypothesis
            In the order in which they end.

        Raises
        ------
        ValueError
            If `steps` is less than 1, or a language is not known.
        RuntimeError
            From the iterator, if another decoding has begun before it was through.
        """
        self.sampler.check_steps(steps)
        # A context entered around this call need not be there when the iterator runs.
        autocast = _autocast_dtype(self._device())
        # Tensors made in inference mode cannot be written to outside of it, but CUDA graphs keep
        # theirs from call to call.
        mode = torch.no_grad() if self._device().type == "cuda" else torch.inference_mode()
        stream = mode(self._stream)
        queue = utterances if isinstance(utterances, Queue) else Queue(utterances)
        queue.set_copies(self.candidates)
        return stream(queue, batch_size, steps, callback, on_start, autocast)

    def _stream(self, queue, batch_size, steps, callback, on_start, autocast):
        turn = self._turn = object()
        self._heard, waiting = {}, {}
        device = self._device().type
        precision = {"device_type": device, "dtype": autocast, "enabled": autocast is not None}
        with torch.autocast(**precision):
            denoiser = self.denoiser()
        if isinstance(denoiser, FusedDenoiser):
            precision = {"device_type": device, "enabled": False}
        while group := queue.peek(batch_size):
            self._listen(group, precision)
            prompt_width = max(map(self._prompt_width, group))
            canvas_width = max(map(self._canvas_length, group))
            self._check_turn(turn)
            kv_cache = denoiser.allocate(
                len(group), prompt_width, canvas_width, self.prompt.beginning, self._joint()
            )
            free = list(range(len(group)))

            def admit(going, kv_cache=kv_cache, group=group, free=free):
                if going is not None and len(free) < REFILL * len(group):
                    return going
                self._listen(queue.peek(len(free)), precision)
                entering = queue.take(
                    len(free),
                    lambda utterance: utterance in group or self._fits(utterance, kv_cache),
                )
                if not entering:
                    return going
                self._check_turn(turn)
                for utterance in entering if on_start is not None else ():
                    if not utterance.copy:
                        on_start(utterance)
                slots = [free.pop() for _ in entering]
                with torch.autocast(**precision):
                    new = self._prefill(kv_cache, entering, slots, steps)
                return new if going is None else going.join(new)

            def predict(*inputs, kv_cache=kv_cache):
                self._check_turn(turn)
                with torch.autocast(**precision):
                    return kv_cache(*inputs)

            for ended in self.sampler(predict, admit, steps, callback):
                free += ended.slots.tolist()
                for utterance, hypothesis in self._read(ended, queue):
                    canvases = waiting.setdefault(utterance.source, {})
                    canvases[utterance.copy] = hypothesis
                    if len(canvases) < self.candidates:
                        continue
                    del waiting[utterance.source]
                    self._heard.pop(utterance.source, None)
                    with torch.autocast(device, autocast, enabled=autocast is not None):
                        found = self._choose(
                            utterance, [canvases[copy] for copy in sorted(canvases)]
                        )
                    yield found

    def _check_turn(self, turn):
        """Refuses to go on where another decoding has written over what this one remembers."""
        if turn is not self._turn:
            raise RuntimeError(
                "another decoding began before this one was through; "
                "take all results first, or load a second recognizer"
            )

    def _fits(self, utterance, kv_cache):
        """Whether an utterance can join others without wasting much of a canvas."""
        length = self._canvas_length(utterance)
        width = self._prompt_width(utterance)
        return length <= kv_cache.canvas_width < 2 * length and width <= kv_cache.prompt_width

    def _joint(self):
        """How CTC's evidence is joined at every step, None if it is not."""
        if not self.ctc_weight:
            return None
        tokenizer = self.prompt.tokenizer
        count = min(self.ctc_tokens, self.model.vocab_size - 2)
        return JointSettings(self.ctc_weight, count, self.prompt.num_frames, tokenizer.eos_id)

    def _listen(self, utterances, precision):
        """Hears what CTC does, in utterances of which that is needed and not known yet."""
        is_needed = self.start == "ctc" or self.ctc_weight or self.noise == "audio"
        if not is_needed:
            return
        groups = {}
        for utterance in utterances:
            source = utterance.source
            if source not in self._heard:
                # A dictionary keeps each of several copies once, and their order.
                groups.setdefault(id(source.keywords), {})[source] = None
        for group in groups.values():
            with torch.autocast(**precision):
                self._hear(list(group))

    def _hear(self, utterances):
        """Hears utterances that expect the same words."""
        audio = torch.stack([utterance.audio for utterance in utterances])
        frames = [self._filled(utterance) for utterance in utterances]
        keywords = utterances[0].keywords
        allowed = [self._readable(utterance.language) for utterance in utterances]
        if any(one is not None for one in allowed):
            everything = torch.ones(self.model.vocab_size, dtype=torch.bool)
            allowed = [everything if one is None else one for one in allowed]
            allowed = torch.stack(allowed).to(audio.device)
        else:
            allowed = None
        tokenizer = self.prompt.tokenizer
        evidence = hear(
            audio[:, : min(round_up(max(frames)), audio.shape[1])],
            self.model.head,
            tokenizer.token_id(self.prompt.slot_token),
            tokenizer.eos_id,
            torch.tensor(frames, device=audio.device),
            self.ctc_tokens,
            allowed,
            keywords,
        )
        for row, reading in enumerate(evidence.read()):
            heard = Heard(reading, evidence[row : row + 1])
            self._heard[utterances[row]] = heard

    def _guess(self, utterance):
        """What the canvas of an utterance starts from, None for noise."""
        if utterance.draft is not None:
            drafts = utterance.draft
            return drafts[utterance.copy] if utterance.copy < len(drafts) else None
        return self._heard[utterance.source].reading if self.start == "ctc" else None

    def _seed(self, utterance):
        """Seed of the noise of a canvas."""
        seed = self.sampler.seed if utterance.seed is None else utterance.seed
        if self.noise == "audio":
            seed = mix_seeds(seed, *self._heard[utterance.source].reading.tokens)
        return mix_seeds(seed, utterance.copy) if utterance.copy else seed

    def _prefill(self, kv_cache, utterances, slots, steps):
        """Encodes the prompts of utterances and starts their canvases."""
        audio = torch.stack([utterance.audio for utterance in utterances])
        device = audio.device
        embeddings, lengths = self._embed(utterances, audio, kv_cache.prompt_width)
        evidence = None
        if self.ctc_weight:
            parts = [self._heard[utterance.source].evidence for utterance in utterances]
            evidence = Evidence.stack(parts)
        kv_cache.prefill(torch.tensor(slots, device=device), embeddings, lengths, evidence)
        return self.sampler.start(
            keys=utterances,
            seeds=[self._seed(utterance) for utterance in utterances],
            vocab_size=self.model.vocab_size,
            steps=steps,
            lengths=[self._canvas_length(utterance) for utterance in utterances],
            width=kv_cache.canvas_width,
            slots=slots,
            device=device,
            canvas=lambda noise: self._start(utterances, noise),
        )

    def _start(self, utterances, noise):
        """What canvases start from: drafts, as far as they are sure, and noise, [B, C]."""
        guesses = [self._guess(utterance) for utterance in utterances]
        if all(guess is None for guess in guesses):
            return noise
        # Each further candidate keeps less, the last nothing that is not nearly certain.
        rest = (1 - self.draft_confidence) / self.candidates
        least = [self.draft_confidence + rest * utterance.copy for utterance in utterances]
        return start_canvases(guesses, noise, least, self.prompt.tokenizer.eos_id)

    def _read(self, ended, queue):
        """Utterances that are done, with what they say; a full short canvas waits for a longer."""
        end = self.prompt.tokenizer.eos_id
        rows = zip(
            ended.keys,
            ended.tokens.tolist(),
            ended.log_probs.cpu(),
            ended.entropy.cpu(),
            ended.taken.tolist(),
            strict=True,
        )
        for utterance, tokens, log_probs, entropy, steps in rows:
            length = self._canvas_length(utterance)
            tokens = tokens[:length]
            if end in tokens:
                tokens = tokens[: tokens.index(end)]
            elif length < self.sampler.canvas_length:
                longer = min(2 * length, self.sampler.canvas_length)
                queue.requeue(replace(utterance, canvas_length=longer, original=utterance.source))
                continue
            yield (
                utterance,
                Hypothesis(utterance.key, tokens, log_probs[:length], entropy[:length], steps),
            )

    def _choose(self, utterance, canvases):
        """The best of the canvases of an utterance and the readings of CTC."""
        steps = max(one.steps for one in canvases)
        if self.choose == "consensus" and len(canvases) > 1:
            errors = expected_errors(
                [self.prompt.tokenizer.decode_ids(one.tokens) for one in canvases]
            )
            order = sorted(range(len(canvases)), key=errors.__getitem__)
            found = {}
            for place in order:
                one = canvases[place]
                candidate = Candidate(one.tokens, -errors[place], log_probs=one.log_probs)
                found.setdefault(tuple(one.tokens), candidate)
            return replace(canvases[order[0]], steps=steps, candidates=tuple(found.values()))
        if not self.readings and len(canvases) == 1:
            return canvases[0]
        tokenizer = self.prompt.tokenizer
        rank = CandidateRanker(
            self.model,
            tokenizer.token_id(self.prompt.slot_token),
            tokenizer.eos_id,
            self.readings,
            self.rank_weight,
            self.ngram,
            self.ngram_weight,
            self.token_bonus,
        )
        embeddings, _ = self._embed([utterance], utterance.audio[None])
        found = rank(
            utterance.audio[: self._filled(utterance)],
            embeddings,
            [one.tokens for one in canvases],
            self._readable(utterance.language),
            utterance.language,
            utterance.keywords,
        )
        return replace(
            canvases[0],
            tokens=found[0].tokens,
            log_probs=found[0].log_probs,
            steps=steps,
            candidates=tuple(found),
        )

    def _readable(self, language):
        """Tokens that CTC may read of a language, bool [V]; None if all."""
        if language not in self.scripts:
            return None
        if language not in self._allowed:
            pieces = self.prompt.tokenizer.backend.convert_ids_to_tokens(
                list(range(self.model.vocab_size))
            )
            self._allowed[language] = find_letters(pieces, self.scripts[language])
            self._allowed[language][self.prompt.tokenizer.token_id(self.prompt.slot_token)] = True
        return self._allowed[language]

    def _embed(self, utterances, audio, length=None):
        """Prompts with their audio [B, T, D], and the length of each [B]."""
        used = None
        if self.trim_slots:
            used = [self._slots(utterance) for utterance in utterances]
        in_prompt = used
        if self.prompt.most_blank is not None:
            filled = torch.tensor([self._filled(one) for one in utterances], device=audio.device)
            audio, used = self.prompt.choose(audio, self.model.head, filled)
        tokens, lengths = self.prompt(
            [utterance.language for utterance in utterances],
            device=audio.device,
            length=length,
            slots=in_prompt,
        )
        return self.prompt.scatter(self.model.embed(tokens), audio, used), lengths

    def _canvas_length(self, utterance):
        """Tokens that an utterance's canvas has."""
        longest = self.sampler.canvas_length
        if utterance.canvas_length is not None:
            return utterance.canvas_length
        guess = None if self.draft_margin is None else self._guess(utterance)
        if guess is not None:
            needed = math.ceil(len(guess.tokens) * (1 + self.draft_margin)) + 1
            return min(round_up(needed), longest)
        if self.tokens_per_second is None or utterance.seconds is None:
            return longest
        rate = self.tokens_per_second
        if isinstance(rate, dict):
            rate = rate.get(utterance.language, max(rate.values()))
        needed = math.ceil(utterance.seconds * rate) + 1  # and the end-of-text token
        return min(round_up(needed), longest)

    def _slots(self, utterance):
        """Slots that an utterance's prompt has."""
        return self._filled(utterance) if self.trim_slots else self.prompt.num_slots

    def _filled(self, utterance):
        """Frames that an utterance's audio fills."""
        if self.window is None or utterance.seconds is None:
            return self.prompt.num_frames
        filled = math.ceil(utterance.seconds / self.window * self.prompt.num_frames)
        return max(1, min(filled, self.prompt.num_frames))

    def _prompt_width(self, utterance):
        """What an utterance's prompt is padded to."""
        return round_up(len(self.prompt.tokens(utterance.language, self._slots(utterance))))

    def search(
        self,
        audio,
        languages=None,
        seeds=None,
        steps=None,
        callback=None,
        seconds=None,
        drafts=None,
        keywords=None,
    ):
        """Transcribes a batch.

        Arguments
        ---------
        audio : torch.Tensor
            Projected audio, [B, num_frames, D].
        languages : list, optional
            A code or None for each utterance. Default: the searcher's own for all.
        seeds : list, optional
            A seed or None for each utterance. Default: the sampler's own for all.
        steps : int, optional
            Denoising steps at most. Default: the sampler's own.
        callback : callable, optional
            Is given a `Draft` after every step.
        seconds : list of float, optional
            Of audio in each utterance. Default: unknown.
        drafts : list, optional
            A tuple of Guess for each utterance, of which each of its `candidates` starts from one,
            or None. Default: none.
        keywords : list, optional
            A Keywords for each utterance, words to expect, or None. Default: none.

        Returns
        -------
        hypotheses : list of Hypothesis
            The key of each is its place in the batch.
        """
        batch = len(audio)
        languages = [self.language] * batch if languages is None else languages
        seeds = [None] * batch if seeds is None else seeds
        seconds = [None] * batch if seconds is None else seconds
        drafts = [None] * batch if drafts is None else drafts
        keywords = [None] * batch if keywords is None else keywords
        utterances = [
            Utterance(*parts, draft=draft, keywords=expected)
            for *parts, draft, expected in zip(
                audio, range(batch), languages, seeds, seconds, drafts, keywords, strict=True
            )
        ]
        found = self.stream(utterances, batch, steps, callback)
        return sorted(found, key=lambda hypothesis: hypothesis.key)

    def forward(self, audio, wav_lens=None):
        """Transcribes a batch as SpeechBrain's searchers do.

        Arguments
        ---------
        audio : torch.Tensor
            Projected audio, [B, num_frames, D].
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
        log_probs = pad_sequence([one.log_probs for one in hypotheses], batch_first=True)
        lengths = torch.tensor([len(one.tokens) for one in hypotheses])
        inside = torch.arange(log_probs.shape[1]) < lengths[:, None]
        scores = (log_probs * inside).sum(dim=1)
        tokens = [one.tokens for one in hypotheses]
        return tokens, *(part.to(audio.device) for part in (lengths, scores, log_probs))


def _autocast_dtype(device):
    """The precision of an autocast context, None outside of one."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)
