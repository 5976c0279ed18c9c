"""Denoising with the modules of transformers as they are."""

import torch
from transformers import DynamicCache

from speechbrain_diffasr.decoders.joint import join
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

    def allocate(self, slots, prompt_width, canvas_width, beginning=(), joint=None):
        """Makes room for utterances; see `FusedDenoiser.allocate`."""
        del beginning
        return EagerCache(self.gemma, slots, prompt_width, canvas_width, joint)

    def is_current(self):
        """Always, since nothing is copied; see `FusedDenoiser.is_current`."""
        return True


class EagerCache:
    """Keys, values and logits of the utterances that are decoded together.

    Arguments
    ---------
    gemma : DiffusionGemma
    slots : int
        Utterances at once.
    prompt_width, canvas_width : int
        Tokens of the longest prompt and canvas.
    joint : JointSettings, optional
        How CTC's evidence is joined. Default: it is not.
    """

    def __init__(self, gemma, slots, prompt_width, canvas_width, joint=None):
        check_window(gemma, prompt_width, canvas_width)
        self.gemma, self.joint = gemma, joint
        self.evidence = joint and joint.silence(slots, gemma.head.weight.device)
        self.prompt_width, self.canvas_width = prompt_width, canvas_width
        self.entered = {}  # by slot: cached keys and values by layer, mask, prompt length
        self.logits = {}  # by slot: of the last step
        self.slots, self.context = None, None

    def prefill(self, slots, embeddings, lengths, evidence=None):
        """Encodes the prompts of utterances; see `KVCache.prefill`."""
        if self.joint is not None:
            self.evidence[slots] = evidence
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
        scaled = logits / temperature[:, None, None]
        predictions = read_logits(logits, temperature, uniforms)
        if self.joint is not None:
            predictions, scaled = self._join(predictions, scaled.float(), canvases, uniforms)
        self.logits.update(zip(slots, scaled.to(hidden.dtype), strict=True))
        return predictions

    def _join(self, predictions, scaled, canvases, uniforms):
        """Predictions that heed CTC, and logits of the same distributions."""
        evidence, end = self.evidence[canvases.slots], self.joint.end
        probs = scaled.softmax(dim=-1)
        columns = evidence.tokens[:, None].expand(-1, probs.shape[1], -1)
        joined, joint_probs, tokens = join(
            predictions,
            probs.gather(2, columns),
            probs[..., end],
            evidence,
            self.joint.weight,
            canvases.lengths,
            uniforms,
            end,
        )
        return joined, torch.zeros_like(probs).scatter_add_(2, tokens, joint_probs).log()

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
