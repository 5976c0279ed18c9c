"""Draws languages of few hours more often than they come in the data."""

import math

import torch
from speechbrain.dataio.sampler import (
    DistributedSamplerWrapper,
    DynamicBatchSampler,
    ReproducibleWeightedRandomSampler,
)


def language_weights(languages, durations, temperature):
    """Weighs utterances so that language L fills a share of the audio ~ hours(L)^(1/T).

    With T = 1 languages keep the share that they have in the data; the higher T, the more equal
    they become. It is the sampling of XLM-R (https://arxiv.org/abs/1911.02116, section 3.1,
    alpha = 1/T = 0.3) and of multilingual BERT (alpha = 0.7), counted in hours, not in sentences.

    Arguments
    ---------
    languages : list of str
        The code of each utterance's language.
    durations : list of float
        Of each utterance (seconds, or any other unit).
    temperature : float
        T, at least 1; infinity for equal shares.

    Returns
    -------
    weights : list of float
        One for each utterance, for `ReproducibleWeightedRandomSampler`: how often it is drawn
        compared with the others, 1 for all if T is 1.

    Raises
    ------
    ValueError
        If the temperature is below 1, the lists differ in length, or a language has no audio.

    Example
    -------
    >>> language_weights(["en", "en", "hi"], [8.0, 8.0, 4.0], temperature=1)
    [1.0, 1.0, 1.0]
    >>> weights = language_weights(["en", "en", "hi"], [8.0, 8.0, 4.0], temperature=2)
    >>> round(weights[2] / weights[0], 3)  # 16 s to 4 s become 4 to 2
    2.0
    """
    if not temperature >= 1:
        raise ValueError(f"temperature: {temperature} is not 1 or more")
    total = {}
    for language, duration in zip(languages, durations, strict=True):
        total[language] = total.get(language, 0.0) + duration
    for language, duration in total.items():
        if not (duration > 0 and math.isfinite(duration)):
            raise ValueError(f"durations: those of '{language}' add up to {duration}")
    everything = sum(total.values())
    share = {language: duration / everything for language, duration in total.items()}
    return [share[language] ** (1 / temperature - 1) for language in languages]


class WeightedDynamicBatchSampler(torch.utils.data.Sampler):
    """Draws the utterances of an epoch by weight and batches them by length.

    `ReproducibleWeightedRandomSampler` draws as many utterances as there are, with replacement,
    anew in every epoch; `DynamicBatchSampler` makes batches of them. Its epoch has to be set: give
    it to the loader, and where training is not distributed to ``brain.train_sampler`` too.

    Arguments
    ---------
    weights : list of float
        Of each utterance, see `language_weights`.
    lengths : list of float
        Of each utterance, in the unit of `max_batch_length`.
    max_batch_length : float
        Sum of the lengths in one batch, padding included.
    seed : int
        Of both samplers.
    epoch : int
        To start at.
    **options
        Others of `DynamicBatchSampler`, such as num_buckets or max_batch_ex.

    Example
    -------
    >>> weights = language_weights(["en"] * 90 + ["hi"] * 10, [5.0] * 100, float("inf"))
    >>> sampler = WeightedDynamicBatchSampler(weights, [5.0] * 100, 20.0, num_buckets=2)
    >>> sampler.set_epoch(1)
    >>> drawn = [index for batch in sampler for index in batch]
    >>> len(drawn), 30 < sum(index >= 90 for index in drawn) < 70
    (100, True)
    """

    def __init__(self, weights, lengths, max_batch_length, seed=1986, epoch=0, **options):
        self.lengths = lengths
        self.options = {"max_batch_length": max_batch_length, "seed": seed, **options}
        self.sampler = ReproducibleWeightedRandomSampler(
            weights, num_samples=len(weights), replacement=True, seed=seed
        )
        self.set_epoch(epoch)

    def set_epoch(self, epoch):
        """Draws the utterances of an epoch; the same epoch gives the same batches."""
        self.sampler.set_epoch(epoch)
        drawn = list(self.sampler)
        batches = DynamicBatchSampler(
            drawn,
            lengths_list=[self.lengths[i] for i in drawn],
            shuffle=False,  # they are drawn in random order
            epoch=epoch,
            **self.options,
        )
        self.batches = [[drawn[position] for position in batch] for batch in batches]

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


class DistributedBatchSampler(DistributedSamplerWrapper):
    """Shares batches out to processes, also where each epoch has another number of them.

    SpeechBrain's, which it is otherwise, fails at the first epoch that has more or fewer batches
    than there were when training began, as those of `WeightedDynamicBatchSampler` have.

    Example
    -------
    >>> batches = WeightedDynamicBatchSampler([1.0] * 9, [5.0] * 9, 20.0, num_buckets=2)
    >>> sampler = DistributedBatchSampler(batches, num_replicas=2, rank=0)
    >>> sampler.set_epoch(1)
    >>> len(list(sampler)) == len(sampler) == math.ceil(len(batches) / 2)
    True
    """

    def set_epoch(self, epoch):
        """Passes the epoch on and counts its batches."""
        super().set_epoch(epoch)
        self.num_samples = math.ceil(len(self.sampler) / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self):
        indices = torch.utils.data.DistributedSampler.__iter__(self)
        batches = list(self.sampler)
        return iter([batches[index] for index in indices])
