"""RMS norms and what stands between the matrix products of a DiffusionGemma layer, fused.

All tensors of a call have one type. Statistics are computed in float32; between the operations
values are rounded to the tensors' type wherever the layers of transformers'
`modeling_diffusion_gemma` round them, which makes both agree in bfloat16 too.
"""

import torch
from torch.nn import functional as F

from speechbrain_diffasr.kernels.common import MAX_NEXT_WEIGHTS, use_triton


def norm(x, weight, eps):
    """Root mean square norm: x / sqrt(mean(x²) + eps) * weight.

    Arguments
    ---------
    x : torch.Tensor [N, D]
        float32 or bfloat16.
    weight : torch.Tensor [D], optional
        None does not scale.
    eps : float
        Added to the mean square.

    Returns
    -------
    normed : torch.Tensor [N, D]

    Example
    -------
    >>> norm(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), eps=0.0)
    tensor([[0.8485, 2.2627]])
    """
    if use_triton(x):
        from speechbrain_diffasr.kernels import norms_triton

        return norms_triton.norm(x, weight, eps)
    return norm_plain(x, weight, eps)


def norm_plain(x, weight, eps):
    """`norm` in plain torch, for x of any shape [..., D]."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def add_norm(x, residual, weight, next_weights, eps):
    """Norms a sublayer's output, adds it to the residual stream and norms that for what follows.

    Arguments
    ---------
    x : torch.Tensor [N, D]
        What the sublayer gave.
    residual : torch.Tensor [N, D]
    weight : torch.Tensor [D]
        Of the norm of `x`.
    next_weights : sequence of (torch.Tensor [D] or None)
        Up to three scales of norms of the sum; None does not scale.
    eps : float
        Of all norms.

    Returns
    -------
    y : torch.Tensor [N, D]
        residual + norm(x) * weight
    normed : list of torch.Tensor [N, D]
        norm(y) * w for each w of `next_weights`.

    Raises
    ------
    ValueError
        If there are more than three `next_weights`.

    Example
    -------
    >>> x, ones = torch.tensor([[3.0, 4.0]]), torch.ones(2)
    >>> y, (normed, doubled) = add_norm(x, x, ones, [None, 2 * ones], eps=0.0)
    >>> y
    tensor([[3.8485, 5.1314]])
    >>> torch.allclose(doubled, 2 * normed)
    True
    """
    if len(next_weights) > MAX_NEXT_WEIGHTS:
        raise ValueError(f"next_weights: {len(next_weights)} norms, at most {MAX_NEXT_WEIGHTS}")
    if use_triton(x):
        from speechbrain_diffasr.kernels import norms_triton

        return norms_triton.add_norm(x, residual, weight, next_weights, eps)
    return add_norm_plain(x, residual, weight, next_weights, eps)


def add_norm_plain(x, residual, weight, next_weights, eps):
    """`add_norm` in plain torch."""
    y = residual + norm_plain(x, weight, eps)
    wide = norm_plain(y.float(), None, eps)  # once for all, and rounded after it is scaled
    scaled = (wide if w is None else wide * w for w in next_weights)
    return y, [normed.to(y.dtype) for normed in scaled]


def combine_norm(
    dense,
    expert_rows,
    residual,
    dense_weight,
    expert_weight,
    weight,
    scalar,
    next_weight,
    eps,
):
    """Ends a layer: adds dense and expert feed-forward outputs to the residual stream.

    Arguments
    ---------
    dense : torch.Tensor [N, D]
        What the dense feed-forward network gave.
    expert_rows : torch.Tensor [N, K, D]
        What each token's K experts gave, already weighted by the router.
    residual : torch.Tensor [N, D]
    dense_weight : torch.Tensor [D]
        Of the norm of `dense` (post_feedforward_layernorm_1).
    expert_weight : torch.Tensor [D]
        Of the norm of the experts' sum (post_feedforward_layernorm_2).
    weight : torch.Tensor [D]
        Of the norm of both together (post_feedforward_layernorm).
    scalar : torch.Tensor [1]
        Scales the layer's output (layer_scalar).
    next_weight : torch.Tensor [D], optional
        Of the norm that follows (the next layer's input_layernorm); None does not scale.
    eps : float
        Of all norms.

    Returns
    -------
    y : torch.Tensor [N, D]
        (residual + norm(norm(dense) * dense_weight + norm(sum of expert_rows) * expert_weight)
        * weight) * scalar
    normed : torch.Tensor [N, D]
        norm(y) * next_weight

    Example
    -------
    >>> x, ones = torch.tensor([[3.0, 4.0]]), torch.ones(2)
    >>> y, normed = combine_norm(
    ...     x, torch.stack([x, -x, x], 1), x, ones, ones, ones, torch.tensor([0.5]), ones, eps=0.0
    ... )
    >>> y  # (x + norm(2 norm(x))) / 2
    tensor([[1.9243, 2.5657]])
    """
    arguments = (dense, expert_rows, residual, dense_weight, expert_weight, weight, scalar)
    if use_triton(dense):
        from speechbrain_diffasr.kernels import norms_triton

        return norms_triton.combine_norm(*arguments, next_weight, eps)
    return combine_norm_plain(*arguments, next_weight, eps)


def combine_norm_plain(
    dense,
    expert_rows,
    residual,
    dense_weight,
    expert_weight,
    weight,
    scalar,
    next_weight,
    eps,
):
    """`combine_norm` in plain torch."""
    experts = expert_rows.sum(1, dtype=torch.float32).to(dense.dtype)
    both = norm_plain(dense, dense_weight, eps) + norm_plain(experts, expert_weight, eps)
    y = ((residual + norm_plain(both, weight, eps)) * scalar).to(dense.dtype)
    return y, norm_plain(y, next_weight, eps)


def gated_gelu(x):
    """GELU (tanh approximation) of the first half of the columns times the second half.

    Arguments
    ---------
    x : torch.Tensor [N, 2 F]
        Gate and value, side by side.

    Returns
    -------
    gated : torch.Tensor [N, F]

    Example
    -------
    >>> gated_gelu(torch.tensor([[0.0, 10.0, 5.0, 5.0]]))
    tensor([[ 0., 50.]])
    """
    if use_triton(x):
        from speechbrain_diffasr.kernels import norms_triton

        return norms_triton.gated_gelu(x)
    return gated_gelu_plain(x)


def gated_gelu_plain(x):
    """`gated_gelu` in plain torch."""
    gate, value = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * value


def split_heads(qkv, q_weight, k_weight, cos, sin, keys, values, rows, start, num_heads, eps):
    """Norms and rotates queries and keys, norms values, and stores keys and values.

    Arguments
    ---------
    qkv : torch.Tensor [B, S, W]
        Projections: the H query heads, then the KV key heads, then the KV value heads, each of
        width d. Without value heads (W = (H + KV) d) the values are the projected keys, before
        their norm.
    q_weight : torch.Tensor [d]
        Of the norm of queries.
    k_weight : torch.Tensor [d]
        Of the norm of keys; the norm of values has no scale.
    cos : torch.Tensor [B, S, d]
    sin : torch.Tensor [B, S, d]
        The rotary embedding of each position (https://arxiv.org/abs/2104.09864).
    keys : torch.Tensor [R, KV, T, d]
        Buffer, written in place at keys[rows[b], :, start + s].
    values : torch.Tensor [R, KV, T, d]
        Buffer, likewise; its strides are those of `keys`.
    rows : torch.Tensor [B]
        int64, the row of the buffers that each utterance has. Where several share one row, any of
        them may be the one that it keeps.
    start : int
        Position of the first of the S tokens in the buffers.
    num_heads : int
        H.
    eps : float
        Of all norms.

    Returns
    -------
    q : torch.Tensor [B, S, H, d]

    Example
    -------
    >>> keys, values = torch.zeros(2, 3, 1, 7, 8)
    >>> ones, cos, sin = torch.ones(8), torch.ones(2, 5, 8), torch.zeros(2, 5, 8)
    >>> q = split_heads(
    ...     torch.rand(2, 5, 32), ones, ones, cos, sin, keys, values, torch.tensor([2, 0]), start=2,
    ...     num_heads=2, eps=1e-6,
    ... )
    >>> q.shape
    torch.Size([2, 5, 2, 8])
    >>> keys[:, 0].any(-1)
    tensor([[False, False,  True,  True,  True,  True,  True],
            [False, False, False, False, False, False, False],
            [False, False,  True,  True,  True,  True,  True]])
    """
    arguments = (qkv, q_weight, k_weight, cos, sin, keys, values, rows, start, num_heads, eps)
    if use_triton(qkv):
        from speechbrain_diffasr.kernels import norms_triton

        return norms_triton.split_heads(*arguments)
    return split_heads_plain(*arguments)


def split_heads_plain(qkv, q_weight, k_weight, cos, sin, keys, values, rows, start, num_heads, eps):
    """`split_heads` in plain torch."""
    num_kv_heads, size = keys.shape[1], keys.shape[3]
    length = qkv.shape[1]
    q, k, *v = qkv.unflatten(-1, (-1, size)).split_with_sizes(
        [num_heads] + [num_kv_heads] * ((qkv.shape[-1] // size - num_heads) // num_kv_heads),
        dim=2,
    )
    v = v[0] if v else k
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    q = _rotate(norm_plain(q, q_weight, eps), cos, sin)
    k = _rotate(norm_plain(k, k_weight, eps), cos, sin)
    v = norm_plain(v, None, eps)
    keys[rows, :, start : start + length] = k.transpose(1, 2)
    values[rows, :, start : start + length] = v.transpose(1, 2)
    return q


def _rotate(x, cos, sin):
    """Rotary embedding of x [B, S, heads, d] by cos and sin [B, S, 1, d]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
