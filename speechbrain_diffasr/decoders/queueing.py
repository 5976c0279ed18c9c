"""Utterances that wait for room in a batch."""

from collections import deque
from dataclasses import dataclass, replace
from itertools import islice, takewhile

import torch

from speechbrain_diffasr.decoders.canvas import Guess


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
        Tokens that the canvas has. Default: what the seconds or the draft call for.
    draft : Guess, optional
        What may be said, for the canvas to start from. Default: as the searcher starts.
    keywords : Keywords, optional
        Words to expect. Default: none.
    copy : int
        Which of several canvases of an utterance it is. Default: the first, 0.
    original : Utterance, optional
        That it is a copy of, or that it goes on from on a longer canvas. Default: none, it was
        given.
    """

    audio: torch.Tensor
    key: object = None
    language: str | None = None
    seed: int | None = None
    seconds: float | None = None
    canvas_length: int | None = None
    draft: Guess | None = None
    keywords: object = None
    copy: int = 0
    original: "Utterance | None" = None

    @property
    def source(self):
        """The utterance that was given, of which there may be copies."""
        return self.original or self


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
        self._copies = 1

    def set_copies(self, number):
        """Makes each utterance wait so many times, one copy behind the other.

        Arguments
        ---------
        number : int
            Of utterances that wait and of those to come.
        """
        waiting = [one for one in self._waiting if not one.copy]
        self._copies, self._waiting = number, deque()
        self.put(waiting)

    def _copy(self, utterance):
        if self._copies == 1:
            return [utterance]
        return [
            replace(utterance, copy=copy, original=utterance.source) for copy in range(self._copies)
        ]

    def __len__(self):
        """Utterances that were put in and wait."""
        return len(self._waiting) + len(self._later)

    def put(self, utterances):
        """Adds utterances behind those that wait."""
        for utterance in utterances:
            self._waiting.extend(self._copy(utterance))

    def put_front(self, utterances):
        """Adds utterances before all others: for parts of what was begun, which hold memory."""
        for utterance in reversed(utterances):
            self._waiting.extendleft(reversed(self._copy(utterance)))

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
            self.put([utterance])
        if not self._waiting:
            self._waiting, self._later = self._later, deque()
        return list(islice(self._waiting, number))

    def take(self, number, fits):
        """Takes utterances out as long as they fit."""
        taken = list(takewhile(fits, self.peek(number)))
        for _ in taken:
            self._waiting.popleft()
        return taken
