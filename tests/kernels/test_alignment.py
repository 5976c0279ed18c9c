"""Forward and backward sums over the alignments of a canvas."""

import itertools

import pytest
import torch
from kernel_checks import INTERPRETED, run_interpreted

from speechbrain_diffasr.kernels.alignment import align_positions, align_positions_plain


def random_case(seed, batch=3, frames=4, width=3):
    generator = torch.Generator().manual_seed(seed)
    parts = [(batch, frames, width), (batch, frames, width), (batch, frames), (batch, width + 1)]
    return [torch.rand(*shape, generator=generator) for shape in parts]


def enumerated(emitted, held, blank, lengths):
    """The posterior of one utterance, path by path."""
    frames, width = emitted.shape
    mass = torch.zeros(frames, width)
    total = 0.0
    # In each frame something begins, goes on, or nothing is heard.
    for path in itertools.product("bgn", repeat=frames):
        weight, place, speaking, began = 1.0, -1, False, []
        for frame, what in enumerate(path):
            if what == "n":
                weight, speaking = weight * blank[frame], False
            elif what == "b" and place + 1 < width:
                place, speaking = place + 1, True
                weight = weight * emitted[frame, place]
                began.append((frame, place))
            elif what == "g" and speaking:
                weight = weight * held[frame, place]
            else:
                weight = 0.0
                break
        weight = weight * lengths[place + 1]
        total += weight
        for frame, position in began:
            mass[frame, position] += weight
    return mass / total


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_sum_over_all_alignments(seed):
    case = random_case(seed)
    found = align_positions(*case, torch.tensor([4, 3, 1]))
    for row, count in enumerate([4, 3, 1]):
        emitted, held, blank, lengths = (part[row] for part in case)
        expected = enumerated(emitted[:count], held[:count], blank[:count], lengths)
        torch.testing.assert_close(found[row, :count], expected)
        assert not found[row, count:].any()


@pytest.mark.skipif(INTERPRETED, reason="hundreds of frames take the interpreter long")
def test_what_is_nearly_impossible_stays_a_number():
    """Where frames hear nothing, hundreds of them outweigh what the canvas would have."""
    emitted, held, blank, _ = random_case(0, frames=400, width=60)
    lengths = torch.full((3, 61), 1e-6)
    lengths[:, 50] = 1.0
    begins = align_positions(emitted * 1e-12, held, blank, lengths, torch.tensor([400] * 3))
    assert torch.isfinite(begins).all() and (begins >= 0).all()
    heard = begins.sum(dim=1)  # of each position; none without those before it
    assert (heard < 1 + 1e-3).all() and (heard[:, 1:] < heard[:, :-1] + 1e-3).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("width", [1, 5, 16, 48])
def test_the_kernel_computes_the_same(width, device):
    case = [part.to(device) for part in random_case(width, frames=9, width=width)]
    counts = torch.tensor([9, 4, 1], device=device)
    expected = align_positions_plain(*case, counts)
    torch.testing.assert_close(align_positions(*case, counts), expected)


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_kernels_keep_to_the_definition_when_interpreted():
    run_interpreted(__file__)
