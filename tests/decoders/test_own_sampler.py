"""A sampler of a researcher's own, plugged in through YAML."""

import pytest
import torch

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.decoders import EntropyBoundSampler, Sampler
from speechbrain_diffasr.training import RecognizerLosses

MODEL = shipped_model("diffasr-tiny")
SAMPLE = f"{MODEL}/samples/en_1.wav"
TOY = """
import torch
from speechbrain_diffasr.decoders import Sampler


class SurestHalf(Sampler):
    \"\"\"Keeps the surer half of the canvas, at a temperature that stays as it is.\"\"\"

    def __init__(self, heat=0.5, **kwargs):
        super().__init__(**kwargs)
        self.heat = heat
        self.accepted = 0

    def temperature(self, taken, steps):
        return torch.full_like(taken, self.heat, dtype=torch.float)

    def accept(self, entropy):
        self.accepted += 1
        return entropy <= entropy.median(dim=-1, keepdim=True).values

    def is_finished(self, unchanged, entropy):
        return unchanged >= 2
"""


@pytest.fixture(scope="module")
def asr(tmp_path_factory):
    """diffasr-tiny with another sampler in its YAML file, of the denoiser alone."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_sampler.py").write_text(TOY)
    original = DiffusionASR.from_hparams(MODEL)
    lines = original.hyperparams.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("sampler:"))
    end = next(i for i in range(begin + 1, len(lines)) if not lines[i].startswith(" "))
    lines[begin:end] = [
        "sampler: !new:own_sampler.SurestHalf",
        "    heat: 0.4",
        "    steps: !ref <denoising_steps>",
        "    canvas_length: !ref <canvas_length>",
        "    seed: !ref <seed>",
        "",
    ]
    original.hyperparams = "\n".join(lines) + "\n"
    original.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        alone = {"ctc_weight": 0.0, "readings": 0}
        yield DiffusionASR.from_hparams(folder, overrides=alone)


def test_it_decodes(asr):
    sampler = asr.mods.decoder.sampler
    assert type(sampler).__name__ == "SurestHalf" and sampler.heat == 0.4
    transcript = asr.transcribe_long(SAMPLE, language="en", steps=8)
    assert transcript.text == DiffusionASR.from_hparams(MODEL).transcribe_file(SAMPLE)
    assert 3 <= transcript.steps <= 8
    assert sampler.accepted >= transcript.steps


def test_what_it_accepts_stays_and_the_rest_is_drawn_anew(asr):
    drafts = []
    asr.transcribe([asr.load_audio(SAMPLE)], steps=3, callback=drafts.append)
    for draft in drafts:
        assert draft.accepted.float().mean() == pytest.approx(0.5, abs=0.05)
    kept = drafts[-1].accepted & (drafts[-1].canvas == drafts[-1].tokens)
    assert kept.sum() > 0.8 * drafts[-1].accepted.sum()


def test_training_unrolls_its_steps(asr):
    sampler = asr.mods.decoder.sampler
    losses = RecognizerLosses(
        asr.mods.encoder, asr.mods.decoder, asr.tokenizer.token_id("<|audio|>"), unrolled=0.5
    )
    before = sampler.accepted
    audio = losses.embed_audio(torch.rand(2, 16000), torch.ones(2))
    parts = losses.from_audio(audio, ["en", "de"], [[300, 301], [302]], seeds=[1, 2])
    assert sampler.accepted > before
    assert torch.isfinite(parts["diffusion"])


def test_a_sampler_must_say_what_it_keeps():
    with pytest.raises(TypeError, match="accept"):
        Sampler()


def test_no_two_of_a_batch_share_noise(asr):
    """The contract of the base class: alone or together, the same."""
    wav = asr.load_audio(SAMPLE)
    wavs = [wav, wav[: len(wav) // 2]]
    together = [one.tokens for one in asr.transcribe(wavs, seed=[5, 6])]
    alone = [
        asr.transcribe([wav], seed=seed)[0].tokens for wav, seed in zip(wavs, (5, 6), strict=True)
    ]
    assert together == alone


def test_the_bound_of_the_shipped_sampler_is_called_what_it_is():
    sampler = EntropyBoundSampler(confidence=0.25, stable_steps=1)
    assert sampler.max_entropy == 0.25
    unchanged, entropy = torch.tensor([1, 0, 3]), torch.tensor([0.2, 0.2, 0.3])
    assert sampler.is_finished(unchanged, entropy).tolist() == [True, False, False]
