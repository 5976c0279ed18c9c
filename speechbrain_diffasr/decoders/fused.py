"""Denoising with fused layers, at the speed of the hardware rather than of kernel launches."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from speechbrain_diffasr.decoders.eager import check_window
from speechbrain_diffasr.decoders.joint import JointSettings, join, probs_of
from speechbrain_diffasr.decoders.packing import WeightPacker
from speechbrain_diffasr.kernels.attention import attend, attend_causal
from speechbrain_diffasr.kernels.common import Predictions
from speechbrain_diffasr.kernels.experts import route, run_experts
from speechbrain_diffasr.kernels.graphs import Graphs, padded_batch
from speechbrain_diffasr.kernels.norms import add_norm, combine_norm, gated_gelu, norm, split_heads
from speechbrain_diffasr.kernels.vocabulary import read_vocabulary

# Prompts of more tokens than this keep the GPU busy while kernels are launched one by one, and a
# graph of them would only hold memory.
CAPTURED_TOKENS = 4096


class FusedDenoiser:
    """Computes what `EagerDenoiser` does, with few kernels and without waiting.

    Each layer of encoder and decoder is a dozen kernels; keys and values of prompt and canvas lie
    in one place for each utterance, its slot; on a GPU a step is replayed as a CUDA graph.

    Arguments
    ---------
    gemma : DiffusionGemma
        The model. Its attention weights are copied with their LoRA deltas, for each half.
    dtype : torch.dtype, optional
        To compute in. Default: the model's.
    top_tokens : int, optional
        Self-conditioning from so many of the most probable tokens at each position. Default: from
        the whole vocabulary, as in training.
    fp8_experts : bool
        Whether the weights of the experts are rounded to float8. Default: False.
    """

    def __init__(self, gemma, dtype=None, top_tokens=None, fp8_experts=False):
        self.gemma = gemma
        self.dtype = dtype or gemma.core.dtype
        self.top_tokens = top_tokens
        self.fp8_experts = fp8_experts
        self.pack()

    def pack(self):
        """Takes the model's weights as they are now."""
        core = self.gemma.core.model
        config = self.gemma.core.config.get_text_config()
        self.config, self.eps = config, config.rms_norm_eps
        packer = WeightPacker(self.dtype, self.fp8_experts)
        encoder, decoder = core.encoder.language_model, core.decoder
        self.encoder, self.decoder = (
            [packer.layer(*both) for both in zip(half.layers, config.layer_types, strict=False)]
            for half in (encoder, decoder)
        )
        self.final_norm = packer.same(decoder.norm.weight)
        self.embeddings = packer.same(decoder.embed_tokens.weight)
        self.embed_scale = decoder.embed_tokens.embed_scale.to(self.dtype)
        self.rotary = decoder.rotary_emb
        conditioning = decoder.self_conditioning
        self.conditioning_norm = packer.same(conditioning.pre_norm.weight)
        self.conditioning_gate_up = packer.matrix(conditioning.gate_proj, conditioning.up_proj)
        self.conditioning_down = packer.matrix(conditioning.down_proj)
        self.head = packer.same(self.gemma.core.lm_head.weight)
        self._sources = [*packer.sources, *decoder.parameters()]
        self._packed_from = self._state()
        self._arena, self._kv_caches, self._beginnings = None, {}, {}
        self.graphs = Graphs()
        self.current = None

    def is_current(self):
        """Whether the model's weights are still those that were packed."""
        return self._packed_from == self._state()

    def _state(self):
        first = self._sources[0]
        return sum(p._version for p in self._sources), first.data_ptr(), first.dtype

    def allocate(self, slots, prompt_width, canvas_width, beginning=(), joint=None):
        """Makes room for utterances.

        Arguments
        ---------
        slots : int
            Utterances at once.
        prompt_width : int
            Tokens of the longest prompt.
        canvas_width : int
            Tokens of the longest canvas.
        beginning : tuple of int
            Tokens that all prompts begin with; they are encoded once. Default: none.
        joint : JointSettings, optional
            How CTC's evidence is joined at every step. Default: it is not.

        Returns
        -------
        kv_cache : KVCache
            For one use at a time: opening another one may overwrite it.
        """
        slots = padded_batch(slots)
        key = slots, prompt_width, canvas_width, tuple(beginning), joint
        if key not in self._kv_caches:
            per_slot = (
                sum(
                    2 * layer.num_kv_heads * layer.head_dim * (prompt_width + canvas_width)
                    for layer in self.decoder
                )
                + canvas_width * self.config.hidden_size
            )
            needed = (slots + 1) * per_slot  # one slot for what fills up a batch
            if self._arena is None or self._arena.numel() < needed:
                self._kv_caches, self.current = {}, None
                self.graphs.clear()
                self._arena = None  # freed before the larger one is taken
                # Masked positions count 0 times: what lies there must not be NaN.
                self._arena = torch.zeros(needed, dtype=self.dtype, device=self.head.device)
            self._kv_caches[key] = KVCache(self, *key)
        if self.current is not self._kv_caches[key]:
            self.current = self._kv_caches[key]
            self.current.restore_prefix()
        return self.current

    def views(self, shapes):
        """Tensors in the memory that all caches share.

        Arguments
        ---------
        shapes : list of tuple

        Returns
        -------
        tensors : list of torch.Tensor
        """
        sizes = [torch.Size(shape).numel() for shape in shapes]
        parts = self._arena[: sum(sizes)].split(sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def beginning(self, kv_cache):
        """Keys and values of the tokens that all prompts begin with, by layer, [KV, h, d]."""
        if kv_cache.beginning not in self._beginnings:
            tokens = torch.tensor([kv_cache.beginning], device=self.head.device)
            rows = torch.zeros(1, dtype=torch.long, device=self.head.device)
            self.encode(kv_cache, self.gemma.embed(tokens).to(self.dtype), rows, start=0)
            end = len(kv_cache.beginning)
            self._beginnings[kv_cache.beginning] = [
                (keys[0, :, :end].clone(), values[0, :, :end].clone())
                for keys, values in kv_cache.caches
            ]
        return self._beginnings[kv_cache.beginning]

    def encode(self, kv_cache, embeddings, rows, start):
        """Runs the causal encoder, of which only keys and values are kept.

        Arguments
        ---------
        kv_cache : KVCache
        embeddings : torch.Tensor
            [B, S, D].
        rows : torch.Tensor
            Slot of each utterance, [B].
        start : int
            Position of the first embedding.
        """
        batch, length, width = embeddings.shape
        x = embeddings.reshape(batch * length, width)
        normed = norm(x, self.encoder[0].input_norm, self.eps)
        rotations = {
            sliding: [table[start : start + length].repeat(batch, 1, 1) for table in tables]
            for sliding, tables in kv_cache.rotations.items()
        }
        for index, layer in enumerate(self.encoder):
            cos, sin = rotations[layer.sliding]
            keys, values = kv_cache.caches[index]
            q = self._heads(layer, normed, batch, cos, sin, keys, values, rows, start)
            if index + 1 == len(self.encoder):
                return rows  # nobody reads what comes out
            mixed = attend_causal(q, keys, values, rows, start)
            following = self.encoder[index + 1].input_norm
            x, normed = self._rest_of_layer(layer, x, mixed, following)

    def denoise(self, kv_cache, canvas, rows, canvas_lengths, temperature, uniforms):
        """One denoising step.

        Arguments
        ---------
        kv_cache : KVCache
        canvas : torch.Tensor
            [B, C].
        rows : torch.Tensor
            Slot of each utterance, [B].
        canvas_lengths : torch.Tensor
            [B].
        temperature : torch.Tensor
            Of each utterance, [B].
        uniforms : torch.Tensor
            What tokens are sampled by, [B, C].

        Returns
        -------
        tokens, log_probs, entropy, proposals : torch.Tensor
            As in `Predictions`, [B, C].
        """
        batch, length = canvas.shape
        first = kv_cache.prompt_width
        prompt_lengths = kv_cache.prompt_lengths[rows]
        positions = prompt_lengths[:, None] + torch.arange(length, device=canvas.device)
        soft_embedding = kv_cache.soft_embedding[rows].view(batch * length, -1)
        soft_embedding = norm(soft_embedding, self.conditioning_norm, self.eps)
        soft_embedding = F.linear(
            gated_gelu(F.linear(soft_embedding, self.conditioning_gate_up)), self.conditioning_down
        )
        embeddings = self.embeddings[canvas.view(-1)] * self.embed_scale
        x = norm(embeddings + soft_embedding, None, self.eps)
        normed = norm(x, self.decoder[0].input_norm, self.eps)
        rotations = {
            sliding: [table[positions] for table in tables]
            for sliding, tables in kv_cache.rotations.items()
        }
        norms = [layer.input_norm for layer in self.decoder[1:]] + [self.final_norm]
        for layer, (keys, values), following in zip(
            self.decoder, kv_cache.caches, norms, strict=True
        ):
            cos, sin = rotations[layer.sliding]
            q = self._heads(layer, normed, batch, cos, sin, keys, values, rows, first)
            mixed = attend(q, keys, values, rows, prompt_lengths, first, canvas_lengths)
            x, normed = self._rest_of_layer(layer, x, mixed, following)
        predictions = read_vocabulary(
            normed,
            self.head,
            self.gemma.softcap,
            temperature[:, None].expand(-1, length).reshape(-1),
            uniforms.reshape(-1),
            None if kv_cache.joint else self.embeddings,
            top=self.top_tokens,
        )
        if kv_cache.joint is None:
            soft_embedding = predictions.soft_embedding
        else:
            predictions, soft_embedding = self._join(
                kv_cache,
                normed.view(batch, length, -1),
                predictions.view(batch, length),
                rows,
                canvas_lengths,
                temperature,
                uniforms,
            )
        soft_embedding = soft_embedding * self.embed_scale
        kv_cache.soft_embedding.index_copy_(0, rows, soft_embedding.view(batch, length, -1))
        parts = (
            predictions.tokens,
            predictions.log_probs,
            predictions.entropy,
            predictions.proposals,
        )
        return tuple(part.view(batch, length) for part in parts)

    def _join(self, kv_cache, hidden, predictions, rows, lengths, temperature, uniforms):
        """Predictions that heed CTC, and their expected embeddings [B, C, D]."""
        joint, evidence = kv_cache.joint, kv_cache.evidence[rows]
        ends = torch.full_like(evidence.tokens[:, :1], joint.end)
        columns = torch.cat([evidence.tokens, ends], dim=1)  # [B, M + 1]
        softcap = self.gemma.softcap
        probs = probs_of(hidden, self.head, softcap, columns, predictions, temperature)
        joined, probs, _ = join(
            predictions,
            probs[..., :-1],
            probs[..., -1],
            evidence,
            joint.weight,
            lengths,
            uniforms,
            joint.end,
        )
        # The products that the whole vocabulary would need are left out.
        probs = probs.to(self.embeddings.dtype)
        soft_embedding = torch.bmm(probs[..., : joint.count], self.embeddings[evidence.tokens])
        soft_embedding += probs[..., joint.count, None] * self.embeddings[predictions.tokens]
        soft_embedding += probs[..., joint.count + 1 :] * self.embeddings[joint.end]
        return joined, soft_embedding

    def _heads(self, layer, normed, batch, cos, sin, keys, values, rows, start):
        qkv = F.linear(normed, layer.qkv).view(batch, -1, len(layer.qkv))
        return split_heads(
            qkv,
            layer.q_norm,
            layer.k_norm,
            cos,
            sin,
            keys,
            values,
            rows,
            start,
            layer.num_heads,
            self.eps,
        )

    def _rest_of_layer(self, layer, x, mixed, following):
        """From the attention's output to the next layer's input, [B S, D]."""
        out = F.linear(mixed.reshape(len(x), -1), layer.o)
        x, (for_dense, for_experts, for_router) = add_norm(
            out, x, layer.post_attention_norm, layer.pre_norms, self.eps
        )
        dense = F.linear(gated_gelu(F.linear(for_dense, layer.gate_up)), layer.down)
        scores = F.linear(for_router, layer.router)
        weights, index = route(scores, layer.per_expert_scale, self.config.top_k_experts)
        gate_up, down, gate_up_scale, down_scale = layer.experts
        expert_rows = run_experts(
            for_experts, gate_up, down, index, weights, gate_up_scale, down_scale
        )
        return combine_norm(
            dense, expert_rows, x, *layer.post_norms, layer.scalar, following, self.eps
        )


@dataclass
class KVCache:
    """Keys, values and self-conditioning of the utterances that are decoded together.

    Arguments
    ---------
    denoiser : FusedDenoiser
    slots : int
    prompt_width : int
    canvas_width : int
    beginning : tuple of int
        Tokens that all prompts begin with.
    joint : JointSettings, optional
        How CTC's evidence is joined. Default: it is not.
    """

    denoiser: FusedDenoiser
    slots: int
    prompt_width: int
    canvas_width: int
    beginning: tuple
    joint: JointSettings | None = None

    def __post_init__(self):
        denoiser = self.denoiser
        width = self.prompt_width + self.canvas_width
        check_window(denoiser.gemma, self.prompt_width, self.canvas_width)
        rows = self.slots + 1
        shapes = [(rows, self.canvas_width, denoiser.config.hidden_size)]
        for layer in denoiser.decoder:
            shapes += [(rows, layer.num_kv_heads, width, layer.head_dim)] * 2
        self.soft_embedding, *caches = denoiser.views(shapes)
        self.caches = list(zip(caches[::2], caches[1::2], strict=True))
        device = self.soft_embedding.device
        self.evidence = self.joint and self.joint.silence(rows, device)
        self.prompt_lengths = torch.ones(rows, dtype=torch.long, device=device)
        positions = torch.arange(width, device=device)[None]
        self.rotations = {
            name == "sliding_attention": [
                table[0] for table in denoiser.rotary(self.soft_embedding, positions, name)
            ]
            for name in set(denoiser.config.layer_types)
        }

    def restore_prefix(self):
        """Writes what all prompts begin with over what another cache left in the memory."""
        if self.beginning:
            end = len(self.beginning)
            pairs = zip(self.caches, self.denoiser.beginning(self), strict=True)
            for (keys, values), (k, v) in pairs:
                keys[:, :, :end], values[:, :, :end] = k, v

    def prefill(self, slots, embeddings, lengths, evidence=None):
        """Encodes the prompts of utterances.

        Arguments
        ---------
        slots : torch.Tensor
            Where they are kept, [B].
        embeddings : torch.Tensor
            Of the whole prompts, [B, P, D].
        lengths : torch.Tensor
            Of the prompts, [B].
        evidence : Evidence, optional
            What CTC hears in them, if that is joined.
        """
        if self.joint is not None:
            self.evidence[slots] = evidence
        start = len(self.beginning)
        embeddings = embeddings[:, start:].to(self.soft_embedding.dtype)
        self.prompt_lengths[slots] = lengths
        self.soft_embedding[slots] = 0
        length = embeddings.shape[1]

        def encode(embeddings, rows):
            return self.denoiser.encode(self, embeddings, rows, start)

        def idle(batch):
            zeros = embeddings.new_zeros(batch, *embeddings.shape[1:])
            return [zeros, self._scratch(batch)]

        if padded_batch(len(slots)) * length > CAPTURED_TOKENS:
            encode(embeddings, slots)
        else:
            key = "encode", id(self), length
            self.denoiser.graphs(key, encode, [embeddings, slots], idle)

    def __call__(self, canvases, temperature, uniforms):
        """Predicts all positions of the canvases.

        Arguments
        ---------
        canvases : Canvases
        temperature : torch.Tensor
            [B].
        uniforms : torch.Tensor
            What tokens are sampled by, [B, C].

        Returns
        -------
        predictions : Predictions
            [B, C].
        """

        def denoise(*inputs):
            return self.denoiser.denoise(self, *inputs)

        def idle(batch):
            zeros = torch.zeros(batch, self.canvas_width, device=self.soft_embedding.device)
            ones = zeros.new_ones(batch)
            return [zeros.long(), self._scratch(batch), ones.long(), ones, zeros]

        inputs = [canvases.canvas, canvases.slots, canvases.lengths, temperature, uniforms]
        return Predictions(
            *self.denoiser.graphs(("denoise", id(self)), denoise, inputs, idle), soft_embedding=None
        )

    def _scratch(self, batch):
        """Slots for what fills up a batch."""
        return torch.full((batch,), self.slots, device=self.soft_embedding.device)
