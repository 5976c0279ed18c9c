"""What CTC reads off the vocabulary, against a softmax over all of it."""

import pytest
import torch
from kernel_checks import INTERPRETED, run_interpreted

from speechbrain_diffasr.kernels.frames import read_frames

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 7, 300), (2, 4, 5000)])
def test_it_is_a_softmax_over_the_vocabulary(shape, softcap, device):
    generator = torch.Generator().manual_seed(shape[1])
    logits = 40 * torch.randn(shape, generator=generator, dtype=torch.float64)
    frames = torch.arange(shape[0]) % shape[1] + 1
    bounded = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    log_probs = bounded.log_softmax(dim=-1)
    norms, highest = read_frames(logits.float().to(device), softcap, frames.to(device))
    expected = bounded.logsumexp(dim=-1).float()
    torch.testing.assert_close(norms.cpu(), expected, atol=1e-4, rtol=1e-5)
    for row, count in enumerate(frames.tolist()):
        expected = log_probs[row, :count].amax(dim=0).float()
        torch.testing.assert_close(highest[row].cpu(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_kernels_keep_to_the_definition_when_interpreted():
    run_interpreted(__file__)
