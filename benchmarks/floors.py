"""The least time that a stage can take, from bytes and operations counted in the configuration.

A stage cannot end before its weights and caches are read once from memory, nor before its matrix
products are computed; its floor is the longer of the two, at speeds measured on the same machine.
Not counted is what a good kernel keeps on the chip or never makes: activations, logits, padding.
"""

import math
import time
from dataclasses import dataclass

import torch

# For copies and products that take long enough to be timed, beyond any cache.
COPIED_BYTES = {"cuda": 2**32, "cpu": 2**28}
PRODUCT_SIZE = {"cuda": 8192, "cpu": 1536}
CONVOLUTION_SIZE = 512
TRIALS = 10


@dataclass(frozen=True)
class Work:
    """What has to be read and computed.

    Arguments
    ---------
    bytes : float
        Read from memory. Default: 0.
    flops : float
        Additions and multiplications, each counted. Default: 0.

    Example
    -------
    >>> Work(bytes=10, flops=4) + 2 * Work(bytes=1)
    Work(bytes=12, flops=4)
    """

    bytes: float = 0
    flops: float = 0

    def __add__(self, other):
        return Work(self.bytes + other.bytes, self.flops + other.flops)

    def __rmul__(self, times):
        return Work(times * self.bytes, times * self.flops)


@dataclass(frozen=True)
class Machine:
    """How fast a machine is.

    Arguments
    ---------
    bytes_per_s : float
        Read and written by a copy.
    flops_per_s : float
        Of a product of large square matrices.

    Example
    -------
    >>> Machine(bytes_per_s=4e12, flops_per_s=8e14).floor_ms(Work(bytes=4e9, flops=8e9))
    1.0
    """

    bytes_per_s: float
    flops_per_s: float

    def floor_ms(self, work):
        """Milliseconds that some work takes at least.

        Arguments
        ---------
        work : Work

        Returns
        -------
        milliseconds : float
        """
        return 1000 * max(work.bytes / self.bytes_per_s, work.flops / self.flops_per_s)


def measure_machine(device, dtype):
    """Measures the speed of a copy and of a matrix product, the best of some trials each.

    On a CPU a convolution counts as a product too.

    Arguments
    ---------
    device : str
    dtype : torch.dtype
        Of the product.

    Returns
    -------
    machine : Machine
    """
    kind = torch.device(device).type
    source, target = torch.ones(2, COPIED_BYTES[kind] // 4, device=device)
    bytes_per_s = 2 * COPIED_BYTES[kind] / _best_seconds(kind, target.copy_, source)
    size = PRODUCT_SIZE[kind]
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    flops_per_s = 2 * size**3 / _best_seconds(kind, torch.matmul, left, right)
    if kind == "cpu":
        # Another library computes these, with wider instructions on some processors.
        signal = torch.randn(1, CONVOLUTION_SIZE, CONVOLUTION_SIZE, dtype=dtype)
        weight = torch.randn(CONVOLUTION_SIZE, CONVOLUTION_SIZE, 3, dtype=dtype)
        seconds = _best_seconds(kind, torch.conv1d, signal, weight)
        flops = 2 * weight.numel() * (CONVOLUTION_SIZE - 2)
        flops_per_s = max(flops_per_s, flops / seconds)
    return Machine(bytes_per_s, flops_per_s)


def _best_seconds(kind, function, *inputs):
    times = []
    for _ in range(TRIALS):
        begin = time.perf_counter()
        function(*inputs)
        if kind == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def matrix(rows, inputs, outputs, size):
    """A product of `rows` vectors with a weight matrix.

    Arguments
    ---------
    rows : float
    inputs, outputs : int
        Of the matrix.
    size : int
        Bytes of a weight.

    Returns
    -------
    work : Work

    Example
    -------
    >>> matrix(rows=5, inputs=3, outputs=4, size=2)
    Work(bytes=24, flops=120)
    """
    return Work(size * inputs * outputs, 2 * rows * inputs * outputs)


def experts_hit(num_experts, top_k, tokens):
    """Experts that some tokens need together, if the router treats all experts alike.

    Arguments
    ---------
    num_experts : int
    top_k : int
        Experts of each token.
    tokens : int

    Returns
    -------
    hit : float
        The expected number.

    Example
    -------
    >>> experts_hit(num_experts=4, top_k=2, tokens=1), experts_hit(4, 2, 2)
    (2.0, 3.0)
    """
    return num_experts * (1 - (1 - top_k / num_experts) ** tokens)


def key_shape(config, index):
    """How many keys a token has in a layer, and of what width.

    Arguments
    ---------
    config : DiffusionGemmaTextConfig
    index : int
        Of the layer.

    Returns
    -------
    kv_heads, head_dim : int
    """
    if hasattr(config, "per_layer_config"):
        layer = config.per_layer_config[index]
        return layer.num_key_value_heads, layer.head_dim
    # Older releases of transformers name them one by one.
    if config.layer_types[index] == "sliding_attention":
        return config.num_key_value_heads, config.head_dim
    return config.num_global_key_value_heads or config.num_key_value_heads, config.global_head_dim


def text_layer(config, index, tokens, pairs, cached, size, expert_size, keys_only=False):
    """One layer of DiffusionGemma.

    Arguments
    ---------
    config : DiffusionGemmaTextConfig
    index : int
        Of the layer.
    tokens : int
        That go through it.
    pairs : int
        Of a query and a key that it may see.
    cached : int
        Positions whose keys and values are read from a cache.
    size : int
        Bytes of a weight and of a cached number.
    expert_size : int
        Bytes of an expert's weight.
    keys_only : bool
        Whether nothing but keys and values is needed of it. Default: False.

    Returns
    -------
    work : Work
    """
    heads, width = config.num_attention_heads, config.hidden_size
    kv_heads, head_dim = key_shape(config, index)
    # Layers with full attention take their keys for values too.
    sliding = config.layer_types[index] == "sliding_attention"
    keys = (2 if sliding else 1) * matrix(tokens, width, kv_heads * head_dim, size)
    if keys_only:
        return keys
    # Queries and output; scores, and values weighted by them.
    attention = 2 * matrix(tokens, width, heads * head_dim, size)
    attention += Work(2 * size * cached * kv_heads * head_dim, 4 * pairs * heads * head_dim)
    dense = 3 * matrix(tokens, width, config.intermediate_size, size)
    router = matrix(tokens, width, config.num_experts, size)
    hit = experts_hit(config.num_experts, config.top_k_experts, tokens)
    expert = matrix(0, width, config.moe_intermediate_size, expert_size).bytes
    routed = matrix(tokens * config.top_k_experts, width, config.moe_intermediate_size, 0).flops
    return keys + attention + dense + router + 3 * Work(hit * expert, routed)


def prefill(config, batch, prompt, beginning=0, size=2, expert_size=None):
    """The causal encoder over the prompts, of which only keys and values are kept.

    Arguments
    ---------
    config : DiffusionGemmaTextConfig
    batch : int
        Utterances.
    prompt : int
        Tokens of each prompt.
    beginning : int
        Of them, those that all prompts begin with and that were encoded before. Default: 0.
    size : int
        Bytes of a weight. Default: 2.
    expert_size : int, optional
        Bytes of an expert's weight. Default: `size`.

    Returns
    -------
    work : Work
    """
    new = prompt - beginning
    pairs = batch * sum(range(beginning + 1, prompt + 1))
    last = config.num_hidden_layers - 1
    layers = [
        text_layer(
            config,
            index,
            tokens=batch * new,
            pairs=pairs,
            cached=batch * beginning,
            size=size,
            expert_size=expert_size or size,
            keys_only=index == last,
        )
        for index in range(config.num_hidden_layers)
    ]
    return sum(layers, Work())


def denoising_step(
    config, batch, canvas, prompt, size=2, expert_size=None, top_tokens=None, conditioned=True
):
    """One denoising step, from canvas to the most probable tokens.

    Arguments
    ---------
    config : DiffusionGemmaTextConfig
    batch : int
        Utterances.
    canvas : int
        Tokens of each canvas.
    prompt : int
        Tokens of each prompt.
    size : int
        Bytes of a weight. Default: 2.
    expert_size : int, optional
        Bytes of an expert's weight. Default: `size`.
    top_tokens : int, optional
        Tokens that self-conditioning is made of. Default: the whole vocabulary.
    conditioned : bool
        Whether there is self-conditioning: not at the first step. Default: True.

    Returns
    -------
    work : Work
    """
    tokens = batch * canvas
    layers = [
        text_layer(
            config,
            index,
            tokens=tokens,
            pairs=tokens * (prompt + canvas),
            cached=batch * prompt,
            size=size,
            expert_size=expert_size or size,
        )
        for index in range(config.num_hidden_layers)
    ]
    work = sum(layers, matrix(tokens, config.hidden_size, config.vocab_size, size))
    if conditioned:
        # The head's weights are the embeddings, and one pass over them serves both.
        mixed = top_tokens or config.vocab_size
        work += Work(0, matrix(tokens, mixed, config.hidden_size, 0).flops)
        work += 3 * matrix(tokens, config.hidden_size, config.intermediate_size, size)
    return work


def denoising(steps, config, *args, **kwargs):
    """Some denoising steps, the first of them without self-conditioning.

    Arguments
    ---------
    steps : int
    config, *args, **kwargs
        As for `denoising_step`.

    Returns
    -------
    work : Work
    """
    first = denoising_step(config, *args, conditioned=False, **kwargs)
    return first + (steps - 1) * denoising_step(config, *args, **kwargs)


def log_mel(batch, samples, n_fft, hop, mel_bins):
    """Log-mel features: Fourier transforms and the filter bank, in float32.

    Arguments
    ---------
    batch : int
        Utterances.
    samples : int
        Of the window, with the silence that fills it.
    n_fft, hop : int
        Samples of a frame, and between two.
    mel_bins : int

    Returns
    -------
    work : Work
    """
    frames = batch * samples // hop
    transforms = frames * 2.5 * n_fft * math.log2(n_fft)  # of real numbers
    filters = matrix(frames, n_fft // 2 + 1, mel_bins, size=4)
    return filters + Work(4 * (batch * samples + frames * mel_bins), transforms)


def whisper_encoder(config, batch, frames, size=2):
    """Whisper's encoder.

    Arguments
    ---------
    config : WhisperConfig
    batch : int
        Utterances.
    frames : int
        Behind the second convolution, which halves them.
    size : int
        Bytes of a weight. Default: 2.

    Returns
    -------
    work : Work
    """
    width, tokens = config.d_model, batch * frames
    work = matrix(2 * tokens, 3 * config.num_mel_bins, width, size)
    work += matrix(tokens, 3 * width, width, size)
    layer = 4 * matrix(tokens, width, width, size)
    layer += 2 * matrix(tokens, width, config.encoder_ffn_dim, size)
    layer += Work(0, 4 * tokens * frames * width)
    return work + config.encoder_layers * layer


def projector(module, batch, frames):
    """The projector.

    Arguments
    ---------
    module : ConvProjector
    batch : int
        Utterances.
    frames : int
        Of each.

    Returns
    -------
    work : Work
    """
    size, work = module.linear.weight.element_size(), Work()
    for conv in module.convs:
        frames = (frames + 1) // 2
        inputs = conv.in_channels * conv.kernel_size[0]
        work += matrix(batch * frames, inputs, conv.out_channels, size)
    return work + matrix(
        batch * frames, module.linear.in_features, module.linear.out_features, size
    )
