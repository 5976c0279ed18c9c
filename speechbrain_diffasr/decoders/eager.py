"""Denoising with the modules of transformers as they are."""

import torch
from transformers import DynamicCache

from speechbrain_diffasr.kernels.vocabulary import read_logits
from speechbrain_diffasr.lobes.diffusion_gemma import Context


class EagerDenoiser:
    """What `FusedDenoiser` is measured against, and what decodes where it cannot.

    Arguments
    ---------
    gemma : DiffusionGemma
        The model, wherever and however its weights lie.
    """

    def __init__(self, gemma):
        self.gemma = gemma

    def allocate(self, slots, prompt_width, canvas_width, beginning=()):
        """Makes room for utterances; see `FusedDenoiser.allocate`."""
        del slots, beginning
        return EagerCache(self.gemma, prompt_width, canvas_width)

    def is_current(self):
        """Always, since nothing is copied; see `FusedDenoiser.is_current`."""
        return True


class EagerCache:
    """Keys, values and logits of the utterances that are decoded together.

    Arguments
    ---------
    gemma : DiffusionGemma
    prompt_width, canvas_width : int
        Tokens of the longest prompt and canvas.
    """

    def __init__(self, gemma, prompt_width, canvas_width):
        check_window(gemma, prompt_width, canvas_width)
        self.gemma = gemma
        self.prompt_width, self.canvas_width = prompt_width, canvas_width
        self.entered = {}  # by slot: cached keys and values by layer, mask, prompt length
        self.logits = {}  # by slot: of the last step
        self.slots, self.context = None, None

    def prefill(self, slots, embeddings, lengths):
        """Encodes the prompts of utterances; see `KVCache.prefill`."""
        _, context = self.gemma.encode(embeddings, lengths)
        for row, slot in enumerate(slots.tolist()):
            layers = [(layer.keys[row], layer.values[row]) for layer in context.cache.layers]
            self.entered[slot] = layers, context.mask[row], lengths[row]
            self.logits.pop(slot, None)
        self.slots = None

    def __call__(self, canvases, temperature, uniforms):
        """Predicts all positions of the canvases; see `KVCache.__call__`."""
        slots = canvases.slots.tolist()
        if slots != self.slots:
            self.slots, self.context = slots, self._gather(slots)
        previous, mask = None, None
        if any(slot in self.logits for slot in slots):
            mask = torch.tensor([slot in self.logits for slot in slots])
            mask = mask.to(canvases.canvas.device)
            some = next(logits for logits in self.logits.values())
            previous = torch.stack([self.logits.get(slot, some) for slot in slots])
        hidden = self.gemma.denoise(
            canvases.canvas, self.context, previous, mask, lengths=canvases.lengths
        )
        logits = self.gemma.logits(hidden)  # [B, C, V]
        scaled = (logits / temperature[:, None, None]).to(hidden.dtype)
        self.logits.update(zip(slots, scaled, strict=True))
        return read_logits(logits, temperature, uniforms)

    def _gather(self, slots):
        """The context of the utterances in these slots, in this order."""
        layers, masks, lengths = zip(*(self.entered[slot] for slot in slots), strict=True)
        cache = DynamicCache(config=self.gemma.core.config.get_text_config())
        for index, pairs in enumerate(zip(*layers, strict=True)):
            keys, values = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
            cache.update(keys, values, index)
        return Context(cache, torch.stack(masks), torch.stack(lengths))


def check_window(gemma, prompt_width, canvas_width):
    """Refuses what the sliding window of the model's attention would cut in silence.

    Arguments
    ---------
    gemma : DiffusionGemma
    prompt_width, canvas_width : int
        Tokens.

    Raises
    ------
    ValueError
        If prompt and canvas are longer together than the window.
    """
    window = gemma.core.config.get_text_config().sliding_window
    if prompt_width + canvas_width > window:
        raise ValueError(
            f"a prompt of {prompt_width} tokens and a canvas of {canvas_width} do not fit the "
            f"model's sliding window of {window}; lower num_slots or canvas_length"
        )
