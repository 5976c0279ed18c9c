"""Checks of what `speed.py` measures: kernels of a step, equal tokens, evenly hit experts."""

import statistics
from contextlib import contextmanager, nullcontext

import floors
import torch
from rivals import stock_generate
from torch.profiler import ProfilerActivity, profile
from workload import Load, without_adapters

# Kinds of kernels by parts of their names in small letters; the first that fits counts.
KINDS = {
    "experts": ("groupproblem", "grouped", "_gate_up_kernel", "_down_kernel"),
    "attention": ("_attend_kernel", "attention", "flash", "fmha"),
    "vocabulary": (
        "_highest_kernel",
        "_tiles_",
        "_join_kernel",
        "_keep_",
        "_top_kernel",
        "_embed_k",
    ),
    "products": ("gemm", "nvjet", "cutlass", "gemv", "splitk", "xmma", "::mm", "::addmm", "::bmm"),
}
# Calls of the CUDA runtime that start something on the GPU.
LAUNCHES = ("LaunchKernel", "GraphLaunch", "MemcpyAsync", "MemsetAsync")
# Searches are profiled with so many steps, and what the longer one has more is counted. The first
# step has no self-conditioning.
FEW_STEPS, MORE_STEPS = 1, 3
LONGEST_KERNELS = 12
# Powers of two: weights multiplied and divided by them are the same again.
LOUDER, SOFTER = 2.0, 2.0**-4


def kind_of(name):
    """The kind of a kernel.

    Arguments
    ---------
    name : str

    Returns
    -------
    kind : str
        A key of `KINDS`, or "other".

    Example
    -------
    >>> kind_of("sm90_xmma_gemm_bf16bf16_bf16f32"), kind_of("_add_norm_kernel")
    ('products', 'other')
    """
    name = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(p in name for p in parts)), "other")


def kernels_of(function, cuda):
    """Profiles a call.

    Arguments
    ---------
    function : callable
    cuda : bool
        Whether to look at kernels of the GPU, rather than at operators on the CPU.

    Returns
    -------
    kernels : dict
        Number and milliseconds, by name.
    launches : int
        Calls that started something on the GPU; operators on the CPU.
    """
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as profiler:
        function()
        if cuda:
            torch.cuda.synchronize()
    kernels, launches = {}, 0
    for event in profiler.key_averages():
        if (event.device_type == torch.autograd.DeviceType.CUDA) == cuda:
            time = event.self_device_time_total if cuda else event.self_cpu_time_total
            kernels[event.key] = event.count, time / 1000
        if not cuda or any(part in event.key for part in LAUNCHES):
            launches += event.count
    return kernels, launches


def kernels(bench):
    """Kernels of a step: how many, how long, of which kind."""
    cuda = bench.timer.cuda
    for batch in [size for size in (1, 16, 64) if size <= bench.largest_batch]:
        for name in ("stock", "fused"):
            if bench.late(f"kernels: {name}, batch of {batch}"):
                return

            row = bench.attempt(lambda size=batch, name=name: kernel_row(bench, name, size, cuda))
            if row is None:
                bench.note(f"kernels, {name}, batch of {batch}: out of memory")
            else:
                bench.add("kernels", row)


def kernel_row(bench, loop, batch, cuda):
    """Kernels of a step of the stock loop, or of ours."""
    canvas, gemma = min(64, bench.searcher.sampler.canvas_length), bench.searcher.model
    setting = bench.settings["fused"]
    with Load(bench.asr, setting, batch, bench.seconds[0], canvas) as load:
        prompt = setting.prompt_tokens(load.searcher, load.seconds)
        if loop == "stock":

            def run(steps):
                with without_adapters(gemma):
                    stock_generate(gemma.core, prompt, batch, steps, canvas)

        else:
            load.acoustics()
            run = load.search
        run(MORE_STEPS)
        few, few_launches = kernels_of(lambda: run(FEW_STEPS), cuda)
        more, more_launches = kernels_of(lambda: run(MORE_STEPS), cuda)
    steps, found = MORE_STEPS - FEW_STEPS, {}
    for kernel, (count, time) in more.items():
        count_before, time_before = few.get(kernel, (0, 0.0))
        found[kernel] = (count - count_before) / steps, (time - time_before) / steps
    row = {"loop": loop, "batch": batch, "canvas": canvas}
    row["launches"] = (more_launches - few_launches) / steps
    return row | by_kind(found)


def by_kind(kernels):
    """Sums kernels up.

    Arguments
    ---------
    kernels : dict
        Number and milliseconds, by name.

    Returns
    -------
    row : dict
        Their number, their time, that of each kind, and which took longest.

    Example
    -------
    >>> row = by_kind({"some_gemm": (2, 3.0), "copy": (1, 1.0)})
    >>> row["kernels"], row["busy_ms"], row["products_ms"], row["other_ms"], row["other_share"]
    (3, 4.0, 3.0, 1.0, 0.25)
    """
    sums = {kind: [0, 0.0] for kind in (*KINDS, "other")}
    for name, (count, time) in kernels.items():
        both = sums[kind_of(name)]
        both[0] += count
        both[1] += time
    number, busy = (sum(both[part] for both in sums.values()) for part in range(2))
    row = {"kernels": number, "busy_ms": busy}
    for kind, (count, time) in sums.items():
        row |= {f"{kind}_kernels": count, f"{kind}_ms": time}
    row["other_share"] = sums["other"][1] / busy if busy else 0.0
    longest = sorted(kernels.items(), key=lambda item: -item[1][1])[:LONGEST_KERNELS]
    row["longest"] = [[name[:120], count, time] for name, (count, time) in longest]
    return row


@contextmanager
def tempered(model):
    """Gives random weights something to say, for as long as the context lasts.

    As they are, the most probable token is often the one that lies on the canvas, whatever the
    layers compute, since head and embeddings are one matrix; and attention is so sharp that any
    rounding changes everything behind it. Layers are made louder, and attention softer.

    Arguments
    ---------
    model : DiffusionGemmaForBlockDiffusion
    """
    factors = {}  # encoder and decoder share weights; each is changed once
    for layer in model.model.decoder.layers:
        factors[layer.post_attention_layernorm.weight] = LOUDER
        factors[layer.post_feedforward_layernorm.weight] = LOUDER
        factors[layer.self_attn.q_norm.weight] = SOFTER
    with torch.no_grad():
        for weight, factor in factors.items():
            weight.mul_(factor)
        try:
            yield
        finally:
            for weight, factor in factors.items():
                weight.div_(factor)


@contextmanager
def in_float32(model):
    """Runs a model of transformers in float32, for as long as the context lasts.

    Arguments
    ---------
    model : DiffusionGemmaForBlockDiffusion
    """
    experts = model.config.get_text_config()._experts_implementation
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.dtype == torch.bfloat16]
    try:
        # Grouped products of torch take bfloat16 only.
        model.set_experts_implementation("eager")
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor in tensors:
            tensor.data = tensor.data.to(torch.bfloat16)
        model.set_experts_implementation(experts)


def drafts_of(bench, setting, batch, one_by_one=False):
    """Most probable tokens and entropies of the first two steps.

    Arguments
    ---------
    bench : Bench
    setting : Setting
    batch : int
    one_by_one : bool
        Whether utterances are decoded each by itself. Default: together.

    Returns
    -------
    steps : list of tuple of torch.Tensor
        For each step tokens and entropies, [B, C].
    """
    canvas, drafts = bench.searcher.sampler.canvas_length, []
    with Load(bench.asr, setting, batch, bench.seconds[0], canvas) as load:
        load.acoustics()
        for rows in range(batch) if one_by_one else [range(batch)]:
            rows = [rows] if one_by_one else list(rows)
            bench.searcher.search(
                load.audio[rows],
                seeds=rows,
                steps=2,
                callback=lambda draft: drafts.append((draft.tokens.cpu(), draft.entropy.cpu())),
                seconds=[load.seconds] * len(rows),
            )
    steps = drafts[::2], drafts[1::2]
    return [[torch.cat(parts) for parts in zip(*step, strict=True)] for step in steps]


def agreement(bench):
    """Share of most probable tokens that stay the same after a step from the same noise.

    The second step starts from the same tokens but for the few that the first accepted, and is
    the first with self-conditioning. How much bfloat16 changes by itself, a run in float32 shows.
    """
    batch, sampler = min(4, bench.largest_batch), bench.searcher.sampler
    core, settings = bench.searcher.model.core, bench.settings
    ways = {
        "plain": (settings["plain"], False),
        "plain, each by itself": (settings["plain"], True),
        "fused": (settings["fused"], False),
        "fused, each by itself": (settings["fused"], True),
        "fused, top tokens": (settings["top"], False),
        "fused, fp8 experts": (settings["fp8"], False),
    }
    found = {}
    with tempered(core) if bench.result["random"] else nullcontext():
        for name, (setting, one_by_one) in ways.items():
            args = bench, setting, batch, one_by_one
            found[name] = bench.attempt(lambda args=args: drafts_of(*args))

        def exactly():
            with in_float32(core):
                return drafts_of(bench, settings["plain"], batch)

        exact = bench.attempt(exactly) if core.dtype == torch.bfloat16 else None
    vocab_size = bench.text_config.vocab_size
    noise = sampler.start(range(batch), list(range(batch)), vocab_size, steps=2).canvas
    for name, steps in found.items():
        if steps is None:
            bench.note(f"agreement, {name}: out of memory")
            continue
        row = {"way": name, "batch": batch, "canvas": noise.shape[1]}
        row["echoed"] = equal_share(steps[0][0], noise)
        for other, expected in (("plain", found["plain"]), ("float32", exact)):
            for number in range(len(steps) if expected else 0):
                (tokens, entropy), (tokens_there, entropy_there) = steps[number], expected[number]
                step = f"{other}_step{number + 1}"
                row[f"equal_to_{step}"] = equal_share(tokens, tokens_there)
                row[f"nats_from_{step}"] = (entropy - entropy_there).abs().mean().item()
        bench.add("agreement", row)


def equal_share(left, right):
    """Share of equal elements of two tensors."""
    return (left == right).float().mean().item()


@torch.no_grad()
def routers(bench):
    """How evenly the routers hit the experts, at the first step."""
    used = []

    def keep(router, inputs, outputs):
        used.append(outputs[-1])  # the chosen experts

    layers = bench.searcher.model.core.model.decoder.layers
    hooks = [layer.router.register_forward_hook(keep) for layer in layers]
    canvas = min(64, bench.searcher.sampler.canvas_length)
    try:
        with Load(bench.asr, bench.settings["plain"], 1, bench.seconds[0], canvas) as load:
            load.acoustics()
            load.search(1)
    finally:
        for hook in hooks:
            hook.remove()
    config = bench.text_config
    counts = [index.flatten().bincount(minlength=config.num_experts) for index in used]
    expected = floors.experts_hit(config.num_experts, config.top_k_experts, canvas)
    row = {
        "canvas": canvas,
        "experts": config.num_experts,
        "hit": statistics.mean((count > 0).sum().item() for count in counts),
        "expected": expected,
        "heaviest_over_mean": statistics.mean(
            (count.max() / count.float().mean()).item() for count in counts
        ),
    }
    bench.add("routers", row)
