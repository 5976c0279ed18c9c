"""Attention with grouped query heads over preallocated buffers of keys and values.

Scores are not scaled: DiffusionGemma norms queries and keys instead. Head h of the queries uses
head h // (H / KV) of the keys and values.
"""

import torch
from torch.nn import functional as F

from speechbrain_diffasr.kernels.common import use_triton


def attend(q, keys, values, rows, prompt_lengths, first, canvas_lengths):
    """Attends from a canvas to its prompt and, in both directions, to itself.

    Position j of utterance b is seen by all its queries if j < prompt_lengths[b] or
    first <= j < first + canvas_lengths[b]. Queries that see nothing give zeros.

    Arguments
    ---------
    q : torch.Tensor [B, S, H, d]
    keys : torch.Tensor [R, KV, T, d]
        Buffer; positions from first + S on are not read.
    values : torch.Tensor [R, KV, T, d]
        Buffer, likewise; its strides are those of `keys`.
    rows : torch.Tensor [B]
        int64, the row of the buffers that each utterance has.
    prompt_lengths : torch.Tensor [B]
        Integers, at most `first`.
    first : int
        Position of the canvas in the buffers.
    canvas_lengths : torch.Tensor [B]
        Integers, at most S.

    Returns
    -------
    attended : torch.Tensor [B, S, H, d]

    Example
    -------
    >>> q, values = torch.zeros(1, 2, 1, 8), torch.zeros(1, 1, 6, 8)
    >>> values[0, 0] = torch.arange(6.0)[:, None]
    >>> row, two = torch.tensor([0]), torch.tensor([2])
    >>> attend(q, values, values, row, two, 4, two)[0, :, 0, 0]  # mean of 0, 1, 4, 5
    tensor([2.5000, 2.5000])
    """
    arguments = (q, keys, values, rows, prompt_lengths, first, canvas_lengths)
    if use_triton(q):
        from speechbrain_diffasr.kernels import attention_triton

        return attention_triton.attend(*arguments)
    return attend_plain(*arguments)


def attend_plain(q, keys, values, rows, prompt_lengths, first, canvas_lengths):
    """`attend` in plain torch."""
    position = torch.arange(first + q.shape[1], device=q.device)
    prompt = position < prompt_lengths[:, None]
    canvas = (position >= first) & (position < first + canvas_lengths[:, None])
    return _attend_plain(q, keys, values, rows, (prompt | canvas)[:, None, None])


def attend_causal(q, keys, values, rows, start):
    """Attends from each token to itself and to all before it.

    Arguments
    ---------
    q : torch.Tensor [B, S, H, d]
        Query s is at position start + s and sees positions up to its own.
    keys : torch.Tensor [R, KV, T, d]
        Buffer; positions from start + S on are not read.
    values : torch.Tensor [R, KV, T, d]
        Buffer, likewise; its strides are those of `keys`.
    rows : torch.Tensor [B]
        int64, the row of the buffers that each utterance has.
    start : int
        Position of the first query in the buffers.

    Returns
    -------
    attended : torch.Tensor [B, S, H, d]

    Example
    -------
    >>> q, values = torch.zeros(1, 3, 1, 8), torch.zeros(1, 1, 6, 8)
    >>> values[0, 0] = torch.arange(6.0)[:, None]
    >>> attend_causal(q, values, values, torch.tensor([0]), 0)[0, :, 0, 0]
    tensor([0.0000, 0.5000, 1.0000])
    """
    if use_triton(q):
        from speechbrain_diffasr.kernels import attention_triton

        return attention_triton.attend_causal(q, keys, values, rows, start)
    return attend_causal_plain(q, keys, values, rows, start)


def attend_causal_plain(q, keys, values, rows, start):
    """`attend_causal` in plain torch."""
    length = q.shape[1]
    position = torch.arange(start + length, device=q.device)
    visible = position <= position[start:, None]  # [S, T]
    return _attend_plain(q, keys, values, rows, visible.repeat(q.shape[2] // keys.shape[1], 1))


def _attend_plain(q, keys, values, rows, visible):
    """Attends where `visible`, which broadcasts to [B, KV, heads of a group x S, T]."""
    batch, length, num_heads, size = q.shape
    num_kv_heads, used = keys.shape[1], visible.shape[-1]
    # The heads of a group lie one after the other in the length: keys are not repeated for them.
    q = q.unflatten(2, (num_kv_heads, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    attended = F.scaled_dot_product_attention(
        q,
        keys[:, :, :used].index_select(0, rows),
        values[:, :, :used].index_select(0, rows),
        attn_mask=visible,
        scale=1.0,
    )
    attended = attended.unflatten(2, (-1, length)).permute(0, 3, 1, 2, 4)
    return attended.reshape(batch, length, num_heads, size)
