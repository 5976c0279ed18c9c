"""The parts of `speed.py`: each measures one thing and adds rows to a table of its name."""

import statistics
from dataclasses import replace

import floors
from rivals import random_whisper, whisper_generate
from workload import Load, doubling, free_memory, peak_gb

# Steps at which a search is timed to tell the time of one from the difference.
FEW_STEPS, MORE_STEPS = 2, 10
# Of an utterance, to show that the cost of diffusion does not follow them.
TEXT_TOKENS = (15, 30, 60, 120)
# A sweep ends when throughput is less than this share of the best so far.
FALLING = 0.97
# Of CTC beside the denoiser; the time does not depend on it.
JOINT_WEIGHT = 2.0
FEWEST_STEPS = [1, 2, 8]
# Settings are compared at this batch if no better one was found before.
USUAL_BATCH = 64


def floor_row(bench, load, steps):
    """The least milliseconds of each stage, and of all for so many steps.

    Arguments
    ---------
    bench : Bench
    load : Load
        With its canvas set to what its clips are given.
    steps : int

    Returns
    -------
    floor : dict
    """
    whisper, batch, setting = load.whisper, load.batch, load.setting
    prompt = setting.prompt_tokens(load.searcher, load.seconds)
    text = bench.model_work(setting)
    beginning = len(load.searcher.prompt.beginning)
    size = next(whisper.encoder.parameters()).element_size()
    mel = (
        batch,
        whisper.max_samples,
        whisper.n_fft,
        whisper.hop,
        whisper.encoder.config.num_mel_bins,
    )
    works = {
        "mel": floors.log_mel(*mel),
        "encoder": floors.whisper_encoder(whisper.encoder.config, batch, whisper.num_frames, size),
        "projector": floors.projector(load.projector, batch, whisper.num_frames),
        "prefill": floors.prefill(batch=batch, prompt=prompt, beginning=beginning, **text),
    }
    text |= {"batch": batch, "canvas": load.canvas, "prompt": prompt}
    text["top_tokens"] = setting.top_tokens
    works["step"] = floors.denoising_step(**text)
    floor = {name: bench.machine.floor_ms(work) for name, work in works.items()}
    before = floor["mel"] + floor["encoder"] + floor["projector"] + floor["prefill"]
    floor["total"] = before + bench.machine.floor_ms(floors.denoising(steps, **text))
    return floor


def canvas_of(load):
    """Tokens of the canvases that a load is given; found by decoding it, which warms up too."""
    return len(load.search(2)[0].log_probs)


def total_row(bench, load, steps):
    """Times a batch from waveform to text.

    Arguments
    ---------
    bench : Bench
    load : Load
        Warmed up, with its canvas set to what its clips are given.
    steps : list of int

    Returns
    -------
    row : dict
    """
    row = {"setting": load.setting.name, "seconds": load.seconds, "batch": load.batch}
    row["canvas"] = load.canvas
    calls = [lambda number=number: load.transcribe(number) for number in steps]
    for number, total in zip(steps, bench.timer.each(*calls, warm=True), strict=True):
        floor = floor_row(bench, load, number)
        row[f"total{number}_ms"] = total
        row[f"rtfx{number}"] = 1000 * load.batch * load.seconds / total
        row[f"share{number}"] = floor["total"] / total
        row[f"floor{number}"] = floor
    return row


def stage_row(bench, load, steps):
    """Times every stage of a batch, and the whole.

    Arguments
    ---------
    bench, load, steps
        As for `total_row`.

    Returns
    -------
    row : dict
    """
    stages = {"mel": load.mel, "encoder": load.encoder, "projector": load.project}
    times = {f"{name}_ms": bench.timer(stage) for name, stage in stages.items()}
    row = total_row(bench, load, steps)
    fewest, most = min(steps), max(steps)
    step = (row[f"total{most}_ms"] - row[f"total{fewest}_ms"]) / (most - fewest)
    times["prefill_ms"] = bench.timer(lambda: load.search(1)) - step
    times["step_ms"] = step
    place = list(row).index("canvas") + 1
    return dict([*list(row.items())[:place], *times.items(), *list(row.items())[place:]])


def measure(bench, setting, batch, seconds, function, steps):
    """A row for a batch, or None if the memory does not suffice for it.

    Arguments
    ---------
    bench : Bench
    setting : Setting
    batch : int
    seconds : float
        Of each clip.
    function : callable
        `total_row` or `stage_row`.
    steps : list of int

    Returns
    -------
    row : dict or None
    """

    def run():
        with Load(bench.asr, setting, batch, seconds) as load:
            # Nothing is captured without fused layers.
            warm_up_s = load.warm_up() if setting.fused else None
            load.acoustics()
            load.canvas = canvas_of(load)
            row = function(bench, load, steps)
        return row | {"warm_up_s": warm_up_s, "peak_gb": peak_gb()}

    row = bench.attempt(run)
    if row is None:
        bench.note(f"{setting.name}, {seconds:g} s, batch of {batch}: out of memory")
    return row


def sweep(bench, table, setting, seconds, batches, function, steps):
    """Ever larger batches, until the memory is full or throughput falls."""
    best, key = 0.0, f"rtfx{steps[0]}"
    for batch in batches:
        if bench.late(f"{table}: {setting.name}, {seconds:g} s, batches from {batch}"):
            return
        row = measure(bench, setting, batch, seconds, function, steps)
        if row is None:
            return
        bench.add(table, row)
        if row[key] < FALLING * best:
            return
        best = max(best, row[key])


def stages(bench):
    """Time by stage, for batches from 1 to the largest that fits."""
    for place, seconds in enumerate(bench.seconds):
        factor = 2 if place == 0 else 4
        batches = doubling(bench.largest_batch, factor)
        sweep(bench, "stages", bench.setting, seconds, batches, stage_row, bench.steps)


def settings(bench):
    """What each shortening of the work brings, one at a time and together."""
    seconds, steps = bench.seconds[0], bench.steps[:1]
    key = f"rtfx{steps[0]}"
    rows = [row for row in bench.result.get("stages", []) if row["seconds"] == seconds]
    best = min(USUAL_BATCH, bench.largest_batch)
    if rows:
        best = max(rows, key=lambda row: row[key])["batch"]
    fused = {}
    for name, setting in bench.settings.items():
        for batch in sorted({1, best}):
            if bench.late(f"settings: {name}, batch of {batch}"):
                return
            row = measure(bench, setting, batch, seconds, total_row, steps)
            if row is None:
                break
            if name == "fused":
                fused[batch] = row[key]
            row["times_fused"] = row[key] / fused[batch] if batch in fused else None
            bench.add("settings", row)
    # Shorter work leaves room for more of it.
    last = [setting for setting in bench.settings.values() if not setting.fp8_experts][-1]
    beyond = [size for size in doubling(bench.largest_batch) if size > best]
    sweep(bench, "settings", last, seconds, beyond, total_row, steps)


def few_steps(bench):
    """One, two and eight steps, from noise and from CTC, alone and joined with CTC."""
    seconds = bench.seconds[0]
    shorter = {"canvas": bench.settings["canvas"], "canvas+slots": bench.settings["canvas+slots"]}
    ways = {
        "noise": {},
        "ctc": {"start": "ctc"},
        "joint": {"ctc_weight": JOINT_WEIGHT},
        "ctc+joint": {"start": "ctc", "ctc_weight": JOINT_WEIGHT},
    }
    batches = sorted({1, min(USUAL_BATCH, bench.largest_batch), bench.largest_batch})
    for batch in (batches[0], batches[-1], *batches[1:-1]):
        for name, short in shorter.items():
            for way, changes in ways.items():
                setting = replace(short, name=f"{name}+{way}", **changes)
                if bench.late(f"few_steps: {setting.name}, batch of {batch}"):
                    return
                row = measure(bench, setting, batch, seconds, total_row, FEWEST_STEPS)
                if row is not None:
                    bench.add("few_steps", row)


def warm_up(bench):
    """How long it takes to get ready for some batches and durations."""
    batches = [size for size in doubling(bench.largest_batch, 4) if size <= 16]
    for state in ("first", "again"):
        free_memory(bench.asr)
        bench.setting.apply(bench.searcher)
        took = bench.searcher.warm_up(batches, seconds=bench.seconds)
        row = {"state": state, "batches": batches, "seconds": bench.seconds, "warm_up_s": took}
        bench.add("warm_up", row)


def step_times(bench):
    """One denoising step by batch and canvas, from the difference of two searches."""
    setting = bench.settings["fused"]
    for batch in bench.step_batches:
        for canvas in bench.canvases:
            if bench.late(f"step_times: batch of {batch}, canvas {canvas}"):
                return

            def run(batch=batch, canvas=canvas):
                with Load(bench.asr, setting, batch, bench.seconds[0], canvas) as load:
                    load.warm_up()
                    load.acoustics()
                    step = step_ms(bench, load)
                    floor = floor_row(bench, load, bench.steps[0])["step"]
                return {
                    "batch": batch,
                    "canvas": canvas,
                    "step_ms": step,
                    "floor_ms": floor,
                    "times_floor": step / floor,
                    "peak_gb": peak_gb(),
                }

            row = bench.attempt(run)
            if row is None:
                bench.note(f"batch of {batch}, canvas {canvas}: out of memory")
                break
            bench.add("step_times", row)


def step_ms(bench, load):
    """Milliseconds of a denoising step of a load."""
    calls = [lambda steps=steps: load.search(steps) for steps in (FEW_STEPS, MORE_STEPS)]
    few, more = bench.timer.each(*calls, warm=True)
    return (more - few) / (MORE_STEPS - FEW_STEPS)


def steps_line(bench):
    """Cost against denoising steps, with a fitted line."""
    for batch in [size for size in (1, 16) if size <= bench.largest_batch]:
        if bench.late(f"steps_line: batch of {batch}"):
            return
        free_memory(bench.asr)
        with Load(bench.asr, bench.setting, batch, bench.seconds[0]) as load:
            load.warm_up()
            load.transcribe(2)
            counts = bench.line_steps
            calls = [lambda steps=steps: load.transcribe(steps) for steps in counts]
            times = bench.timer.each(*calls, warm=True)
        slope, intercept = statistics.linear_regression(counts, times)
        for steps, time in zip(counts, times, strict=True):
            fitted = intercept + slope * steps
            row = {"batch": batch, "steps": steps, "total_ms": time, "fitted_ms": fitted}
            bench.add("steps_line", row)
        line = {"batch": batch, "intercept_ms": intercept, "slope_ms": slope}
        line["intercept_in_steps"] = intercept / slope
        bench.add("steps_fit", line)


def lengths(bench):
    """Cost against the length of the transcript, for audio of one length."""
    seconds, steps = max(bench.seconds), bench.steps[0]
    model = random_whisper(bench.asr.mods.encoder["whisper"])
    free_memory(bench.asr)
    with Load(bench.asr, bench.setting, 1, seconds) as load:
        load.warm_up()
        load.acoustics()
        canvas = canvas_of(load)
    for tokens in [number for number in TEXT_TOKENS if number < canvas]:
        with Load(bench.asr, bench.setting, 1, seconds, text_tokens=tokens) as load:
            load.mel()
            ours = bench.timer(lambda load=load: load.transcribe(steps))
            found = len(load.transcribe(steps)[0].tokens)
            theirs = bench.timer(load.mel)
            theirs += bench.timer(
                lambda load=load, tokens=tokens: whisper_generate(model, load.mels, tokens)
            )
        row = {"seconds": seconds, "tokens": found, "canvas": canvas, "steps": steps}
        bench.add("lengths", row | {"total_ms": ours, "whisper_ms": theirs})
