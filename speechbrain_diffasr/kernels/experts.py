"""Mixture-of-experts layers of DiffusionGemma without gradients: routing and expert products."""

import torch
from torch.nn import functional as F

from speechbrain_diffasr.kernels.common import use_triton
from speechbrain_diffasr.kernels.norms import gated_gelu_plain


def route(scores, per_expert_scale, k):
    """Chooses the experts of each token, and their weights.

    Arguments
    ---------
    scores : torch.Tensor [N, E]
        Router's scores, float32 or bfloat16.
    per_expert_scale : torch.Tensor [E]
        Multiplies the weights.
    k : int
        Experts for each token, at most E.

    Returns
    -------
    weights : torch.Tensor [N, k]
        float32: softmax of the scores over the chosen experts, times their scale. In falling order
        of the scores.
    index : torch.Tensor [N, k]
        int32, the experts with the highest scores; of equal ones the first.

    Example
    -------
    >>> weights, index = route(torch.tensor([[1.0, 3.0, 3.0, 0.0]]), torch.ones(4), k=2)
    >>> weights, index
    (tensor([[0.5000, 0.5000]]), tensor([[1, 2]], dtype=torch.int32))
    """
    if use_triton(scores):
        from speechbrain_diffasr.kernels import experts_triton as routing_triton

        return routing_triton.route(scores, per_expert_scale, k)
    return route_plain(scores, per_expert_scale, k)


def route_plain(scores, per_expert_scale, k):
    """`route` in plain torch."""
    ordered, index = scores.float().sort(dim=-1, descending=True, stable=True)
    # The softmax over all experts, normalised to those chosen, is the softmax over those.
    weights = ordered[:, :k].softmax(dim=-1) * per_expert_scale[index[:, :k]]
    return weights.float(), index[:, :k].int()


def run_experts(x, gate_up, down, index, weights, gate_up_scale=None, down_scale=None):
    """Runs each token through its experts: down(gelu(gate(x)) * up(x)) * weight.

    Values are rounded to the type of `x` after each product and after the activation, as
    transformers' `DiffusionGemmaTextExperts` rounds them; GELU is the tanh approximation.

    Arguments
    ---------
    x : torch.Tensor [N, D]
        float32 or bfloat16.
    gate_up : torch.Tensor [E, 2 F, D]
        Gate weights, then up weights, of the type of `x` or float8_e4m3fn.
    down : torch.Tensor [E, D, F]
        Of the type of `gate_up`.
    index : torch.Tensor [N, K]
        int32, the experts of each token.
    weights : torch.Tensor [N, K]
        float32, of each expert's output.
    gate_up_scale : torch.Tensor [E, 2 F], optional
        float32, with float8 weights: what each row of `gate_up` is multiplied by.
    down_scale : torch.Tensor [E, D], optional
        Likewise, of each row of `down`.

    Returns
    -------
    outputs : torch.Tensor [N, K, D]
        Of the type of `x`; to be summed over K.

    Example
    -------
    >>> x, index, weights = torch.ones(1, 4), torch.tensor([[1]]), torch.tensor([[0.5]])
    >>> gate_up, down = 10 * torch.ones(2, 6, 4), torch.ones(2, 4, 3)
    >>> run_experts(x, gate_up, down, index.int(), weights)
    tensor([[[2400., 2400., 2400., 2400.]]])
    """
    arguments = x, gate_up, down, index, weights, gate_up_scale, down_scale
    if use_triton(x):
        from speechbrain_diffasr.kernels import experts_triton

        return experts_triton.run_experts(*arguments)
    return run_experts_plain(*arguments)


def run_experts_plain(x, gate_up, down, index, weights, gate_up_scale=None, down_scale=None):
    """`run_experts` in plain torch; it waits for the device."""
    order = index.flatten().argsort(stable=True)
    counts = index.flatten().bincount(minlength=len(down)).tolist()
    groups = zip(order.split(counts), x[order // index.shape[1]].split(counts), strict=True)
    outputs = x.new_empty(len(order), down.shape[1])
    for expert, (pairs, inputs) in enumerate(groups):
        if len(pairs):
            gated = gated_gelu_plain(_product(inputs, gate_up, gate_up_scale, expert))
            outputs[pairs] = _product(gated, down, down_scale, expert)
    outputs = outputs.view(*index.shape, -1)
    return (outputs * weights[..., None]).to(x.dtype)


def _product(x, weights, scales, expert):
    """x [N, I] times an expert's weights [E, O, I], whose rows have scales [E, O] or None."""
    if scales is None:
        return F.linear(x, weights[expert])
    return (F.linear(x.float(), weights[expert].float()) * scales[expert]).to(x.dtype)


def quantize_rows(weight):
    """Rounds weights to float8_e4m3fn, with a scale for each row.

    Arguments
    ---------
    weight : torch.Tensor [E, O, I]

    Returns
    -------
    quantized : torch.Tensor [E, O, I]
        float8_e4m3fn; times the scale it differs from `weight` by at most 1/16 of a value, or
        scale / 1024 where that is more.
    scale : torch.Tensor [E, O]
        float32; the largest magnitude of a row becomes 448, the largest of the type.

    Example
    -------
    >>> quantized, scale = quantize_rows(torch.tensor([[[3.0, -4.48], [0.0, 0.0]]]))
    >>> scale
    tensor([[0.0100, 1.0000]])
    >>> quantized.float() * scale[..., None]
    tensor([[[ 2.8800, -4.4800],
             [ 0.0000,  0.0000]]])
    """
    largest = torch.finfo(torch.float8_e4m3fn).max
    quantized = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    scale = torch.empty(weight.shape[:2], dtype=torch.float32, device=weight.device)
    for e, matrix in enumerate(weight):  # one by one: all at once would take twice the memory
        peak = matrix.abs().amax(dim=-1).float()
        scale[e] = torch.where(peak > 0, peak / largest, 1.0)
        quantized[e] = (matrix / scale[e][:, None]).clamp(-largest, largest)
    return quantized, scale
