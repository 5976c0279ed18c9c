"""What a user would run instead: the stock loop of transformers, and Whisper itself."""

import copy

import torch
from transformers import WhisperForConditionalGeneration
from workload import Load, free_memory, peak_gb, without_adapters

# Mean entropy in nats that no prediction falls below: the stock loop then takes every step.
NEVER_SURE = 1e-12
# Tokens of a transcript when Whisper is timed.
WHISPER_TOKENS = 60


def stock_generate(core, prompt_tokens, batch, steps, canvas, compiled=False):
    """`generate` of transformers as it is.

    It takes token ids only, so audio is stood for by random tokens: as many, at the same cost.

    Arguments
    ---------
    core : DiffusionGemmaForBlockDiffusion
    prompt_tokens : int
        Of each prompt.
    batch : int
        Utterances.
    steps : int
        Denoising steps; none is saved.
    canvas : int
        Tokens of a canvas.
    compiled : bool
        Whether the cache is static, for which transformers compiles the decoder. Default: False.

    Returns
    -------
    sequences : torch.Tensor
        [B, prompt_tokens + canvas].
    """
    config = core.config.get_text_config()
    # Token 0 stands for images here.
    prompt = torch.randint(1, config.vocab_size, (batch, prompt_tokens), device=core.device)
    core.config.canvas_length = canvas
    # Older releases of transformers want one, images or none.
    config.pad_token_id = config.pad_token_id or 0
    return core.generate(
        prompt,
        max_new_tokens=canvas,
        max_denoising_steps=steps,
        confidence_threshold=NEVER_SURE,
        cache_implementation="static" if compiled else "dynamic",
        disable_compile=not compiled,
    ).sequences


def random_whisper(encoder):
    """A whole Whisper with random weights, its decoder as large as a given encoder.

    Arguments
    ---------
    encoder : WhisperEncoder
        Of Whisper-small, for a Whisper-small.

    Returns
    -------
    whisper : WhisperForConditionalGeneration
        On the device and in the precision of the encoder.
    """
    parameter = next(encoder.encoder.parameters())
    config = copy.deepcopy(encoder.encoder.config)
    config.decoder_layers = config.encoder_layers
    config.decoder_attention_heads = config.encoder_attention_heads
    config.decoder_ffn_dim = config.encoder_ffn_dim
    with torch.device(parameter.device):
        whisper = WhisperForConditionalGeneration._from_config(config, dtype=parameter.dtype)
    return whisper.eval()


@torch.no_grad()
def whisper_generate(whisper, mels, tokens):
    """Whisper's autoregressive decoding, greedy, from features to tokens.

    Arguments
    ---------
    whisper : WhisperForConditionalGeneration
    mels : torch.Tensor
        Features, [B, mel bins, 2 * frames].
    tokens : int
        Of each transcript, no more and no fewer.

    Returns
    -------
    tokens : torch.Tensor
        [B, tokens], behind those that Whisper begins with.
    """
    generated = whisper.generate(
        mels.to(whisper.dtype), min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False
    )
    return generated[:, -tokens:]


def stock(bench):
    """`generate` of transformers as it is, without and with adapters."""
    gemma, setting = bench.searcher.model, bench.settings["plain"]
    seconds, first = bench.seconds[0], bench.steps[0]
    for batch in [size for size in (1, 16) if size <= bench.largest_batch]:
        ways = [(False, steps) for steps in bench.steps] + ([(True, first)] if batch == 1 else [])
        for adapters, steps in ways:
            if bench.late(f"stock: batch of {batch}, {steps} steps"):
                return

            def run(batch=batch, adapters=adapters, steps=steps):
                with Load(bench.asr, setting, batch, seconds) as load:
                    shape = setting.prompt_tokens(load.searcher, seconds), batch, steps
                    shape += (load.searcher.sampler.canvas_length,)
                    acoustic = bench.timer(load.acoustics)
                    if adapters:
                        generate = bench.timer(lambda: stock_generate(gemma.core, *shape))
                    else:
                        with without_adapters(gemma):
                            generate = bench.timer(lambda: stock_generate(gemma.core, *shape))
                    return stock_row("eager", adapters, shape, acoustic, generate, seconds)

            row = bench.attempt(run)
            if row is None:
                bench.note(f"stock, batch of {batch}: out of memory")
                return
            bench.add("stock", row)


def stock_row(way, adapters, shape, acoustic, generate, seconds):
    """A row of the table of `generate`."""
    prompt, batch, steps, canvas = shape
    total = acoustic + generate
    return {
        "generate": way,
        "adapters": "yes" if adapters else "no",
        "batch": batch,
        "steps": steps,
        "prompt": prompt,
        "canvas": canvas,
        "acoustic_ms": acoustic,
        "generate_ms": generate,
        "total_ms": total,
        "rtfx": 1000 * batch * seconds / total,
        "compile_s": None,
        "peak_gb": peak_gb(),
    }


def compiled_stock(bench):
    """`generate` with a static cache, which transformers compiles. Adapters are gone afterwards."""
    gemma, seconds = bench.searcher.model, bench.seconds[0]
    core = gemma.model.unload() if gemma.has_adapters else gemma.model
    setting, canvas = bench.settings["plain"], bench.searcher.sampler.canvas_length
    prompt = setting.prompt_tokens(bench.searcher, seconds)
    free_memory(bench.asr)
    with Load(bench.asr, setting, 1, seconds) as load:
        acoustic = bench.timer(load.acoustics)
    for steps in bench.steps:
        shape = prompt, 1, steps, canvas

        def generate(shape=shape):
            return stock_generate(core, *shape, compiled=True)

        # The second call is slow too: CUDA graphs are captured in it.
        compile_s = sum(bench.timer.once(generate) for _ in range(2)) / 1000
        row = stock_row("compiled", False, shape, acoustic, bench.timer(generate), seconds)
        bench.add("stock", row | {"compile_s": compile_s})


def whisper(bench):
    """The autoregressive decoder of a Whisper as large as the encoder here."""
    model = random_whisper(bench.asr.mods.encoder["whisper"])
    tokens = min(WHISPER_TOKENS, model.config.max_target_positions - 4)
    for batch in [size for size in (1, 16) if size <= bench.largest_batch]:
        if bench.late(f"whisper: batch of {batch}"):
            return
        with Load(bench.asr, bench.setting, batch, bench.seconds[0]) as load:
            mel = bench.timer(load.mel)
            load.mel()
            generate = bench.timer(lambda load=load: whisper_generate(model, load.mels, tokens))
        total = mel + generate
        row = {"batch": batch, "tokens": tokens, "mel_ms": mel, "generate_ms": generate}
        row |= {"total_ms": total, "rtfx": 1000 * batch * bench.seconds[0] / total}
        bench.add("whisper", row)
