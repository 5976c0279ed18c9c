"""Steps of training that are timed, for the benchmark `training.py`."""

import gc
import statistics
import time
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_diffasr.recipe.options import read_hparams
from speechbrain_diffasr.training import DiffusionBrain

SETTINGS = Path(__file__).parents[1] / "hparams" / "training.yaml"
PARTS = ("encoder", "forward", "backward", "optimizer")


class Stopwatch:
    """Times the parts of a step without making the CPU wait for the GPU between them.

    Arguments
    ---------
    device : str
    """

    def __init__(self, device):
        self.cuda = "cuda" in device
        self.marks = []

    def start(self):
        """Begins a step, when all before it is done."""
        if self.cuda:
            torch.cuda.synchronize()
        self.marks = []
        self.mark("start")

    def mark(self, name):
        """Ends a part of the step."""
        if self.cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        else:
            mark = time.perf_counter()
        self.marks.append((name, mark))

    def read(self):
        """Milliseconds of each part of `PARTS`; zero for one that did not take place."""
        if self.cuda:
            torch.cuda.synchronize()
        times = dict.fromkeys(PARTS, 0.0)
        for (_, begin), (name, end) in zip(self.marks, self.marks[1:], strict=False):
            took = begin.elapsed_time(end) if self.cuda else 1000 * (end - begin)
            times[name] += took
        return times


class TimedBrain(DiffusionBrain):
    """Marks where the parts of a step end."""

    def start_timing(self):
        self.watch = Stopwatch(str(self.device))
        self.losses.encoder["whisper"].register_forward_hook(lambda *_: self.watch.mark("encoder"))

    def compute_objectives(self, predictions, batch, stage):
        loss = super().compute_objectives(predictions, batch, stage)
        self.watch.mark("forward")
        return loss

    def optimizers_step(self):
        self.watch.mark("backward")
        super().optimizers_step()
        self.watch.mark("optimizer")


def make_brain(asr, run_opts, changes=None):
    """A Brain that is ready to train, with the settings of the recipes.

    Arguments
    ---------
    asr : DiffusionASR
        With projector and LoRA that are not frozen.
    run_opts : RunOptions
    changes : dict, optional
        What to change in hparams/training.yaml.

    Returns
    -------
    brain : TimedBrain
    """
    # Nothing is written; the schedule wants to know an end.
    unused = {"output_folder": "", "checkpointer": None, "train_logger": None}
    settings = read_hparams(SETTINGS, {**unused, "number_of_steps": 10000, **(changes or {})})
    brain = TimedBrain(
        modules=asr.mods,
        opt_class=settings["opt_class"],
        hparams={**settings, "tokenizer": asr.tokenizer},
        run_opts=run_opts,
    )
    brain.on_fit_start()
    brain.modules.train()
    brain.on_stage_start(sb.Stage.TRAIN, epoch=1)
    brain.start_timing()
    return brain


def make_batch(brain, asr, audio, batch_size, seconds, num_tokens):
    """Noise with random transcripts, all of one length.

    Arguments
    ---------
    brain : TimedBrain
    asr : DiffusionASR
    audio : str
        "waveforms", or "frames" for what the frozen encoder makes of them, as in a feature cache.
    batch_size : int
    seconds : float
        Of each utterance.
    num_tokens : int
        Of each transcript, without its end.

    Returns
    -------
    batch : PaddedBatch
        On the device.
    """
    blank = brain.losses.ctc.blank
    tokens = torch.randint(asr.mods.decoder.model.vocab_size - 1, (batch_size, num_tokens))
    tokens += tokens >= blank  # of CTC: it must not occur in a transcript
    languages = sorted(asr.mods.decoder.prompt.languages)
    utterances = [
        {
            "id": str(number),
            "sig": 0.1 * torch.randn(int(seconds * asr.sample_rate)),
            "tokens": row,
            "lang": languages[number % len(languages)],
            "duration": seconds,
        }
        for number, row in enumerate(tokens.tolist())
    ]
    if audio == "frames":
        whisper = brain.losses.encoder["whisper"]
        for utterance in utterances:
            with torch.no_grad():
                wav = utterance.pop("sig")[None].to(brain.device)
                utterance["frames"] = whisper(wav)[0].cpu()
    return PaddedBatch(utterances).to(brain.device)


def step(brain, batch):
    """Takes one step; returns milliseconds of its parts."""
    brain.step += 1
    brain.watch.start()
    brain.fit_batch(batch)
    return brain.watch.read()


def free_memory(brain):
    """Drops what a step left, or a step that was broken off."""
    brain.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def over_processes(values, largest=False):
    """Sum or largest of values over all processes, as a list."""
    if not torch.distributed.is_initialized():
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    values = torch.tensor(values, dtype=torch.float64, device=device)
    kind = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(values, kind)
    return values.tolist()


def measure(brain, batch, warmup, repeats):
    """Times steps on a batch.

    Arguments
    ---------
    brain : TimedBrain
    batch : PaddedBatch
    warmup : int
        Steps that do not count.
    repeats : int
        Steps of which the median is taken.

    Returns
    -------
    row : dict
        Milliseconds, speeds over all processes, and memory in GB on the fullest GPU.
    """
    for _ in range(warmup):
        step(brain, batch)
    steps = [step(brain, batch) for _ in range(repeats)]
    times = {name: statistics.median(one[name] for one in steps) for name in PARTS}
    times["step"] = statistics.median(sum(one.values()) for one in steps)
    # A step ends when its slowest process does.
    times = dict(zip(times, over_processes(list(times.values()), largest=True), strict=True))
    utterances, seconds = over_processes([len(batch.id), float(batch.duration.sum())])
    row = {f"{name}_ms": value for name, value in times.items()}
    row["utterances_per_s"] = 1000 * utterances / times["step"]
    row["hours_per_hour"] = 1000 * seconds / times["step"]
    if brain.watch.cuda:
        memory = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()]
        row["peak_gb"], row["reserved_gb"] = (x / 1e9 for x in over_processes(memory, largest=True))
    return row


def fits(brain, function):
    """What a function returns, or None if the memory does not suffice."""
    free_memory(brain)
    try:
        return function()
    except torch.OutOfMemoryError:
        if torch.distributed.is_initialized():
            raise  # the other processes wait for this one
    # Not in the clause above: there, the error still holds the tensors of the step.
    free_memory(brain)
    return None


def largest_that_fits(fits, good, bad=None, limit=256, precision=0.1):
    """Finds the largest number that fits, by doubling and then halving the gap.

    Arguments
    ---------
    fits : callable
        Whether a number fits.
    good : int
        Fits.
    bad : int, optional
        Does not. Default: not known, so that `good` is doubled.
    limit : int
        No more than this is tried. Default: 256.
    precision : float
        The gap that may stay, relative to what fits. Default: 0.1.

    Returns
    -------
    good : int
        Fits.
    bad : int or None
        The smallest found that does not; None if the limit fits.

    Example
    -------
    >>> largest_that_fits(lambda number: number <= 21, good=4)
    (21, 22)
    """
    while bad is None and good < limit:
        number = min(2 * good, limit)
        if fits(number):
            good = number
        else:
            bad = number
    while bad is not None and bad - good > max(1, precision * good):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good, bad
