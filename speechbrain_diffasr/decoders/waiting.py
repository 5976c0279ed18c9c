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
        [num_slots, D].
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
    """Utterances that wait, taken from an iterable when they are needed.

    Arguments
    ---------
    utterances : iterable of Utterance

    Example
    -------
    >>> queue = Queue(Utterance(torch.zeros(2, 4), key) for key in "abc")
    >>> [utterance.key for utterance in queue.take(2, lambda utterance: utterance.key != "b")]
    ['a']
    >>> [utterance.key for utterance in queue.peek(9)]
    ['b', 'c']
    """

    def __init__(self, utterances):
        self._source = iter(utterances)
        self._waiting = deque()
        self._later = deque()

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

    def again(self, utterance):
        """Puts an utterance back, behind all others."""
        self._later.append(utterance)
