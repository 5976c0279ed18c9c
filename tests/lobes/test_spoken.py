"""Prompts without the frames in which CTC hears nothing."""

import pytest
import torch

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.decoders.queueing import Utterance
from speechbrain_diffasr.lobes.output_layer import Head
from speechbrain_diffasr.lobes.prompt import keep_spoken
from speechbrain_diffasr.training.objective import LanguageModelLosses

BLANK, FRAMES = 4, 17


def random_case(batch):
    generator = torch.Generator().manual_seed(batch)
    audio = torch.randn(batch, FRAMES, 5, generator=generator)
    return audio, Head(2 * torch.randn(7, 5, generator=generator), 30.0)


@pytest.mark.parametrize("chunk_size", [1, 5, 1000])
@pytest.mark.parametrize("count", [3, 9, 20])
def test_it_keeps_what_looking_at_each_frame_keeps(count, chunk_size):
    audio, head = random_case(20)
    lengths = [row % (FRAMES + 1) for row in range(20)]
    kept, lens = keep_spoken(
        audio, head, BLANK, torch.tensor(lengths), count, 0.3, chunk_size=chunk_size
    )
    assert kept.shape == (20, count, 5)
    probs = (30 * torch.tanh(audio @ head.weight.T / 30)).softmax(dim=-1)[..., BLANK].tolist()
    numbers = set()
    for row, one, prob, length, number in zip(kept, audio, probs, lengths, lens, strict=True):
        spoken = [place for place in range(length) if prob[place] <= 0.3]
        spoken = sorted(sorted(spoken, key=prob.__getitem__)[:count])
        assert number == len(spoken)
        torch.testing.assert_close(row[:number], one[spoken])
        assert not row[number:].any()
        numbers.add(int(number))
    assert len(numbers) > 2


def test_only_what_stays_gets_a_gradient():
    audio, head = random_case(2)
    audio.requires_grad_(True)
    kept, lens = keep_spoken(audio, head, BLANK, torch.tensor([FRAMES, 9]), FRAMES, 0.3)
    kept.sum().backward()
    assert audio.grad.any(dim=2).sum(dim=1).tolist() == lens.tolist()


def choose(searcher, num_slots, most_blank):
    """Makes a searcher's prompt leave frames out."""
    prompt = searcher.prompt
    prompt.num_slots, prompt.most_blank = num_slots, most_blank
    prompt._tokens.clear()


@pytest.fixture
def searcher(random_model):
    return DiffusionASR.from_hparams(random_model).mods.decoder


def audio_of(searcher, batch):
    generator = torch.Generator().manual_seed(5)
    shape = batch, searcher.prompt.num_frames, searcher.model.hidden_size
    return 3 * torch.randn(shape, generator=generator)


def test_the_text_is_the_same_alone_and_in_a_batch(searcher):
    choose(searcher, 18, 0.01)
    searcher.readings = 3
    audio = audio_of(searcher, 4)

    def found(batch_size):
        utterances = [Utterance(one, key=key) for key, one in enumerate(audio)]
        return {one.key: one for one in searcher.stream(utterances, batch_size, steps=3)}

    alone, together = found(1), found(4)
    assert [one.tokens for one in alone.values()] == [together[key].tokens for key in alone]
    for key, one in alone.items():
        torch.testing.assert_close(one.entropy, together[key].entropy, atol=1e-4, rtol=1e-4)


def test_fused_layers_and_modules_agree(searcher):
    choose(searcher, 18, 0.01)
    audio = audio_of(searcher, 2)
    tokens = []
    for searcher.fused in (True, False):
        tokens.append([one.tokens for one in searcher.search(audio, steps=3)])
    assert tokens[0] == tokens[1] and any(tokens[0])


def test_what_is_left_out_changes_nothing_but_what_is_kept_does(searcher):
    """Noise in a frame that CTC takes for a blank is not seen; in another it is."""
    head = searcher.model.head
    blank = searcher.prompt.tokenizer.token_id(searcher.prompt.slot_token)
    rows = head.weight[[20, blank, 21]]
    spoken = 25 * rows / rows.square().sum(dim=1, keepdim=True)  # a logit of 25 before the softcap
    audio = spoken[1].repeat(searcher.prompt.num_frames, 1)[None]
    audio[0, 3], audio[0, 9] = spoken[0], spoken[2]
    choose(searcher, 12, 0.5)
    before, _ = searcher._embed([Utterance(None)], audio)
    other = audio.clone()
    other[0, 5] *= 1.1
    after, _ = searcher._embed([Utterance(None)], other)
    assert torch.equal(before, after)
    other[0, 9] *= 1.1
    changed, _ = searcher._embed([Utterance(None)], other)
    first = searcher.prompt.first_slot
    assert (before != changed).any(dim=2)[0].nonzero().flatten().tolist() == [first + 1]


def test_with_a_slot_for_every_frame_losses_are_those_of_whole_prompts(searcher):
    audio = audio_of(searcher, 3)
    batch = audio, ["en", "de", None], [[20, 21], [22], [23, 24, 25]]
    losses = LanguageModelLosses(searcher.model, searcher.prompt, searcher.sampler, unrolled=0.5)
    with torch.no_grad():
        expected = losses(*batch, seeds=[1, 2, 3])
        choose(searcher, searcher.prompt.num_frames, 1.0)
        found = losses(*batch, seeds=[1, 2, 3])
        choose(searcher, 9, 0.01)
        others = losses(*batch, seeds=[1, 2, 3])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(others[0], expected[0])


def test_fewer_slots_than_frames_need_a_choice(random_model):
    overrides = {"prompt": {"num_frames": 25, "num_slots": 12}}
    with pytest.raises(ValueError, match="num_slots: 12 for 25 frames; with most_blank"):
        DiffusionASR.from_hparams(random_model, overrides=overrides)
    overrides = {"prompt": {"most_blank": 0.9}, "decoder": {"trim_slots": True, "window": 2.0}}
    with pytest.raises(ValueError, match="set trim_slots to False"):
        DiffusionASR.from_hparams(random_model, overrides=overrides)
