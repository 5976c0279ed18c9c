"""How canvases start and are corrupted."""

import pytest
import torch

from speechbrain_diffasr.decoders.canvas import corrupt_canvas, fill_canvas

VOCAB = 97
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1986)


def test_corruption_follows_its_rates_and_is_uniform():
    tokens = torch.full((2000, 50), 3)
    noisy, mask, rates = corrupt_canvas(tokens, vocab_size=10)
    assert 0.001 <= rates.min() < 0.01 and 0.99 < rates.max() <= 1
    assert abs(rates.mean().item() - 0.5005) < 0.02  # 3 standard errors of 2000 draws
    # (share - t) / standard error is a standard normal, also for small t: variance one
    shares = mask.double().mean(1)
    z = (shares - rates) / (rates * (1 - rates) / 50).sqrt()
    assert abs(z.mean()) < 0.1 and abs(z.var() - 1) < 0.15
    assert torch.equal(noisy[~mask], tokens[~mask])
    counts = torch.bincount(noisy[mask], minlength=10).double()
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert len(counts) == 10 and chi_square < 28  # 0.1 % point at 9 degrees of freedom


@pytest.mark.parametrize("low, high", [(0.3, 0.4), (0.0, 0.0), (1.0, 1.0)])
def test_corruption_keeps_to_its_range(low, high):
    tokens = torch.randint(10, (500, 64), dtype=torch.int32)
    noisy, mask, rates = corrupt_canvas(tokens, 10, min_rate=low, max_rate=high)
    assert noisy.dtype == torch.int32
    assert low - 1e-6 <= rates.min() and rates.max() <= high + 1e-6
    assert abs(mask.float().mean().item() - (low + high) / 2) < 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_corruption_of_an_utterance_follows_from_its_seed_alone(device):
    tokens = torch.randint(VOCAB, (4, 30), device=device)

    def draw(rows, seeds):
        torch.rand(3)  # the global generator must not matter
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return corrupt_canvas(tokens[rows], VOCAB, generators)

    together = draw([0, 1, 2, 3], [5, 6, 7, 8])
    some = draw([2, 0], [7, 5])
    for all_rows, two_rows in zip(together, some, strict=True):
        assert torch.equal(all_rows[[2, 0]], two_rows)
    assert not torch.equal(draw([0], [5])[0], draw([0], [6])[0])


def test_corruption_refuses_rates_that_are_none():
    with pytest.raises(ValueError, match="min_rate"):
        corrupt_canvas(torch.zeros(1, 2).long(), 10, min_rate=0.5, max_rate=0.1)


def test_a_transcript_longer_than_the_canvas_is_refused():
    with pytest.raises(ValueError, match="5 tokens does not fit a canvas of 4"):
        fill_canvas([[1, 2, 3, 4, 5]], length=4, eos=0)
