"""Utterances that wait for room in a batch."""

from collections import deque
from dataclasses import dataclass
from itertools import islice, takewhile

import torch


@dataclass(frozen=True, eq=False)
class Utterance:
    """Projected audio that waits to be transcribed.

    Arguments
    ---------
    audio : torch.Tensor
        [num_frames, D].
    key : object
        What the caller knows it by. Default: None.
    language : str, optional
        Code of the spoken language. Default: the prompt names none.
    seed : int, optional
        Of the canvas noise. Default: the sampler's own.
    seconds : float, optional
        Of audio. Default: unknown, as much as the slots hold.
    canvas_length : int, optional
        Tokens that the canvas has. Default: what the seconds call for.
    """

    audio: torch.Tensor
    key: object = None
    language: str | None = None
    seed: int | None = None
    seconds: float | None = None
    canvas_length: int | None = None


class Queue:
    """Utterances that wait: put in by whoever makes them, taken when a canvas is free.

    Arguments
    ---------
    utterances : iterable of Utterance
        Taken from as there is room, before what `put` adds. Default: none.

    Example
    -------
    >>> queue = Queue(Utterance(torch.zeros(2, 4), key) for key in "abc")
    >>> [utterance.key for utterance in queue.take(2, lambda utterance: utterance.key != "b")]
    ['a']
    >>> queue.put_front([Utterance(torch.zeros(2, 4), "urgent")])
    >>> [utterance.key for utterance in queue.peek(9)]
    ['urgent', 'b', 'c']
    """

    def __init__(self, utterances=()):
        self._source = iter(utterances)
        self._waiting = deque()
        self._later = deque()

    def __len__(self):
        """Utterances that were put in and wait."""
        return len(self._waiting) + len(self._later)

    def put(self, utterances):
        """Adds utterances behind those that wait."""
        self._waiting.extend(utterances)

    def put_front(self, utterances):
        """Adds utterances before all others: for parts of what was begun, which hold memory."""
        self._waiting.extendleft(reversed(utterances))

    def requeue(self, utterance):
        """Puts an utterance back behind all others, of any length of the queue.

        For one that needs a longer canvas than those that are being decoded: in front it would
        keep others from entering.
        """
        self._later.append(utterance)

    def peek(self, number):
        """The next utterances, those that were put back last; none at the end."""
        while len(self._waiting) < number:
            utterance = next(self._source, None)
            if utterance is None:
                break
            self._waiting.append(utterance)
        if not self._waiting:
            self._waiting, self._later = self._later, deque()
        return list(islice(self._waiting, number))

    def take(self, number, fits):
        """Takes utterances out as long as they fit."""
        taken = list(takewhile(fits, self.peek(number)))
        for _ in taken:
            self._waiting.popleft()
        return taken
