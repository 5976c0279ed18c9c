"""The denoising loop: from a canvas of random tokens to a transcript in a few parallel steps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace

import torch

from speechbrain_diffasr.decoders.canvas import CanvasNoise, draw_noise


@dataclass(frozen=True)
class Draft:
    """What a denoising step left behind; a callback sees one after every step.

    Arguments
    ---------
    step : int
        1 for the first step.
    canvas : torch.Tensor
        Accepted tokens, and fresh noise elsewhere, [B, C]: what the next step reads.
    tokens : torch.Tensor
        Most probable tokens, [B, C]: the transcript as it stands.
    accepted : torch.Tensor
        Positions that the sampler kept, bool [B, C].
    entropy : torch.Tensor
        Of the prediction at each position, in nats, [B, C].
    finished : torch.Tensor
        Utterances that changed no more, bool [B].
    """

    step: int
    canvas: torch.Tensor
    tokens: torch.Tensor
    accepted: torch.Tensor
    entropy: torch.Tensor
    finished: torch.Tensor


@dataclass(frozen=True)
class Canvases:
    """Utterances that are being denoised together, in any order and each at a step of its own.

    Arguments
    ---------
    keys : list
        What each utterance is known by, for the caller.
    slots : torch.Tensor
        Where the model keeps what it knows of each utterance, [B].
    lengths : torch.Tensor
        Tokens that each canvas has, [B]; what lies behind them is padding.
    noise : CanvasNoise
    canvas : torch.Tensor
        Accepted tokens, and noise elsewhere, [B, C].
    tokens : torch.Tensor
        Most probable tokens at each utterance's last step, [B, C].
    log_probs : torch.Tensor
        Their log probabilities, [B, C].
    entropy : torch.Tensor
        Of the prediction at each position, in nats, [B, C].
    taken : torch.Tensor
        Denoising steps that each utterance took, [B].
    unchanged : torch.Tensor
        Steps for which its most probable tokens have been the same, [B].
    finished : torch.Tensor
        Utterances that are sure and change no more, bool [B].
    """

    keys: list
    slots: torch.Tensor
    lengths: torch.Tensor
    noise: CanvasNoise
    canvas: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor
    entropy: torch.Tensor
    taken: torch.Tensor
    unchanged: torch.Tensor
    finished: torch.Tensor

    def __len__(self):
        return len(self.keys)

    def select(self, rows):
        """Some of the utterances.

        Arguments
        ---------
        rows : list of int

        Returns
        -------
        canvases : Canvases
        """
        index = torch.tensor(rows, device=self.canvas.device)
        keys = [self.keys[row] for row in rows]
        return _each_tensor(lambda tensor: tensor[index], self, keys=keys)

    def join(self, other):
        """These utterances and others, on canvases of the same width.

        Arguments
        ---------
        other : Canvases

        Returns
        -------
        canvases : Canvases
        """
        return _each_tensor(lambda *both: torch.cat(both), self, other, keys=self.keys + other.keys)


def _each_tensor(function, *holders, **others):
    """Applies a function to the tensors that dataclasses have in the same place."""
    for field in fields(holders[0]):
        values = [getattr(holder, field.name) for holder in holders]
        if isinstance(values[0], torch.Tensor):
            others[field.name] = function(*values)
        elif field.name not in others:
            others[field.name] = _each_tensor(function, *values)
    return type(holders[0])(**others)


class _Ended:
    """Tells which utterances have ended without making the GPU wait: one step late.

    Rows whose steps are spent are known without asking it.

    Arguments
    ---------
    at_once : bool
        Whether the GPU is waited for, because somebody who looks at every step does so anyway,
        and must not see one more.
    """

    def __init__(self, at_once):
        self.at_once = at_once
        self.pending = None

    def __call__(self, canvases, ages, steps):
        ended = [age >= steps for age in ages]
        if self.at_once or not canvases.finished.is_cuda:
            return [a or b for a, b in zip(ended, canvases.finished.tolist(), strict=True)]
        flags = torch.empty(len(canvases), dtype=torch.bool, pin_memory=True)
        flags.copy_(canvases.finished, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        before, self.pending = self.pending, (flags, copied)
        if before is not None:
            before[1].synchronize()
            ended = [a or b for a, b in zip(ended, before[0].tolist(), strict=True)]
        if any(ended):
            self.pending = None
        return ended


class Sampler(ABC):
    """The denoising loop; a class of its own says which tokens it keeps.

    ```
    canvas of noise ─┐
         ┌───────────┴────────────┐
         │ predict all positions  │  at `temperature`
         │ `accept` some of them  │  of whose tokens it is sure
         │ `renoise` the others   │  drawn anew from the whole vocabulary
         └───────────┬────────────┘
     until `is_finished`, or so many steps are taken
    ```

    The steps are those of transformers' samplers of discrete diffusion (temperature schedule,
    `accept_canvas`, `renoise_canvas`, stopping criterion). Training draws on the same `accept`
    and `renoise` where it unrolls a step. Each utterance has its own random generator: its
    transcript does not depend on the batch.

    Arguments
    ---------
    steps : int
        Denoising steps at most. Default: 16.
    canvas_length : int
        Tokens that a transcript can have. Default: 192.
    seed : int
        For the noise of every utterance that is given none. Default: 0.

    Example
    -------
    >>> class KeepSure(Sampler):
    ...     def accept(self, entropy):
    ...         return entropy < 0.5
    >>> sampler = KeepSure(steps=4, canvas_length=3)
    >>> accepted = sampler.accept(torch.tensor([[0.1, 0.9, 0.2]]))
    >>> sampler.renoise(torch.tensor([[7, 8, 9]]), accepted, torch.tensor([[1, 2, 3]]))
    tensor([[7, 2, 9]])
    """

    def __init__(self, steps=16, canvas_length=192, seed=0):
        self.steps = steps
        self.canvas_length = canvas_length
        self.seed = seed

    def temperature(self, taken, steps):
        """What the logits are divided by after so many of the steps: 1, unless a class says more.

        Arguments
        ---------
        taken : torch.Tensor
            Steps that each utterance took, [B].
        steps : int
            Denoising steps at most.

        Returns
        -------
        temperature : torch.Tensor
            [B].
        """
        return torch.ones_like(taken, dtype=torch.float)

    @abstractmethod
    def accept(self, entropy):
        """Chooses the positions to keep.

        Arguments
        ---------
        entropy : torch.Tensor
            Of the prediction at each position in nats, [B, C]; infinite behind a canvas.

        Returns
        -------
        accepted : torch.Tensor
            bool [B, C].
        """

    def renoise(self, proposals, accepted, fresh):
        """The canvas of the next step.

        Arguments
        ---------
        proposals : torch.Tensor
            Tokens that were sampled from the predictions, [B, C].
        accepted : torch.Tensor
            Positions that keep them, bool [B, C].
        fresh : torch.Tensor
            Tokens drawn from the whole vocabulary, [B, C].

        Returns
        -------
        canvas : torch.Tensor
            [B, C].
        """
        return torch.where(accepted, proposals, fresh)

    def is_finished(self, unchanged, entropy):
        """Which utterances need no further step: none, unless a class says more.

        Arguments
        ---------
        unchanged : torch.Tensor
            Steps for which the most probable tokens have been the same, [B].
        entropy : torch.Tensor
            Mean over the positions of each utterance in nats, [B].

        Returns
        -------
        finished : torch.Tensor
            bool [B].
        """
        return torch.zeros_like(unchanged, dtype=torch.bool)

    def start(
        self,
        keys,
        seeds,
        vocab_size,
        steps=None,
        lengths=None,
        width=None,
        slots=None,
        device=None,
        canvas=None,
    ):
        """Makes canvases that have taken no step yet.

        Arguments
        ---------
        keys : list
            What each utterance is known by.
        seeds : list
            One for each utterance; None stands for the sampler's own.
        vocab_size : int
            Tokens that noise is drawn from.
        steps : int, optional
            Denoising steps at most. Default: the sampler's own.
        lengths : list of int, optional
            Tokens that each canvas has. Default: `canvas_length`.
        width : int, optional
            C, what canvases are padded to. Default: `canvas_length`.
        slots : list of int, optional
            Where the model keeps what it knows of each. Default: in this order.
        device : torch.device, optional
            Of the model. Default: the CPU.
        canvas : callable, optional
            Takes noise, [B, C], and returns the tokens to start from. Default: the noise itself.

        Returns
        -------
        canvases : Canvases

        Raises
        ------
        ValueError
            If `steps` is less than 1.
        """
        steps = self.check_steps(steps)
        batch = len(keys)
        width = width or self.canvas_length
        # Of the full length always: where a canvas ends does not change the noise before it.
        seeds = [self.seed if seed is None else seed for seed in seeds]
        noise = draw_noise(seeds, steps, max(width, self.canvas_length), vocab_size, device)
        noise = _each_tensor(lambda tensor: tensor[..., :width].contiguous(), noise)
        lengths = [self.canvas_length] * batch if lengths is None else lengths
        zeros = torch.zeros(batch, width, device=device)
        none = torch.zeros(batch, dtype=torch.long, device=device)
        return Canvases(
            keys=list(keys),
            slots=torch.tensor(range(batch) if slots is None else slots, device=device),
            lengths=torch.tensor(lengths, device=device),
            noise=noise,
            canvas=noise.start if canvas is None else canvas(noise.start),
            tokens=torch.full_like(noise.start, -1),
            log_probs=zeros,
            entropy=zeros,
            taken=none,
            unchanged=none,
            finished=torch.zeros(batch, dtype=torch.bool, device=device),
        )

    def check_steps(self, steps=None):
        """The number of steps, the sampler's own if None.

        Arguments
        ---------
        steps : int, optional

        Returns
        -------
        steps : int

        Raises
        ------
        ValueError
            If it is less than 1.
        """
        steps = self.steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps: {steps}; at least one denoising step is needed")
        return steps

    def step(self, canvases, predict, steps):
        """Takes one step; nothing in it waits for the GPU.

        Arguments
        ---------
        canvases : Canvases
        predict : callable
            See `__call__`.
        steps : int
            Denoising steps at most.

        Returns
        -------
        canvases : Canvases
        accepted : torch.Tensor
            Positions that the sampler kept, bool [B, C].
        """
        old = canvases
        batch = torch.arange(len(old), device=old.canvas.device)
        now = old.taken.clamp(max=steps - 1)
        predictions = predict(old, self.temperature(now, steps), old.noise.uniforms[batch, now])
        width = old.canvas.shape[1]
        inside = torch.arange(width, device=batch.device) < old.lengths[:, None]  # [B, C]
        accepted = self.accept(torch.where(inside, predictions.entropy, torch.inf)) & inside
        new_tokens = torch.where(inside, predictions.tokens, 0)
        canvas = self.renoise(predictions.proposals, accepted, old.noise.fresh[batch, now])
        entropy = torch.where(inside, predictions.entropy, 0.0)
        going = ~old.finished & (old.taken < steps)
        same = (new_tokens == old.tokens).all(dim=-1)
        unchanged = torch.where(same, old.unchanged + 1, 0)
        finished = self.is_finished(unchanged, entropy.sum(dim=-1) / old.lengths)
        row = going[:, None]
        return replace(
            old,
            canvas=torch.where(row, canvas, old.canvas),
            tokens=torch.where(row, new_tokens, old.tokens),
            log_probs=torch.where(row, predictions.log_probs, old.log_probs),
            entropy=torch.where(row, entropy, old.entropy),
            taken=old.taken + going,
            unchanged=unchanged,
            finished=old.finished | (going & finished),
        ), accepted

    @torch.no_grad()
    def __call__(self, predict, admit, steps=None, callback=None):
        """Denoises until nothing is left; utterances that have ended make room for others.

        Arguments
        ---------
        predict : callable
            Takes `Canvases`, the temperature of each [B] and what tokens are sampled by [B, C];
            returns a `Predictions` of [B, C] for the canvases.
        admit : callable
            Is given the canvases that go on (None at first, or if there are none), and returns
            those to go on with, others among them, or None at the end.
        steps : int, optional
            Denoising steps at most. Default: the sampler's own.
        callback : callable, optional
            Is given a `Draft` after every step. All utterances then stay until the last has ended.

        Yields
        ------
        ended : Canvases
            Utterances that are done.

        Raises
        ------
        ValueError
            If `steps` is less than 1.
        """
        steps = self.check_steps(steps)
        ended = _Ended(at_once=callback is not None)
        going, ages = admit(None), {}
        while going is not None:
            going, accepted = self.step(going, predict, steps)
            ages = {key: ages.get(key, 0) + 1 for key in going.keys}
            if callback is not None:
                callback(
                    Draft(
                        max(ages.values()),
                        going.canvas,
                        going.tokens,
                        accepted,
                        going.entropy,
                        going.finished,
                    )
                )
            done = ended(going, list(ages.values()), steps)
            if not any(done) or (callback is not None and not all(done)):
                continue
            rest = [row for row, is_done in enumerate(done) if not is_done]
            yield going.select([row for row, is_done in enumerate(done) if is_done])
            going = admit(going.select(rest) if rest else None)


class EntropyBoundSampler(Sampler):
    """Denoises a canvas, keeping at each step the tokens that are nearly independent.

    At every step the model predicts all positions. Positions are accepted in order of rising
    entropy as long as the entropies of those before sum up to no more than a bound, which bounds
    the mutual information between the accepted tokens (https://arxiv.org/abs/2505.24857). The
    others are drawn anew from the whole vocabulary. The logits condition the next step. An
    utterance is finished once its most probable tokens are stable and their mean entropy is
    low.

    The defaults are those of the released DiffusionGemma, but for the steps and the canvas,
    which are those of its use for speech.

    Arguments
    ---------
    steps : int
        Denoising steps at most. Default: 16.
    canvas_length : int
        Tokens that a transcript can have. Default: 192.
    entropy_bound : float
        In nats; more accepts more tokens per step. Default: 0.1.
    max_temperature : float
        Divides the logits at the first step. Default: 0.8.
    min_temperature : float
        The temperature falls linearly from `max_temperature` toward this. Default: 0.4.
    stable_steps : int
        Steps for which the most probable tokens must not have changed. Default: 1.
    confidence : float
        Mean entropy of an utterance in nats under which it may stop early; the attribute is
        called `max_entropy`, which is what it is. Default: 0.005.
    seed : int
        For the noise of every utterance that is given none. Default: 0.

    Example
    -------
    >>> from speechbrain_diffasr.kernels.vocabulary import read_logits
    >>> target = torch.tensor([5, 2, 7, 0])
    >>> def predict(canvases, temperature, uniforms):
    ...     logits = 50.0 * torch.nn.functional.one_hot(target.expand(len(canvases), 4), 10)
    ...     return read_logits(logits, temperature, uniforms)
    >>> sampler = EntropyBoundSampler(steps=8, canvas_length=4)
    >>> waiting = [sampler.start(["a", "b"], seeds=[1, 2], vocab_size=10)]
    >>> ended, = sampler(predict, lambda going: waiting.pop() if waiting else going)
    >>> ended.keys, ended.taken
    (['a', 'b'], tensor([2, 2]))
    >>> ended.tokens
    tensor([[5, 2, 7, 0],
            [5, 2, 7, 0]])
    """

    def __init__(
        self,
        steps=16,
        canvas_length=192,
        entropy_bound=0.1,
        max_temperature=0.8,
        min_temperature=0.4,
        stable_steps=1,
        confidence=0.005,
        seed=0,
    ):
        super().__init__(steps, canvas_length, seed)
        self.entropy_bound = entropy_bound
        self.max_temperature = max_temperature
        self.min_temperature = min_temperature
        self.stable_steps = stable_steps
        self.max_entropy = confidence

    def temperature(self, taken, steps):
        """Temperature after so many of the steps.

        Arguments
        ---------
        taken : int or torch.Tensor
        steps : int

        Returns
        -------
        temperature : float or torch.Tensor

        Example
        -------
        >>> sampler = EntropyBoundSampler(max_temperature=0.8, min_temperature=0.4)
        >>> sampler.temperature(0, 4), round(sampler.temperature(3, 4), 3)
        (0.8, 0.5)
        """
        remaining = (steps - taken) / steps
        return self.min_temperature + (self.max_temperature - self.min_temperature) * remaining

    def accept(self, entropy):
        """Chooses the positions to keep.

        Arguments
        ---------
        entropy : torch.Tensor
            Of each position in nats, [B, C].

        Returns
        -------
        accepted : torch.Tensor
            bool [B, C].

        Example
        -------
        >>> sampler = EntropyBoundSampler(entropy_bound=0.1)
        >>> sampler.accept(torch.tensor([[0.9, 0.01, 0.08, 0.02, 0.5]]))
        tensor([[False,  True,  True,  True, False]])
        """
        ordered, order = entropy.sort(dim=-1)
        before = ordered.cumsum(dim=-1) - ordered  # entropy of all that is surer
        return torch.zeros_like(before, dtype=torch.bool).scatter(
            -1, order, before <= self.entropy_bound
        )

    def is_finished(self, unchanged, entropy):
        """Which utterances are stable and sure.

        Arguments
        ---------
        unchanged : torch.Tensor
            Steps for which the most probable tokens have been the same, [B].
        entropy : torch.Tensor
            Mean over the positions of each utterance in nats, [B].

        Returns
        -------
        finished : torch.Tensor
            bool [B].
        """
        return (entropy < self.max_entropy) & (unchanged >= self.stable_steps)
