"""The Brain: what is trained and what is not, that it learns, and that validation decodes."""

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.dataio import csv_dataset
from speechbrain_diffasr.decoders import EntropyBoundSampler
from speechbrain_diffasr.decoders.canvas import fill_canvas
from speechbrain_diffasr.training import DiffusionBrain
from speechbrain_diffasr.training.objective import CompiledLayers, LanguageModelLosses

SAMPLER = EntropyBoundSampler(canvas_length=10)


@pytest.fixture
def data(tmp_path):
    """Four utterances of noise, each of its own colour, in a CSV file."""
    lines = ["ID,duration,wav,lang,wrd"]
    for number, (lang, text) in enumerate(
        [("en", "w1 w2"), ("de", "w3"), ("en", "w4 w4 w5"), ("zh", "w6 w2")]
    ):
        time = torch.arange(16000) / 16000
        wav = 0.3 * torch.sin(2 * torch.pi * 200 * (number + 1) * time)
        audio_io.save(tmp_path / f"{number}.wav", wav[None], 16000)
        lines.append(f"{number},1.0,$data_root/{number}.wav,{lang},{text}")
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def make_brain(folder, checkpointer=None, weights=None, lr=3e-3):
    torch.manual_seed(0)
    asr = DiffusionASR.from_hparams(folder, freeze_params=False)
    model = asr.mods.decoder.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    if checkpointer is not None:
        checkpointer.add_recoverable("projector", asr.mods.encoder["projector"])
        checkpointer.add_recoverable("diffusion_gemma", model)
    hparams = {
        "tokenizer": asr.tokenizer,
        "blank_token": "<|audio|>",
        "denoising_steps": 2,
        "loss_weights": weights or {"diffusion": 1.0, "autoregressive": 0.5, "ctc": 0.3},
    }
    return DiffusionBrain(
        modules=asr.mods,
        opt_class=lambda parameters: torch.optim.AdamW(parameters, lr=lr),
        hparams=hparams,
        run_opts={"device": "cpu", "noprogressbar": True},
        checkpointer=checkpointer,
    )


def loader(data, brain):
    dataset = csv_dataset(data / "all.csv", data, brain.hparams.tokenizer)
    return torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=PaddedBatch)


def test_all_three_losses_fall_and_only_projector_and_lora_move(random_model, data):
    brain = make_brain(random_model)
    before = {name: p.detach().clone() for name, p in brain.modules.named_parameters()}
    seen = []
    brain.on_stage_end = lambda stage, loss, epoch=None: seen.append(
        {name: float(total) / count for name, (total, count) in brain.parts.items()}
    )
    brain.fit(range(40), loader(data, brain))
    for part in ("diffusion", "autoregressive", "ctc"):
        early = sum(parts[part] for parts in seen[:3])
        late = sum(parts[part] for parts in seen[-3:])
        assert late < 0.9 * early, part
    moved = {
        name
        for name, p in brain.modules.named_parameters()
        if not torch.equal(p.detach(), before[name])
    }
    assert moved and all("projector" in name or "lora_" in name for name in moved)
    assert any("projector" in name for name in moved) and any("lora_A" in name for name in moved)
    assert not brain.losses.decoder.model.core.training


def test_validation_decodes_and_keeps_the_best_checkpoint(random_model, data, tmp_path):
    checkpointer = Checkpointer(tmp_path / "save")
    brain = make_brain(random_model, checkpointer)
    brain.fit(range(2), loader(data, brain), loader(data, brain))
    checkpoint = checkpointer.find_checkpoint(min_key="error_rate")
    assert checkpoint.meta["error_rate"] >= 0
    assert sorted(brain.rates.summarize()) == ["de", "en", "zh"]
    assert sum(row["utterances"] for row in brain.rates.summarize().values()) == 4
    size = sum(path.stat().st_size for path in checkpoint.path.iterdir())
    trained = sum(p.numel() * 4 for p in brain.modules.parameters() if p.requires_grad)
    # Weights and AdamW's two moments of what is trained; the rest would be as much again.
    assert size < 3.2 * trained

    twin_checkpointer = Checkpointer(tmp_path / "save")
    twin = make_brain(random_model, twin_checkpointer)
    twin.on_fit_start()
    twin_checkpointer.recover_if_possible(min_key="error_rate")
    for (name, ours), (_, theirs) in zip(
        brain.modules.named_parameters(), twin.modules.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_weight_of_zero_takes_a_loss_out(random_model, data):
    """Without the two losses of the language model, LoRA gets no gradient."""
    brain = make_brain(random_model, weights={"diffusion": 0.0, "autoregressive": 0.0, "ctc": 1.0})
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN)
    batch = next(iter(loader(data, brain)))
    loss = brain.compute_objectives(
        brain.compute_forward(batch, sb.Stage.TRAIN), batch, sb.Stage.TRAIN
    )
    loss.backward()
    model = brain.losses.decoder.model
    lora = [p.grad for name, p in model.named_parameters() if "lora_" in name]
    assert all(grad is None or not grad.any() for grad in lora)
    assert all(p.grad.any() for p in brain.losses.encoder["projector"].parameters())


def test_transcripts_the_audio_cannot_hold_are_counted(random_model):
    brain = make_brain(random_model)
    audio = torch.randn(2, 25, 32)
    tokens = [[20] * 10, [21]]  # ten equal tokens need 19 frames
    assert int(brain.losses.from_audio(audio, ["en", "de"], tokens)["infeasible"]) == 0
    brain.losses.decoder.prompt.num_slots = 12
    assert int(brain.losses.from_audio(audio[:, :12], ["en", "de"], tokens)["infeasible"]) == 1


def test_language_is_left_out_as_often_as_asked(random_model):
    asr = DiffusionASR.from_hparams(random_model)
    searcher = asr.mods.decoder
    named = []
    prompt = searcher.prompt

    class Spy:
        def __getattr__(self, name):
            return getattr(prompt, name)

        def __call__(self, languages, *args):
            named.extend(language is not None for language in languages)
            return prompt(languages, *args)

    torch.manual_seed(0)
    audio = torch.randn(8, 25, 32)
    for share in (0.0, 0.5, 1.0):
        named.clear()
        losses = LanguageModelLosses(searcher.model, Spy(), SAMPLER, open_language=share)
        with torch.no_grad():
            for _ in range(10):
                losses(audio, ["en"] * 8, [[20]] * 8)
        assert sum(named) / len(named) == pytest.approx(1 - share, abs=0.15)


def test_trimmed_losses_hear_nothing_behind_the_audio(random_model):
    """With slots for what each audio fills, the rest may be anything; with all slots it may not."""
    searcher = DiffusionASR.from_hparams(random_model).mods.decoder
    losses = LanguageModelLosses(searcher.model, searcher.prompt, SAMPLER, unrolled=0.5)
    audio, tokens = torch.randn(3, 25, 32), [[20, 21], [22], [23, 24, 25]]
    other = audio.clone()
    filled = [10, 25, 3]
    for row, slots in enumerate(filled):
        other[row, slots:] = torch.randn(25 - slots, 32)

    def value(audio, filled):
        with torch.no_grad():
            return torch.stack(losses(audio, ["en"] * 3, tokens, [1, 2, 3], filled))

    torch.testing.assert_close(value(audio, filled), value(other, filled))
    assert not torch.allclose(value(audio, None), value(other, None))


def test_a_trimmed_canvas_always_holds_its_transcript(random_model):
    searcher = DiffusionASR.from_hparams(random_model).mods.decoder
    losses = LanguageModelLosses(searcher.model, searcher.prompt, SAMPLER)
    tokens = [[20] * length for length in (0, 1, 5, SAMPLER.canvas_length)]
    seen = set()
    for seed in range(20):
        generators = [torch.Generator().manual_seed(seed * 9 + row) for row in range(4)]
        lens = losses._trim(tokens[:3], generators[:3], SAMPLER.canvas_length).tolist()
        assert all(len(row) < length for row, length in zip(tokens, lens, strict=False))
        assert max(lens) <= SAMPLER.canvas_length
        seen.update(lens)
        full = losses._trim(tokens, generators, SAMPLER.canvas_length).tolist()
        assert full[3] == SAMPLER.canvas_length
    assert len(seen) > 4


@pytest.mark.slow
def test_compiled_losses_equal_plain_ones(random_model):
    """Padded to the longest sequence there can be, and traced; on CPU without code generation."""
    asr = DiffusionASR.from_hparams(random_model, freeze_params=False)
    searcher = asr.mods.decoder
    audio, tokens = torch.randn(2, 25, 32), [[20, 21], [22]]
    values = []
    for compiled in (False, True):
        torch.manual_seed(3)
        losses = LanguageModelLosses(
            searcher.model, searcher.prompt, SAMPLER, unrolled=0.5, compile=compiled
        )
        if compiled:
            losses.layers = CompiledLayers(searcher.model, backend="eager")
        values.append(torch.stack(losses(audio, ["en", "de"], tokens)))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("sure", [True, False])
def test_unrolled_canvases_are_what_the_sampler_makes_of_the_first_guess(random_model, sure):
    """All of a sure guess is kept; of a blind one only the first, all else is drawn anew."""
    asr = DiffusionASR.from_hparams(random_model)
    searcher = asr.mods.decoder
    model, audio = searcher.model, torch.randn(4, 25, 32)
    eos = searcher.prompt.tokenizer.eos_id
    clean = fill_canvas([[20, 21, 22]] * 4, 10, eos)
    seen = []

    class Spy:
        def __getattr__(self, name):
            return getattr(model, name)

        def denoise(self, canvas, context, guess=None, informed=None, lengths=None):
            seen.append(canvas)
            return model.denoise(canvas, context, guess, informed, lengths)

        def logits(self, hidden):
            one_hot = torch.nn.functional.one_hot(clean, model.vocab_size)
            return 100.0 * sure * one_hot[: len(hidden)]

    losses = LanguageModelLosses(
        Spy(), searcher.prompt, SAMPLER, self_conditioning=1.0, unrolled=1.0
    )
    with torch.no_grad():
        losses(audio, ["en"] * 4, [[20, 21, 22]] * 4, seeds=[1, 2, 3, 4])
        losses(audio[2:], ["en"] * 2, [[20, 21, 22]] * 2, seeds=[3, 4])
    first, second, _, second_of_two = seen
    assert not torch.equal(first, clean)
    assert torch.equal(second[2:], second_of_two)
    if sure:
        assert torch.equal(second, clean)
    else:
        assert ((second == clean) | (second == first)).float().mean() < 0.3


def test_more_unrolled_than_self_conditioned_is_refused(random_model):
    searcher = DiffusionASR.from_hparams(random_model).mods.decoder
    with pytest.raises(ValueError, match=r"unrolled: 0\.6; expected a share"):
        LanguageModelLosses(searcher.model, searcher.prompt, SAMPLER, unrolled=0.6)
