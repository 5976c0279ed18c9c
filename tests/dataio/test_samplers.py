"""Sampling that balances languages: the hours that it draws."""

from collections import Counter

import pytest
from speechbrain.dataio.sampler import ReproducibleWeightedRandomSampler

from speechbrain_diffasr.dataio.samplers import WeightedDynamicBatchSampler, language_weights

# 40 h of English in clips of 4 s to 20 s, 5 h of German in short ones, 1 h of Hindi in long ones.
UTTERANCES = {"en": (12000, 12.0, 8.0), "de": (4500, 4.0, 2.0), "hi": (225, 16.0, 4.0)}
LANGUAGES = [lang for lang, (count, _, _) in UTTERANCES.items() for _ in range(count)]
DURATIONS = [
    mean + spread * (2 * number / (count - 1) - 1)
    for count, mean, spread in UTTERANCES.values()
    for number in range(count)
]


def shares(indices):
    """{lang: its part of the audio}"""
    seconds = Counter()
    for index in indices:
        seconds[LANGUAGES[index]] += DURATIONS[index]
    return {lang: seconds[lang] / seconds.total() for lang in UTTERANCES}


def expected(temperature):
    powers = {"en": 40 ** (1 / temperature), "de": 5 ** (1 / temperature), "hi": 1.0}
    return {lang: power / sum(powers.values()) for lang, power in powers.items()}


def test_the_data_is_as_it_says():
    assert shares(range(len(LANGUAGES))) == pytest.approx(
        {"en": 40 / 46, "de": 5 / 46, "hi": 1 / 46}
    )


@pytest.mark.parametrize("temperature", [1, 2, 10 / 3, float("inf")])
def test_the_hours_that_are_drawn_follow_the_formula(temperature):
    weights = language_weights(LANGUAGES, DURATIONS, temperature)
    sampler = ReproducibleWeightedRandomSampler(weights, 100_000, replacement=True)
    assert shares(sampler) == pytest.approx(expected(temperature), abs=0.01)


def test_utterances_of_one_language_weigh_the_same():
    weights = language_weights(LANGUAGES, DURATIONS, 3.0)
    assert len(set(zip(LANGUAGES, weights, strict=True))) == len(UTTERANCES)


@pytest.mark.parametrize("temperature", [1, 3.0])
def test_batches_hold_the_same_hours(temperature):
    weights = language_weights(LANGUAGES, DURATIONS, temperature)
    sampler = WeightedDynamicBatchSampler(weights, DURATIONS, 120.0, num_buckets=10)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    drawn = [index for batch in batches for index in batch]
    assert len(drawn) == len(LANGUAGES)
    assert shares(drawn) == pytest.approx(expected(temperature), abs=0.02)
    for batch in batches:
        assert len(batch) * max(DURATIONS[index] for index in batch) <= 120.0 or len(batch) == 1


def test_epochs_differ_and_repeat():
    weights = language_weights(LANGUAGES, DURATIONS, 3.0)
    options = {"max_batch_length": 120.0, "num_buckets": 10, "seed": 3}
    sampler = WeightedDynamicBatchSampler(weights, DURATIONS, **options)
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2] != epochs[1]
    assert set(map(tuple, epochs[0])) != set(map(tuple, epochs[1]))
    # Whoever resumes at an epoch gets the batches of that epoch.
    again = WeightedDynamicBatchSampler(weights, DURATIONS, epoch=1, **options)
    assert list(again) == epochs[1]


@pytest.mark.parametrize(
    ("languages", "durations", "temperature", "message"),
    [
        (["en"], [1.0], 0.5, "temperature: 0.5 is not 1 or more"),
        (["en"], [1.0], float("nan"), "temperature: nan"),
        (["en", "hi"], [1.0, 0.0], 2, "durations: those of 'hi' add up to 0.0"),
        (["en", "hi"], [1.0], 2, "shorter"),
    ],
)
def test_bad_arguments_are_named(languages, durations, temperature, message):
    with pytest.raises(ValueError, match=message):
        language_weights(languages, durations, temperature)
