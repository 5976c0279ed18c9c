"""The loop that all of pre-training runs in."""

import contextlib
import math
import os
import time
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file
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


def load_embeddings(source, gemma):
    """Token embeddings, which are the output layer too.

    Arguments
    ---------
    source : str or Path
        The file that the encoder's stage writes, or a pretrained folder, whose base is loaded.
    gemma : DiffusionGemma

    Returns
    -------
    weight : torch.Tensor
        [V, D].
    """
    if Path(source).is_dir():
        load_parts(source, base=gemma)
        return gemma.head.weight.detach()
    return load_file(source)["weight"]


class Average:
    """An exponential moving average of weights, which generalizes better than the last ones.

    Arguments
    ---------
    parameters : list of torch.nn.Parameter
    decay : float
        Share that stays at each step; smaller at first, so that the beginning is forgotten.
        0 averages nothing.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> average = Average([weight], decay=0.9)
    >>> _ = weight.data.fill_(1.0)
    >>> average.update()
    >>> with average.in_place():
    ...     0 < float(weight) < 1
    True
    >>> float(weight)
    1.0
    """

    def __init__(self, parameters, decay):
        self.parameters, self.decay, self.steps = list(parameters), decay, 0
        self.means = [p.detach().clone() for p in self.parameters] if decay else []

    @torch.no_grad()
    def update(self):
        """Takes the weights of one more step in."""
        if self.decay:
            self.steps += 1
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.means, self.parameters, 1 - decay)

    @contextlib.contextmanager
    def in_place(self):
        """Puts the average where the weights are, for a while."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def keep(self):
        """Puts the average where the weights are, for good."""
        self._exchange()

    @torch.no_grad()
    def _exchange(self):
        for parameter, mean in zip(self.parameters, self.means, strict=False):
            other = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(other)


def start_processes():
    """Joins the processes that torchrun started, if it did.

    Returns
    -------
    rank : int
        Of this process; 0 if it is alone.
    device : str or None
        The GPU of this process; None if it is alone.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, None
    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl")
    return torch.distributed.get_rank(), f"cuda:{rank}"


def average_gradients(parameters):
    """Makes the gradients of all processes their mean."""
    if not torch.distributed.is_initialized():
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    torch.distributed.all_reduce(flat, torch.distributed.ReduceOp.AVG)
    for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


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
    Steps whose gradient is not finite are skipped and counted. Processes that torchrun started
    average their gradients; the first logs and saves.

    Arguments
    ---------
    parameters : iterable of torch.nn.Parameter, or list of dict
        Or groups of them, each with `params` and `scale`, which is a factor of the learning rate.
    batches : iterator
        Gives what `loss_of` takes.
    loss_of : callable
        Returns the loss and a dict of its parts (tensors).
    settings : dict
        steps, seconds, save_every, lr, last_lr (as a share of lr), warmup_steps, betas,
        weight_decay, max_grad_norm, and optionally average (decay of a moving average of the
        weights, which is what is saved).
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
    groups = list(parameters)
    if not isinstance(groups[0], dict):
        groups = [{"params": groups, "scale": 1.0}]
    groups = [
        {
            "params": [p for p in group["params"] if p.requires_grad],
            "lr": settings["lr"] * group["scale"],
        }
        for group in groups
    ]
    parameters = [p for group in groups for p in group["params"]]
    device = parameters[0].device.type
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=tuple(settings["betas"]),
        weight_decay=settings["weight_decay"],
        fused=device == "cuda",
    )
    average = Average(parameters, settings.get("average", 0.0))
    is_first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    steps, warmup = settings["steps"], settings["warmup_steps"]

    def scale(step):
        if step < warmup:
            return (step + 1) / warmup
        progress = max(step / steps, (time.perf_counter() - begin) / settings["seconds"])
        last = settings["last_lr"]
        return last + (1 - last) / 2 * (1 + math.cos(math.pi * min(1.0, progress)))

    def is_over(step, elapsed):
        over = torch.tensor(step == steps or elapsed > settings["seconds"])
        if torch.distributed.is_initialized():  # the clocks of all processes are the first's
            over = over.to(device)
            torch.distributed.broadcast(over, 0)
        return bool(over)

    skipped, sums = 0, {}
    batch = next(batches)
    begin = time.perf_counter()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    bar = tqdm(range(1, steps + 1), mininterval=10, unit="step", disable=not is_first)
    for step in bar:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss, parts = loss_of(batch)
        loss.backward()
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
        batch = next(batches)  # made while the GPU still works on the gradient
        if bool(torch.isfinite(norm)):
            optimizer.step()
            average.update()
        else:
            skipped += 1
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0) + value.detach()
        elapsed = time.perf_counter() - begin
        last = is_over(step, elapsed)
        if is_first and (step % log_every == 0 or last):
            count = (step - 1) % log_every + 1
            means = " ".join(f"{name} {float(value) / count:.4f}" for name, value in sums.items())
            log(f"step {step} {means} skipped {skipped} {step / elapsed:.1f} steps/s")
        if step % log_every == 0:
            sums = {}
        if is_first and step % settings["save_every"] == 0 and not last:
            with average.in_place():
                save()
        after_step(step)
        if last:
            break
    average.keep()
    if is_first:
        save()
