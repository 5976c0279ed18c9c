"""The loop that both pre-training scripts share."""

import math
import time

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain import parse_arguments
from speechbrain.utils.distributed import infer_device
from tqdm import tqdm

from speechbrain_diffasr.inference import FolderPretrainer


def load_hparams(arguments):
    """Reads YAML and command line as SpeechBrain's recipes do.

    Arguments
    ---------
    arguments : list of str
        Of the command line.

    Returns
    -------
    hparams : dict
        With the run options device, precision and compile among them.
    """
    path, run_opts, overrides = parse_arguments(arguments)
    with open(path, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    for name in ("precision", "compile"):
        if name in run_opts.overridden_args:
            hparams[name] = run_opts[name]
    hparams["device"] = run_opts.device or infer_device()
    return hparams


def load_parts(folder, **parts):
    """Loads weights of a pretrained folder, or of what pre-training wrote.

    Arguments
    ---------
    folder : str or Path
    **parts : torch.nn.Module
        By the names of their files.
    """
    pretrainer = FolderPretrainer(loadables=parts)
    pretrainer.collect_files(default_source=str(folder))
    pretrainer.load_collected()


def optimize(
    parameters,
    batches,
    loss_of,
    settings,
    precision="bf16",
    log_every=200,
    log=print,
    save=lambda: None,
    after_step=lambda step: None,
):
    """Minimizes a loss with AdamW, warm-up and a cosine.

    It ends after so many steps or so many seconds, whichever is first, and the cosine with it.
    Steps whose gradient is not finite are skipped and counted.

    Arguments
    ---------
    parameters : iterable of torch.nn.Parameter
    batches : iterator
        Gives what `loss_of` takes.
    loss_of : callable
        Returns the loss and a dict of its parts (tensors).
    settings : dict
        steps, seconds, save_every, lr, last_lr (as a share of lr), warmup_steps, betas,
        weight_decay, max_grad_norm.
    precision : str
        "bf16" for autocast, or "fp32".
    log_every : int
        Steps between two lines of the log.
    log : callable
        Takes such a line.
    save : callable
        Called every `save_every` steps and at the end.
    after_step : callable
        Takes the number of steps made.
    """
    parameters = [p for p in parameters if p.requires_grad]
    device = parameters[0].device.type
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        weight_decay=settings["weight_decay"],
        fused=device == "cuda",
    )
    steps, warmup = settings["steps"], settings["warmup_steps"]

    def scale(step):
        if step < warmup:
            return (step + 1) / warmup
        progress = max(step / steps, (time.perf_counter() - begin) / settings["seconds"])
        last = settings["last_lr"]
        return last + (1 - last) / 2 * (1 + math.cos(math.pi * min(1.0, progress)))

    skipped, sums = 0, {}
    batch = next(batches)
    begin = time.perf_counter()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    bar = tqdm(range(1, steps + 1), mininterval=10, unit="step")
    for step in bar:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss, parts = loss_of(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
        batch = next(batches)  # made while the GPU still works on the gradient
        if bool(torch.isfinite(norm)):
            optimizer.step()
        else:
            skipped += 1
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0) + value.detach()
        elapsed = time.perf_counter() - begin
        last = step == steps or elapsed > settings["seconds"]
        if step % log_every == 0 or last:
            count = (step - 1) % log_every + 1
            means = " ".join(f"{name} {float(value) / count:.4f}" for name, value in sums.items())
            log(f"step {step} {means} skipped {skipped} {step / elapsed:.1f} steps/s")
            sums = {}
        if step % settings["save_every"] == 0 or last:
            save()
        after_step(step)
        if last:
            break
