"""What a training run shows of itself while it goes on."""

import time

import speechbrain as sb
from tqdm import tqdm


class TrainingBar:
    """A progress bar for each stage: loss parts, hours of audio per hour, time left.

    Arguments
    ---------
    shown : bool
        Whether to show anything. Default: True.
    lengths : dict, optional
        Batches of each stage. Default: not known.
    refresh : float
        Seconds between two readings of the losses, which wait for the GPU. Default: 5.

    Example
    -------
    >>> import torch
    >>> bar = TrainingBar(shown=False)
    >>> bar.start(sb.Stage.TRAIN, epoch=1)
    >>> bar.update({"ctc": (torch.tensor(6.0), 2)}, seconds=8.0)
    >>> bar.describe({"ctc": (torch.tensor(6.0), 2)})["ctc"]
    '3.000'
    """

    def __init__(self, shown=True, lengths=None, refresh=5.0):
        self.shown = shown
        self.lengths = lengths or {}
        self.refresh = refresh
        self.bar = None
        self.seconds = 0.0
        self.begin = self.read = time.perf_counter()

    def start(self, stage, epoch=None, done=0):
        """Starts the bar of a stage.

        Arguments
        ---------
        stage : sb.Stage
        epoch : int, optional
        done : int
            Batches of it that were done before, by a run that was stopped. Default: 0.
        """
        self.close()
        self.seconds = 0.0
        self.begin = self.read = time.perf_counter()
        name = {sb.Stage.TRAIN: "train", sb.Stage.VALID: "valid"}.get(stage, "test")
        self.bar = tqdm(
            total=self.lengths.get(stage),
            initial=done if stage == sb.Stage.TRAIN else 0,
            desc=name if epoch is None else f"epoch {epoch} {name}",
            unit="batch",
            dynamic_ncols=True,
            disable=not self.shown,
        )

    def update(self, parts, seconds=0.0):
        """Counts one batch.

        Arguments
        ---------
        parts : dict
            Sum and number of each part of the loss.
        seconds : float
            Of audio in it. Default: 0.
        """
        self.seconds += seconds
        if self.bar is None:
            return
        now = time.perf_counter()
        if self.shown and (now - self.read > self.refresh or self.bar.n == self.bar.initial):
            self.read = now
            self.bar.set_postfix(self.describe(parts), refresh=False)
        self.bar.update()

    def describe(self, parts):
        """What stands behind the bar.

        Arguments
        ---------
        parts : dict
            Sum and number of each part of the loss.

        Returns
        -------
        described : dict
            Mean of each part, and hours of audio per hour.
        """
        described = {
            name: f"{float(total) / number:.3f}"
            for name, (total, number) in parts.items()
            if name != "infeasible"
        }
        elapsed = time.perf_counter() - self.begin
        if self.seconds:
            described["h/h"] = f"{self.seconds / elapsed:.0f}"
        return described

    def close(self):
        """Ends the bar of a stage."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
