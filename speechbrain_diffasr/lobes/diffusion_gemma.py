"""A way to run mixture-of-experts layers, beside those that transformers brings."""

import inspect
import warnings
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch import nn
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DynamicCache,
)
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import (
    DiffusionGemmaEncoderTextModel,
)

from speechbrain_diffasr.lobes.output_layer import Head

# transformers 5.24 calls past_key_values cache, and warns of the old name at every call.
_CACHE = (
    "cache"
    if "cache" in inspect.signature(DiffusionGemmaEncoderTextModel.forward).parameters
    else "past_key_values"
)


def dense_experts_forward(self, hidden_states, top_k_index, top_k_weights):
    """Runs every expert on every token and weighs the unchosen ones with zero.

    With a handful of experts this is faster than gathering each one's tokens, forward and
    backward, and its shapes do not depend on the routing: it can be compiled and captured.
    With 128 experts use "grouped_mm".

    Arguments
    ---------
    self : torch.nn.Module
        The experts of a layer, with `gate_up_proj` [E, 2F, D] and `down_proj` [E, D, F].
    hidden_states : torch.Tensor
        [N, D].
    top_k_index : torch.Tensor
        Chosen experts, [N, K].
    top_k_weights : torch.Tensor
        Their weights, [N, K].

    Returns
    -------
    output : torch.Tensor
        [N, D].

    Example
    -------
    >>> from types import SimpleNamespace
    >>> experts = SimpleNamespace(gate_up_proj=torch.ones(2, 6, 4), down_proj=torch.ones(2, 4, 3),
    ...                           act_fn=torch.relu)
    >>> index, weights = torch.tensor([[1]]), torch.tensor([[0.5]])
    >>> dense_experts_forward(experts, torch.ones(1, 4), index, weights)
    tensor([[24., 24., 24., 24.]])
    """
    num_experts = self.gate_up_proj.shape[0]
    weights = torch.zeros(
        len(hidden_states), num_experts, dtype=top_k_weights.dtype, device=hidden_states.device
    ).scatter(1, top_k_index, top_k_weights)  # [N, E]
    gate, up = torch.einsum("nd,efd->enf", hidden_states, self.gate_up_proj).chunk(2, dim=-1)
    outputs = torch.einsum("enf,edf->end", self.act_fn(gate) * up, self.down_proj)  # [E, N, D]
    return (outputs * weights.T[..., None]).sum(dim=0).to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register("dense", dense_experts_forward)


# The attention projections of both halves. Layers with full attention have no v_proj: their
# values are their keys.
LORA_TARGETS = r".*(encoder\.language_model|decoder)\.layers\.\d+\.self_attn\.[qkvo]_proj"


@dataclass(frozen=True)
class Context:
    """What the causal encoder leaves for the decoder.

    Arguments
    ---------
    cache : transformers.DynamicCache
        Keys and values of the sequence; the decoder reads them and never writes.
    mask : torch.Tensor
        Which positions of the sequence the decoder may see, bool [B, T].
    lengths : torch.Tensor
        Length of the prompt, int [B]; the canvas takes the positions behind it.
    """

    cache: DynamicCache
    mask: torch.Tensor
    lengths: torch.Tensor


@register_checkpoint_hooks
class DiffusionGemma(nn.Module):
    """DiffusionGemma with LoRA adapters, fed with embeddings instead of token ids.

    The vision tower of the released checkpoint is dropped. Encoder and decoder share their base
    weights but not their LoRA deltas, so the adapters are never merged: one tensor cannot hold
    both sums.

    Arguments
    ---------
    source : str, optional
        Hub name ("google/diffusiongemma-26B-A4B-it") or folder of a checkpoint.
    config : dict, optional
        Fields of `transformers.DiffusionGemmaTextConfig`, for random weights. Exactly one of
        `source` and `config` is given.
    lora : dict, optional
        Fields of `peft.LoraConfig`, such as `{"r": 16, "lora_alpha": 32}`. Default: no adapters.
    freeze : bool
        Whether the base stays as it is, in eval mode whatever `train()` says. Default: True.
    dtype : str
        Precision of the base weights; adapters are trained in float32. Default: "float32".
    experts : str
        How the experts run: "eager", "grouped_mm" (fast on a GPU) or "batched_mm" of
        transformers, or "dense" (fast with a handful of experts). Default: "eager".
    device_map : str or dict, optional
        Where `from_pretrained` puts the weights as it reads them. Default: the CPU.

    Example
    -------
    >>> config = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16,
    ...           "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    ...           "num_global_key_value_heads": 1,
    ...           "head_dim": 8, "global_head_dim": 8, "num_experts": 2, "top_k_experts": 1,
    ...           "moe_intermediate_size": 8}
    >>> model = DiffusionGemma(config=config, lora={"r": 2})
    >>> prompt = model.embed(torch.tensor([[2, 4, 6]]))
    >>> hidden, context = model.encode(prompt)
    >>> canvas = torch.randint(50, (1, 8))
    >>> model.logits(model.denoise(canvas, context)).shape
    torch.Size([1, 8, 50])
    """

    def __init__(
        self,
        source=None,
        config=None,
        lora=None,
        freeze=True,
        dtype="float32",
        experts="eager",
        device_map=None,
    ):
        super().__init__()
        if bool(source) == bool(config):
            raise ValueError("DiffusionGemma: give either source or config")
        if source:
            model = DiffusionGemmaForBlockDiffusion.from_pretrained(
                source, dtype=getattr(torch, dtype), device_map=device_map
            )
        else:
            model = _from_config(config, getattr(torch, dtype))
        model.model.encoder.vision_tower = None
        model.model.encoder.embed_vision = None
        model.set_experts_implementation(experts)
        text_config = model.config.get_text_config()
        self.hidden_size = text_config.hidden_size
        self.vocab_size = text_config.vocab_size
        self.softcap = text_config.final_logit_softcapping

        self.freeze = freeze
        if freeze:
            model.requires_grad_(False)
        self.has_adapters = lora is not None
        if self.has_adapters:
            lora_config = LoraConfig(**{"target_modules": LORA_TARGETS, **lora})
            with warnings.catch_warnings():
                # peft asks transformers for an attribute by its old name.
                warnings.simplefilter("ignore", FutureWarning)
                model = get_peft_model(model, lora_config)
            if not freeze:  # peft freezes whatever it wraps
                model.requires_grad_(True)
        # The base is found through `core`; as a second attribute it would be registered twice.
        self.model = model
        self.train(self.training)

    @property
    def core(self):
        """The `DiffusionGemmaForBlockDiffusion` under the adapters."""
        return self.model.get_base_model() if self.has_adapters else self.model

    def train(self, mode=True):
        """Sets training mode; a frozen base stays in eval mode, its adapters follow `mode`."""
        super().train(mode)
        if self.freeze:
            for name, module in self.model.named_modules():
                if "lora_" not in name:
                    module.training = False
        return self

    @property
    def head(self):
        """The vocabulary projection, for losses that never build all logits at once."""
        return Head(self.core.lm_head.weight, self.softcap)

    def embed(self, tokens):
        """Looks tokens up, scaled by the root of the width as the encoder wants them.

        Arguments
        ---------
        tokens : torch.Tensor
            [B, T].

        Returns
        -------
        embeddings : torch.Tensor
            [B, T, hidden_size].
        """
        return self.core.model.encoder.language_model.embed_tokens(tokens)

    def encode(self, embeddings, lengths=None, visible=None):
        """Runs the causal encoder and keeps its keys and values for the decoder.

        Sequences of different length are padded on the right: what comes before is causal and
        never sees the padding.

        Arguments
        ---------
        embeddings : torch.Tensor
            Prompt, and in training the transcript behind it, [B, T, hidden_size].
        lengths : torch.Tensor, optional
            Length of each prompt, [B]. Default: T.
        visible : torch.Tensor, optional
            Which positions the decoder may see, bool [B, T]. Default: the prompt.

        Returns
        -------
        hidden : torch.Tensor
            Last hidden states, [B, T, hidden_size].
        context : Context
            What `denoise` needs.
        """
        batch, total, _ = embeddings.shape
        if lengths is None:
            lengths = torch.full((batch,), total, device=embeddings.device)
        if visible is None:
            visible = torch.arange(total, device=embeddings.device) < lengths[:, None]  # [B, T]
        core = self.core
        cache = DynamicCache(config=core.config.get_text_config())
        output = core.model.encoder.language_model(
            inputs_embeds=embeddings.to(core.dtype), **{_CACHE: cache}
        )
        return output.last_hidden_state, Context(cache, visible, lengths)

    def follow(self, prompt, tokens):
        """Runs the causal encoder over several continuations of one prompt, which it reads once.

        Arguments
        ---------
        prompt : torch.Tensor
            Embeddings, [1, T, hidden_size].
        tokens : torch.Tensor
            Continuations, padded on the right with anything, [N, L].

        Returns
        -------
        hidden : torch.Tensor
            Last hidden states of the position before each token: what predicts it,
            [N, L, hidden_size].
        """
        hidden, context = self.encode(prompt)
        if tokens.shape[1] == 1:  # the prompt alone predicts it, and layers refuse empty input
            return hidden[:, -1:].expand(len(tokens), -1, -1)
        cache = context.cache
        cache.batch_repeat_interleave(len(tokens))
        more = self.core.model.encoder.language_model(
            inputs_embeds=self.embed(tokens[:, :-1]).to(self.core.dtype), **{_CACHE: cache}
        ).last_hidden_state
        return torch.cat([hidden[:, -1:].expand(len(tokens), -1, -1), more], dim=1)

    def denoise(
        self, canvas, context, self_conditioning=None, self_conditioning_mask=None, lengths=None
    ):
        """Predicts all positions of a canvas at once.

        Arguments
        ---------
        canvas : torch.Tensor
            Token ids, [B, C].
        context : Context
            From `encode`.
        self_conditioning : torch.Tensor, optional
            Logits of the previous denoising step, [B, C, vocab_size]. Default: none, as at the
            first step.
        self_conditioning_mask : torch.Tensor, optional
            Which utterances use them, bool [B]. Default: all.
        lengths : torch.Tensor, optional
            Tokens that each canvas has, [B]; what lies behind them is not seen. Default: C.

        Returns
        -------
        hidden : torch.Tensor
            Last hidden states, [B, C, hidden_size].
        """
        core = self.core
        positions = torch.arange(canvas.shape[1], device=canvas.device)
        inside = context.mask.new_ones(canvas.shape)
        if lengths is not None:
            inside = positions < lengths[:, None]
        seen = torch.cat([context.mask, inside], dim=1)  # [B, T + C]
        mask = seen[:, None, None, :].expand(-1, 1, canvas.shape[1], -1)  # [B, 1, C, T + C]
        # Sliding layers cache the end of a long sequence only. The decoder is given whole masks:
        # from a flat one it would make them itself, after waiting for the GPU at every step.
        window = core.config.get_text_config().sliding_window - 1 + canvas.shape[1]
        return core.model.decoder(
            decoder_input_ids=canvas,
            **{_CACHE: context.cache},
            self_conditioning_logits=self_conditioning,
            self_conditioning_mask=self_conditioning_mask,
            decoder_attention_mask={
                "full_attention": mask,
                "sliding_attention": mask[..., -window:],
            },
            decoder_position_ids=context.lengths[:, None] + positions,
        ).last_hidden_state

    def logits(self, hidden):
        """Maps hidden states to the vocabulary, with the softcap, in float32.

        Arguments
        ---------
        hidden : torch.Tensor
            [B, T, hidden_size].

        Returns
        -------
        logits : torch.Tensor
            [B, T, vocab_size].
        """
        logits = self.core.lm_head(hidden).float()
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits

    @mark_as_saver
    def save_trained(self, path):
        """Writes the weights that are trained, for a checkpoint.

        Arguments
        ---------
        path : str or Path
            Of a safetensors file.
        """
        trained = {
            n: p.detach().contiguous() for n, p in self.named_parameters() if p.requires_grad
        }
        save_file(trained, path)

    @mark_as_loader
    def load_trained(self, path, end_of_epoch=False):
        """Reads what `save_trained` wrote.

        Arguments
        ---------
        path : str or Path
            Of a safetensors file.
        end_of_epoch : bool
            Not used; SpeechBrain's checkpointer gives it.
        """
        del end_of_epoch
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        weights = load_file(path)
        if own.keys() != weights.keys():
            odd = sorted(own.keys() ^ weights.keys())[0]
            raise ValueError(f"{path}: made with other trained weights ({odd}); start afresh")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])

    def base_state_dict(self):
        """The base weights by transformers' own names, each shared tensor once."""
        return {
            _without_adapter(name): tensor
            for name, tensor in self.model.state_dict().items()
            if "lora_" not in name and _is_owner(_without_adapter(name))
        }

    def load_base_state_dict(self, weights):
        """Loads what `base_state_dict` gave.

        Arguments
        ---------
        weights : dict
            Tensors by name.

        Raises
        ------
        ValueError
            If names or shapes differ from this model's.
        """
        own = self.base_state_dict()
        if own.keys() != weights.keys():
            odd = sorted(own.keys() ^ weights.keys())
            raise ValueError(
                f"base weights do not fit the configuration: {len(odd)} names, {odd[0]}"
            )
        for name, tensor in own.items():
            if tensor.shape != weights[name].shape:
                raise ValueError(
                    f"base weights do not fit the configuration: {name} is "
                    f"{list(weights[name].shape)}, expected {list(tensor.shape)}"
                )
            with torch.no_grad():
                tensor.copy_(weights[name])
        # Buffers are not tied: each half has its own copy.
        for name, tensor in self.core.state_dict().items():
            if name.endswith("layer_scalar") and not _is_owner(_without_adapter(name)):
                source = name.replace("encoder.language_model", "decoder")
                tensor.copy_(weights[_without_adapter(source)])

    def adapter_state_dict(self):
        """The LoRA weights by peft's names."""
        return get_peft_model_state_dict(self.model, save_embedding_layers=False)

    def load_adapter_state_dict(self, weights):
        """Loads what `adapter_state_dict` gave, or what peft saved.

        Arguments
        ---------
        weights : dict
            Tensors by name.

        Raises
        ------
        ValueError
            If the adapter is for another model, rank or set of layers.
        """
        own = self.adapter_state_dict()
        for name, tensor in own.items():
            if name not in weights or weights[name].shape != tensor.shape:
                found = list(weights[name].shape) if name in weights else "missing"
                raise ValueError(
                    f"the adapter does not fit this model: {name} is {found}, expected "
                    f"{list(tensor.shape)}; compare r and target_modules in adapter_config.json"
                )
        set_peft_model_state_dict(self.model, weights)

    def adapter_config(self):
        """The LoRA configuration as peft stores it (`adapter_config.json`)."""
        return self.model.peft_config["default"]


def _from_config(config, dtype):
    """Builds the architecture with random weights."""
    config = DiffusionGemmaConfig(
        text_config=dict(config),
        # The tower is dropped at once; the smallest that the class accepts is built.
        vision_config={
            "model_type": "gemma4_vision",
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 8,
        },
        # With embeddings as input, transformers 5.17 looks this token up: keep it in range.
        image_token_id=0,
    )
    return DiffusionGemmaForBlockDiffusion._from_config(config, dtype=dtype)


def _without_adapter(name):
    """Strips what peft puts into the names of base weights."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _is_owner(name):
    """Whether a tensor is kept under this name; its ties and copies are not."""
    return not name.startswith(("model.encoder.", "lm_head."))
