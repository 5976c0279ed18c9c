"""The pretrained interface: what every user of `from_hparams` depends on, on a small random model.

The shipped model is tested in test_shipped_model.py; here nothing depends on its weights.
"""

import json
import os

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from speechbrain.inference.ASR import EncoderDecoderASR
from speechbrain.utils.fetching import FetchConfig

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.inference.pretrained import FILENAMES


@pytest.fixture(scope="module")
def folder(random_model):
    return random_model


@pytest.fixture(scope="module")
def asr(folder):
    return DiffusionASR.from_hparams(folder, run_opts={"device": "cpu"})


@pytest.fixture
def wavs():
    generator = torch.Generator().manual_seed(3)
    return [0.1 * torch.randn(n, generator=generator) for n in (16000, 32000, 5000, 20000, 9000)]


def test_text_does_not_depend_on_the_batch(asr, wavs):
    alone = [asr.transcribe([wav])[0] for wav in wavs]
    together = asr.transcribe(wavs)
    backwards = asr.transcribe(wavs[::-1])[::-1]
    assert len({t.text for t in alone}) > 1  # else this test could not fail
    assert [t.text for t in together] == [t.text for t in alone]
    assert [t.text for t in backwards] == [t.text for t in alone]
    assert [t.steps for t in together] == [t.steps for t in alone]


def test_languages_mixed_in_a_batch_change_nothing(asr, wavs):
    languages = ["en", None, "de", "zh", None]
    alone = [asr.transcribe([w], code)[0].text for w, code in zip(wavs, languages, strict=True)]
    assert [t.text for t in asr.transcribe(wavs, languages)] == alone
    assert [t.language for t in asr.transcribe(wavs, languages)] == languages


def test_a_seed_repeats_and_another_starts_elsewhere(asr, wavs):
    def first_canvas(seed):
        drafts = []
        asr.transcribe(wavs[:1], seed=seed, steps=1, callback=drafts.append)
        return drafts[0].canvas.tolist()

    assert first_canvas(5) == first_canvas(5)
    assert first_canvas(5) != first_canvas(6)


def test_stock_speechbrain_gives_the_same_text(folder, asr, wavs, tmp_path):
    stock = EncoderDecoderASR.from_hparams(
        source=str(folder), savedir=str(tmp_path), run_opts={"device": "cpu"}
    )
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lens = torch.tensor([len(wav) for wav in wavs]) / padded.shape[1]
    texts, tokens = stock.transcribe_batch(padded, lens)
    assert (texts, tokens) == asr.transcribe_batch(padded, lens)
    assert texts == asr(padded, lens)[0] == [t.text for t in asr.transcribe(wavs)]


def test_save_and_load_again(asr, wavs, tmp_path):
    asr.save_pretrained(tmp_path / "copy")
    again = DiffusionASR.from_hparams(tmp_path / "copy", savedir=str(tmp_path / "cache"))
    assert [t.text for t in again.transcribe(wavs)] == [t.text for t in asr.transcribe(wavs)]


def test_eight_bits_take_half_the_room_and_round_by_half_a_level(asr, folder, tmp_path):
    """Of each row's largest weight; the adapter stays as peft reads it, and all that is loaded."""
    asr.save_pretrained(tmp_path / "half", torch.float16)
    asr.save_pretrained(tmp_path / "eight", torch.int8)
    sizes = {
        name: (tmp_path / name / FILENAMES["base"]).stat().st_size for name in ("half", "eight")
    }
    assert sizes["eight"] < 0.7 * sizes["half"]  # many rows of the test's model are short
    again = DiffusionASR.from_hparams(tmp_path / "eight", savedir=str(tmp_path / "cache"))
    ours, theirs = (one.mods.encoder.state_dict() for one in (asr, again))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        if weight.dim() < 2:
            torch.testing.assert_close(theirs[name], weight, atol=1e-3, rtol=1e-3)
        else:
            most = weight.abs().flatten(1).amax(1) / 127 / 2
            error = (theirs[name] - weight).abs().flatten(1).amax(1)
            assert bool((error <= most * 1.001 + 1e-9).all()), name
    adapter = load_file(tmp_path / "eight" / FILENAMES["adapter"])
    assert {value.dtype for value in adapter.values()} == {torch.float16}


def test_overrides_are_saved_too(folder, tmp_path):
    changed = DiffusionASR.from_hparams(folder, overrides={"denoising_steps": 3})
    assert changed.mods.decoder.sampler.steps == 3
    changed.save_pretrained(tmp_path)
    assert DiffusionASR.from_hparams(tmp_path).mods.decoder.sampler.steps == 3


def test_weights_are_safetensors_and_the_adapter_is_pefts(folder):
    for name in ("whisper", "base", "projector", "adapter"):
        with safe_open(folder / FILENAMES[name], framework="pt") as file:
            assert file.keys()
    names = {path.name for path in folder.iterdir()}
    parts = {file for name, file in FILENAMES.items() if name not in ("language", "ngram")}
    assert names == {*parts, "adapter_config.json", "hyperparams.yaml"}
    assert LoraConfig.from_pretrained(folder).r == 16
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 32


@pytest.mark.parametrize("relative", [False, True])
def test_a_part_can_come_from_another_folder(folder, wavs, asr, tmp_path, relative):
    """A fine-tuned model need not copy the backbone."""
    text = (folder / "hyperparams.yaml").read_text()
    source = os.path.relpath(folder, tmp_path) if relative else folder
    sources = ", ".join(f"{name}: {source}" for name in ("tokenizer", "whisper", "base"))
    assert "\nsources: {}\n" in text
    (tmp_path / "hyperparams.yaml").write_text(
        text.replace("\nsources: {}\n", f"\nsources: {{{sources}}}\n")
    )
    for name in (FILENAMES["projector"], FILENAMES["adapter"]):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    light = DiffusionASR.from_hparams(tmp_path)
    assert light.transcribe(wavs)[0].text == asr.transcribe(wavs)[0].text


def test_a_damaged_part_is_named(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / FILENAMES["projector"]).write_bytes((folder / FILENAMES["adapter"]).read_bytes())
    with pytest.raises(ValueError, match=r"projector\.safetensors: "):
        DiffusionASR.from_hparams(tmp_path)


def test_steps_bound_the_work_and_are_reported(asr, wavs):
    for steps in (1, 3):
        assert all(t.steps <= steps for t in asr.transcribe(wavs, steps=steps))
    with pytest.raises(ValueError, match="steps: 0"):
        asr.transcribe(wavs, steps=0)


def test_the_callback_sees_every_draft(asr, wavs):
    drafts = []
    transcripts = asr.transcribe(wavs, callback=drafts.append)
    assert [draft.step for draft in drafts] == list(range(1, max(t.steps for t in transcripts) + 1))
    assert drafts[-1].tokens.shape == (5, 10)


def test_what_cannot_be_done_is_said(asr, wavs):
    with pytest.raises(ValueError, match=r"language 'it' is not known.*en, de, fr, es, hi, zh"):
        asr.transcribe(wavs, language="it")
    with pytest.raises(ValueError, match="seed: 2 values for 5 utterances"):
        asr.transcribe(wavs, seed=[1, 2])
    with pytest.raises(ValueError, match=r"3\.0 s of audio, but this model hears 2 s"):
        asr.transcribe([torch.randn(48000)])
    assert asr.transcribe([]) == []


def test_files_and_their_durations(asr, wavs, tmp_path):
    from speechbrain.dataio import audio_io

    paths = []
    for number, wav in enumerate(wavs):
        paths.append(tmp_path / f"{number}.wav")
        audio_io.save(paths[-1], wav[None], 16000)
    texts = asr.transcribe_files(paths, batch_size=2)
    assert texts == [asr.transcribe_file(path) for path in paths]
    assert asr.transcribe([asr.load_audio(paths[1])])[0].duration == 2.0


def test_embeddings_fill_the_slots(asr, wavs):
    padded = torch.nn.utils.rnn.pad_sequence(wavs[:2], batch_first=True)
    audio = asr.encode_batch(padded, torch.tensor([0.5, 1.0]))
    assert audio.shape == (2, 25, 32)


def test_bf16_runs(folder, wavs):
    asr = DiffusionASR.from_hparams(folder, overrides={"dtype": "bfloat16"})
    assert asr.mods.decoder.model.core.dtype == torch.bfloat16
    assert len(asr.transcribe(wavs)) == 5
    mixed = DiffusionASR.from_hparams(folder, run_opts={"device": "cpu", "precision": "bf16"})
    assert len(mixed.transcribe(wavs)) == 5
    assert not torch.is_autocast_enabled("cpu")  # it ends with the call


def test_nothing_is_fetched_from_outside(folder, tmp_path):
    """All that a folder needs is in it."""
    config = FetchConfig(allow_network=False)
    asr = DiffusionASR.from_hparams(folder, savedir=str(tmp_path), fetch_config=config)
    assert asr.max_seconds == 2.0 and asr.sample_rate == 16000
