"""A way to run mixture-of-experts layers, beside those that transformers brings."""

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS


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
