"""DiffusionGemma's weights as the fused layers want them."""

from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer

from speechbrain_diffasr.kernels.experts import quantize_rows


@dataclass(frozen=True)
class PackedLayer:
    """One layer of the encoder or the decoder.

    Matrices that read the same input lie in one tensor; LoRA deltas are added. Norms, experts and
    whatever no adapter changes are the model's own tensors, not copies.
    """

    sliding: bool
    num_heads: int
    num_kv_heads: int
    head_dim: int
    input_norm: torch.Tensor
    qkv: torch.Tensor  # [(H + 2 KV) d, D], or [(H + KV) d, D] where values are the keys
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    o: torch.Tensor  # [D, H d]
    post_attention_norm: torch.Tensor
    pre_norms: list  # of the dense part, the experts and the router
    gate_up: torch.Tensor  # [2 F, D]
    down: torch.Tensor  # [D, F]
    router: torch.Tensor  # [E, D]
    per_expert_scale: torch.Tensor
    experts: tuple  # gate and up [E, 2 F, D], down [E, D, F], and their scales or None
    post_norms: list  # of the dense part, the experts and both
    scalar: torch.Tensor


class WeightPacker:
    """Collects the weights of a model; what both halves share is made once.

    Arguments
    ---------
    dtype : torch.dtype
        Of the packed weights.
    fp8_experts : bool
        Whether the experts' weights are rounded to float8 (e4m3), with a scale for each row.
    """

    def __init__(self, dtype, fp8_experts=False):
        self.dtype = dtype
        self.fp8_experts = fp8_experts
        self._made = {}
        self.sources = []  # parameters that were copied

    def layer(self, layer, layer_type):
        """Packs a layer of transformers.

        Arguments
        ---------
        layer : torch.nn.Module
            `DiffusionGemmaEncoderTextLayer` or `DiffusionGemmaDecoderTextLayer`.
        layer_type : str
            "sliding_attention" or "full_attention".

        Returns
        -------
        packed : PackedLayer
        """
        attention, router = layer.self_attn, layer.router
        projections = [attention.q_proj, attention.k_proj]
        if attention.v_proj is not None:
            projections.append(attention.v_proj)
        rows = [
            _base(projection).weight.shape[0] // attention.head_dim for projection in projections
        ]
        same = self.same
        router_scale = self.once(
            router.scale, lambda scale: scale.float() * router.scalar_root_size
        )
        return PackedLayer(
            sliding=layer_type == "sliding_attention",
            num_heads=rows[0],
            num_kv_heads=rows[1],
            head_dim=attention.head_dim,
            input_norm=same(layer.input_layernorm.weight),
            qkv=self.matrix(*projections),
            q_norm=same(attention.q_norm.weight),
            k_norm=same(attention.k_norm.weight),
            o=self.matrix(attention.o_proj),
            post_attention_norm=same(layer.post_attention_layernorm.weight),
            pre_norms=[
                same(layer.pre_feedforward_layernorm.weight),
                same(layer.pre_feedforward_layernorm_2.weight),
                router_scale,
            ],
            gate_up=self.matrix(layer.mlp.gate_proj, layer.mlp.up_proj),
            down=self.matrix(layer.mlp.down_proj),
            router=self.matrix(router.proj),
            per_expert_scale=same(router.per_expert_scale),
            experts=self.experts(layer.experts),
            post_norms=[
                same(layer.post_feedforward_layernorm_1.weight),
                same(layer.post_feedforward_layernorm_2.weight),
                same(layer.post_feedforward_layernorm.weight),
            ],
            scalar=layer.layer_scalar.to(self.dtype),
        )

    def matrix(self, *linears):
        """Weights of linear layers with the same input, one below the other.

        Arguments
        ---------
        *linears : torch.nn.Linear or peft.tuners.lora.LoraLayer

        Returns
        -------
        weight : torch.Tensor
        """
        for linear in linears:
            self.sources += list(linear.parameters())
        bases = [_base(linear).weight for linear in linears]
        if any(isinstance(linear, LoraLayer) for linear in linears):
            # Rounded once, after the sum in float32.
            return torch.cat([_with_lora(linear) for linear in linears]).to(self.dtype)
        if len(bases) == 1:
            return self.same(bases[0])
        key = tuple(base.data_ptr() for base in bases)
        if key not in self._made:
            self._made[key] = torch.cat([base.detach() for base in bases]).to(self.dtype)
        return self._made[key]

    def experts(self, experts):
        """The experts of a layer: gate and up, down, and the scale of each of their rows or None.

        Arguments
        ---------
        experts : torch.nn.Module

        Returns
        -------
        gate_up, down, gate_up_scale, down_scale : torch.Tensor or None
        """
        tensors = experts.gate_up_proj, experts.down_proj
        if not self.fp8_experts:
            return (*(self.same(tensor) for tensor in tensors), None, None)
        (gate_up, gate_up_scale), (down, down_scale) = (
            self.once(tensor, quantize_rows) for tensor in tensors
        )
        return gate_up, down, gate_up_scale, down_scale

    def same(self, tensor):
        """A tensor of the model, itself if its precision is right."""
        return self.once(tensor, lambda tensor: tensor)

    def once(self, tensor, function):
        """Applies a function to a tensor that two layers may share."""
        key = tensor.data_ptr(), function.__code__
        if key not in self._made:
            if tensor.dtype != self.dtype or function is quantize_rows:
                self.sources.append(tensor)
            made = function(tensor.detach())
            self._made[key] = made.to(self.dtype) if isinstance(made, torch.Tensor) else made
        return self._made[key]


def unsupported_reason(model):
    """Says why a model cannot be packed.

    Arguments
    ---------
    model : torch.nn.Module
        `DiffusionGemmaForBlockDiffusion`, with or without adapters.

    Returns
    -------
    reason : str or None
        None if it can.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        return f"its weights lie on {len(devices)} devices"
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            if not isinstance(_base(module), torch.nn.Linear):
                return f"{name} has an adapter that is not on a linear layer"
            if any(getattr(module, "use_dora", {}).values()):
                return f"{name} has a DoRA adapter"
        if ".layers." in name and getattr(module, "bias", None) is not None:
            return f"{name} has a bias"
        activation = getattr(getattr(module, "config", None), "hidden_activation", None)
        if activation not in (None, "gelu_pytorch_tanh"):
            return f"its activation is {activation}"
    return None


def _base(linear):
    return linear.get_base_layer() if isinstance(linear, LoraLayer) else linear


def _with_lora(linear):
    weight = _base(linear).weight.detach().float()
    if isinstance(linear, LoraLayer):
        for adapter in linear.active_adapters:
            weight = weight + linear.get_delta_weight(adapter).detach().float()
    return weight
