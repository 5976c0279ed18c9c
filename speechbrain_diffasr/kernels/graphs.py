"""CUDA graphs: thousands of kernel launches replayed as one."""

import torch

# Batches are padded to one of these, so that a few graphs serve all of them.
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def padded_batch(batch):
    """The size that a batch is padded to.

    Arguments
    ---------
    batch : int

    Returns
    -------
    size : int

    Example
    -------
    >>> padded_batch(5), padded_batch(64), padded_batch(300)
    (6, 64, 512)
    """
    large = BATCHES[-1]
    return next((size for size in BATCHES if size >= batch), -(-batch // large) * large)


class Graphs:
    """Runs functions as CUDA graphs, which are captured when a shape is seen first.

    A graph reads its inputs where they lay when it was captured, and so must all else that the
    function reads or writes: weights and caches that stay where they are. On other devices the
    functions run as they are.

    Example
    -------
    >>> double = lambda x: 2 * x
    >>> Graphs()("double", double, [torch.ones(2)], idle=lambda batch: [torch.zeros(batch)])
    tensor([2., 2.])
    """

    def __init__(self):
        self.clear()

    def __reduce__(self):
        # A graph is of its process and its tensors: a copy captures its own.
        return Graphs, ()

    def clear(self):
        """Forgets all graphs, because what they point to is no longer there."""
        self._captured = {}
        self._pool = None

    def __call__(self, key, function, inputs, idle):
        """Runs a function.

        Arguments
        ---------
        key : hashable
            Names the function; with the size of the batch, the graph.
        function : callable
            Takes the inputs and returns a tensor, or a tuple of tensors or None.
        inputs : list of torch.Tensor
            Each with the batch in front.
        idle : callable
            Takes the size of a batch and gives inputs that do no harm: what the function is
            captured with, and what fills up a batch.

        Returns
        -------
        outputs : torch.Tensor or tuple
            On a GPU they are overwritten by the next call of any function.
        """
        if not inputs[0].is_cuda:
            return function(*inputs)
        batch = len(inputs[0])
        key = (key, padded_batch(batch))
        if key not in self._captured:
            self._captured[key] = self._capture(function, idle(key[1]))
        graph, static, harmless, outputs = self._captured[key]
        for place, value, nothing in zip(static, inputs, harmless, strict=True):
            place[:batch].copy_(value, non_blocking=True)
            if batch < len(place):
                place[batch:].copy_(nothing[batch:])
        graph.replay()
        if isinstance(outputs, tuple):
            return tuple(None if output is None else output[:batch] for output in outputs)
        return outputs[:batch]

    def _capture(self, function, idle):
        static = [tensor.clone() for tensor in idle]
        # Kernels are compiled, and libraries set up, in a run that is not captured.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            function(*static)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # One pool for all: they run one after the other, and outputs are used up at once.
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = function(*static)
        self._pool = self._pool or graph.pool()
        return graph, static, idle, outputs
