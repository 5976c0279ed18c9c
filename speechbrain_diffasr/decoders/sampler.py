"""The denoising loop: from a canvas of random tokens to a transcript in a few parallel steps."""

from dataclasses import dataclass

import torch

from speechbrain_diffasr.decoders.canvas import uniform_canvas


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
class Sample:
    """The result of the denoising loop.

    Arguments
    ---------
    tokens : torch.Tensor
        Most probable tokens at each utterance's last step, [B, C].
    log_probs : torch.Tensor
        Their log probabilities, [B, C].
    steps : torch.Tensor
        Denoising steps that each utterance took, [B].
    """

    tokens: torch.Tensor
    log_probs: torch.Tensor
    steps: torch.Tensor


class EntropyBoundSampler:
    """Denoises a canvas, keeping at each step the tokens that are nearly independent.

    At every step the model predicts all positions. Positions are accepted in order of rising
    entropy as long as the entropies of those before sum up to no more than a bound, which bounds
    the mutual information between the accepted tokens (https://arxiv.org/abs/2505.24857). The
    others are drawn anew from the whole vocabulary. The logits condition the next step. An
    utterance is finished once its most probable tokens are stable and their mean entropy is
    low. Each utterance has its own random generator: its transcript does not depend on the batch.

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
        Mean entropy of an utterance in nats under which it may stop early. Default: 0.005.
    seed : int
        For the noise of every utterance that is given none. Default: 0.

    Example
    -------
    >>> target = torch.tensor([5, 2, 7, 0])
    >>> def predict(canvas, self_conditioning):
    ...     return 50.0 * torch.nn.functional.one_hot(target.expand(len(canvas), 4), 10)
    >>> sampler = EntropyBoundSampler(steps=8, canvas_length=4)
    >>> sample = sampler(predict, vocab_size=10, seeds=[1, 2])
    >>> sample.tokens
    tensor([[5, 2, 7, 0],
            [5, 2, 7, 0]])
    >>> sample.steps
    tensor([2, 2])
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
        self.steps = steps
        self.canvas_length = canvas_length
        self.entropy_bound = entropy_bound
        self.max_temperature = max_temperature
        self.min_temperature = min_temperature
        self.stable_steps = stable_steps
        self.confidence = confidence
        self.seed = seed

    def temperature(self, step, steps):
        """Temperature at a step, counted from 1.

        Example
        -------
        >>> sampler = EntropyBoundSampler(max_temperature=0.8, min_temperature=0.4)
        >>> sampler.temperature(1, 4), round(sampler.temperature(4, 4), 3)
        (0.8, 0.5)
        """
        remaining = (steps - step + 1) / steps
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

    @torch.no_grad()
    def __call__(self, predict, vocab_size, seeds, device=None, steps=None, callback=None):
        """Runs the loop.

        Arguments
        ---------
        predict : callable
            Takes a canvas [B, C] and the previous step's logits (None at the first step), and
            returns logits [B, C, vocab_size].
        vocab_size : int
            Tokens that noise is drawn from.
        seeds : list of int
            One for each utterance; None stands for the sampler's own.
        device : torch.device, optional
            Where to draw the noise: where the model is.
        steps : int, optional
            Denoising steps at most. Default: the sampler's own.
        callback : callable, optional
            Is given a `Draft` after every step.

        Returns
        -------
        sample : Sample

        Raises
        ------
        ValueError
            If `steps` is less than 1.
        """
        steps = self.steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps: {steps}; at least one denoising step is needed")
        generators = [
            torch.Generator(device or "cpu").manual_seed(self.seed if seed is None else seed)
            for seed in seeds
        ]

        canvas = uniform_canvas(self.canvas_length, vocab_size, generators, device)
        finished = torch.zeros(len(seeds), dtype=torch.bool, device=device)
        taken = torch.zeros(len(seeds), dtype=torch.long, device=device)
        tokens = torch.full_like(canvas, -1)
        token_log_probs = torch.zeros(canvas.shape, device=device)
        unchanged = torch.zeros_like(taken)  # steps for which the tokens have been stable
        logits = None
        for step in range(1, steps + 1):
            previous = logits
            logits = predict(canvas, previous).float() / self.temperature(step, steps)
            log_probs = logits.log_softmax(dim=-1)  # [B, C, V]
            probs = log_probs.exp()
            entropy = -(probs * log_probs).sum(dim=-1)  # [B, C]
            best, new_tokens = log_probs.max(dim=-1)

            accepted = self.accept(entropy)
            proposal, noise = canvas.clone(), canvas.clone()
            active = (~finished).nonzero().flatten().tolist()
            for row in active:
                proposal[row] = torch.multinomial(probs[row], 1, generator=generators[row])[:, 0]
                noise[row] = uniform_canvas(
                    self.canvas_length, vocab_size, [generators[row]], device
                )[0]

            going = ~finished[:, None]
            unchanged = torch.where((new_tokens == tokens).all(dim=-1), unchanged + 1, 0)
            canvas = torch.where(going, torch.where(accepted, proposal, noise), canvas)
            tokens = torch.where(going, new_tokens, tokens)
            token_log_probs = torch.where(going, best, token_log_probs)
            taken = taken + going[:, 0]
            stable = unchanged >= self.stable_steps
            finished = finished | (stable & (entropy.mean(dim=-1) < self.confidence))
            if callback is not None:
                callback(Draft(step, canvas, tokens, accepted, entropy, finished))
            if bool(finished.all()):
                break
        return Sample(tokens, token_log_probs, taken)
