"""The benchmarks of decoding speed, at toy size: what they count, and what they report."""

import doctest
import json
import statistics
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DiffusionGemmaTextConfig

from speechbrain_diffasr.decoders import Draft

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The scripts can be imported, and do not share cores with themselves."""
    sys.path.insert(0, str(BENCHMARKS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def speed(monkeypatch):
    """The script, on a machine whose speed need not be measured."""
    import floors
    import speed

    monkeypatch.setattr(floors, "measure_machine", lambda *_: floors.Machine(1e9, 1e11))
    return speed


@pytest.fixture
def asr(random_model):
    from workload import load

    return load(random_model, "cpu")


SHORT = ["--seconds", "2", "1", "--steps", "1", "2", "--largest_batch", "2", "--repeats", "1"]
SHORT += ["--canvases", "8", "10", "--line_steps", "1", "2", "3", "--tokens_per_second", "4"]


def options(model, *more):
    return ["--model", str(model), *SHORT, *more]


@pytest.mark.parametrize("name", ["floors", "workload", "speed_checks", "files"])
def test_examples_of_the_docstrings(name):
    import importlib

    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


# Counting.


def test_floor_of_a_step_counted_by_hand():
    """Two layers of width 8: sliding with heads of 4, full with heads of 6."""
    from floors import Work, denoising, denoising_step, prefill

    config = DiffusionGemmaTextConfig(
        vocab_size=100,
        hidden_size=8,
        intermediate_size=10,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        num_attention_heads=3,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        head_dim=4,
        global_head_dim=6,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=5,
    )
    # Sliding: q 8 x 12, k and v 8 x 8 each, o 12 x 8. Full: q 8 x 18, k 8 x 6, o 18 x 8.
    attention = (96 + 64 + 64 + 96) + (144 + 48 + 144)
    dense, router, expert = 2 * 3 * 80, 2 * 32, 3 * 40
    head, conditioning = 800, 3 * 80
    # Two tokens need 3 of the 4 experts on average: 4 * (1 - 1/4).
    weights = attention + dense + router + 2 * 3 * expert + head + conditioning
    cached = 7 * 2 * (2 * 4 + 1 * 6)  # 7 tokens of the prompt; keys and values of both layers
    step = denoising_step(config, batch=1, canvas=2, prompt=7)
    assert step.bytes == 2 * (weights + cached)
    a_token = attention + dense + router + 2 * 2 * expert + head + conditioning
    pairs = 2 * (7 + 2)  # scores, and values by them, in 3 heads of 4 and 3 of 6
    products = 2 * 2 * a_token + 4 * pairs * 3 * (4 + 6)
    assert step.flops == products + 2 * 2 * 100 * 8  # the soft embedding
    top = denoising_step(config, batch=1, canvas=2, prompt=7, top_tokens=5)
    assert top == Work(step.bytes, products + 2 * 2 * 5 * 8)
    first = denoising_step(config, batch=1, canvas=2, prompt=7, conditioned=False)
    assert first.bytes == step.bytes - 2 * conditioning
    assert first.flops == products - 2 * 2 * conditioning
    three = denoising(3, config, batch=1, canvas=2, prompt=7)
    assert three == Work(first.bytes + 2 * step.bytes, first.flops + 2 * step.flops)
    small = denoising_step(config, batch=1, canvas=2, prompt=7, expert_size=1)
    assert step.bytes - small.bytes == 2 * 3 * expert

    # Of the last layer only keys are needed. 5 new tokens behind 2 see 3, 4, 5, 6 and 7.
    hit = 4 * (1 - 0.5**5)
    encoded = prefill(config, batch=1, prompt=7, beginning=2)
    matrices = 320 + dense / 2 + router / 2
    assert encoded.bytes == pytest.approx(2 * (matrices + hit * expert + 48 + 2 * 2 * 2 * 4))
    assert encoded.flops == 2 * 5 * (matrices + 2 * expert + 48) + 4 * 25 * 3 * 4


def test_operations_are_those_that_torch_counts(small_gemma, small_config):
    """In eager mode, where each expert gets its own tokens only."""
    from floors import denoising_step
    from workload import without_adapters

    # torch does not count those of its fused attention on the CPU.
    small_gemma.core.set_attn_implementation("eager")
    batch, prompt, canvas = 2, 7, 5
    embeddings = small_gemma.embed(torch.randint(60, (batch, prompt)))
    previous = torch.randn(batch, canvas, small_config["vocab_size"])
    with torch.no_grad(), without_adapters(small_gemma):
        _, context = small_gemma.encode(embeddings)
        with FlopCounterMode(display=False) as counter:
            tokens = torch.randint(60, (batch, canvas))
            small_gemma.logits(small_gemma.denoise(tokens, context, previous))
    config = small_gemma.core.config.get_text_config()
    counted = denoising_step(config, batch, canvas, prompt).flops
    modules = counter.get_flop_counts()
    # A product of positions and frequencies in older releases of transformers.
    rotary = sum(sum(modules[name].values()) for name in modules if name.endswith("rotary_emb"))
    assert counter.get_total_flops() - rotary == pytest.approx(counted, rel=1e-6)


def test_operations_before_the_language_model(asr):
    from floors import projector, whisper_encoder

    whisper, module = asr.mods.encoder["whisper"], asr.mods.encoder["projector"]
    whisper.encoder.set_attn_implementation("eager")
    mels = torch.randn(3, 80, 2 * whisper.num_frames)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            frames = whisper.encode_mel(mels)
        counted = whisper_encoder(whisper.encoder.config, 3, whisper.num_frames).flops
        assert counter.get_total_flops() == pytest.approx(counted, rel=1e-6)
        with FlopCounterMode(display=False) as counter:
            module(frames)
    counted = projector(module, 3, whisper.num_frames).flops
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-6)


def test_floors_at_full_size_follow_from_the_published_size():
    """25.25 B parameters, of which a token meets 8 of 128 experts in each of 30 layers."""
    from common import FULL_SIZE
    from floors import Machine, denoising_step, experts_hit, prefill

    config = DiffusionGemmaTextConfig(**FULL_SIZE["base_config"])
    assert experts_hit(128, 8, 192) == pytest.approx(128, rel=1e-4)
    step = denoising_step(config, batch=1, canvas=192, prompt=210)
    assert step.bytes == pytest.approx(2 * 25.25e9, rel=0.002)
    machine = Machine(bytes_per_s=4.06e12, flops_per_s=770e12)
    assert machine.floor_ms(step) == pytest.approx(12.4, rel=0.01)

    batch, canvas, head = 64, 64, 262144 * 2816
    active = 25.25e9 - 30 * (128 - 8) * 3 * 2816 * 704
    scores = 4 * (210 + canvas) * 16 * (25 * 256 + 5 * 512)
    conditioned = denoising_step(config, batch, canvas, 210).flops / (batch * canvas)
    assert conditioned == pytest.approx(2 * active + 2 * head + scores, rel=0.002)
    bare = denoising_step(config, batch, canvas, 210, conditioned=False).flops / (batch * canvas)
    assert conditioned - bare == pytest.approx(2 * head + 6 * 2816 * 2112, rel=1e-6)
    # Hardly anything of the last layer is needed.
    encoded = prefill(config, batch, 210).flops / (batch * 210)
    assert encoded == pytest.approx(2 * (active - head) * 29 / 30, rel=0.01)


def test_a_machine_is_measured():
    from floors import Work, measure_machine

    machine = measure_machine("cpu", torch.float32)
    assert machine.bytes_per_s > 1e8 and machine.flops_per_s > 1e9
    slow = machine.floor_ms(Work(bytes=machine.bytes_per_s, flops=2 * machine.flops_per_s))
    assert slow == pytest.approx(2000)


# What is run.


@pytest.mark.parametrize("name", ["plain", "fused", "canvas", "canvas+slots+top"])
def test_texts_have_the_length_that_was_asked_for(asr, name):
    """All steps are taken, and no canvas grows because its text did not end."""
    from workload import Load, make_settings

    setting = make_settings(tokens_per_second=4.0, top_tokens=8)[name]
    calls = []
    with Load(asr, setting, batch=3, seconds=1.0, canvas=32, text_tokens=4) as load:
        load.acoustics()
        found = load.search(5, calls.append)
    assert [len(hypothesis.tokens) for hypothesis in found] == [4, 4, 4]
    assert [hypothesis.steps for hypothesis in found] == [5, 5, 5]
    assert len(calls) == 5 and all(isinstance(call, Draft) for call in calls)
    width = 16 if "canvas" in name else 32  # 4 tokens and the end, in a bucket of 16
    assert {len(hypothesis.log_probs) for hypothesis in found} == {width}
    assert asr.mods.decoder.sampler.canvas_length == 10  # as before


def test_texts_too_long_for_a_short_canvas_get_a_longer_one(asr):
    from workload import Load, make_settings

    setting = make_settings(tokens_per_second=4.0, top_tokens=8)["canvas"]
    with Load(asr, setting, batch=2, seconds=1.0, canvas=40, text_tokens=20) as load:
        load.acoustics()
        found = load.search(2)
    assert [(len(one.tokens), len(one.log_probs)) for one in found] == [(20, 32), (20, 32)]


def test_prompts_are_as_long_as_counted(asr):
    from workload import make_settings

    settings, prompt = make_settings(4.0, 8), asr.mods.decoder.prompt
    whole = settings["fused"].prompt_tokens(asr.mods.decoder, 1.0)
    tokens, lengths = prompt([None])
    assert whole == tokens.shape[1] == lengths.item()
    # 25 slots hold 2 s; 0.5 s need 6.25 of them.
    assert settings["slots"].prompt_tokens(asr.mods.decoder, 0.5) == whole - 18


def test_stock_generate_takes_every_step(small_gemma):
    from rivals import stock_generate

    calls = []
    small_gemma.core.lm_head.register_forward_hook(lambda *_: calls.append(1))
    tokens = stock_generate(small_gemma.core, prompt_tokens=9, batch=2, steps=6, canvas=8)
    assert tokens.shape == (2, 17) and len(calls) == 6


def test_whisper_makes_as_many_tokens_as_asked(asr):
    from rivals import random_whisper, whisper_generate

    encoder = asr.mods.encoder["whisper"]
    whisper = random_whisper(encoder)
    calls = []
    whisper.proj_out.register_forward_hook(lambda *_: calls.append(1))
    tokens = whisper_generate(whisper, encoder.log_mel(torch.randn(2, 16000)), tokens=7)
    assert tokens.shape == (2, 7) and len(calls) == 7
    assert not (tokens == whisper.config.eos_token_id).any()


def test_weights_are_the_same_after_checks(small_gemma):
    from speed_checks import in_float32, tempered

    core = small_gemma.core.bfloat16()
    weights = {name: tensor.clone() for name, tensor in core.state_dict().items()}
    norm = core.model.decoder.layers[0].self_attn.q_norm.weight
    with tempered(core), in_float32(core):
        assert core.dtype == torch.float32
        assert norm.unique().item() == 1 / 16
    assert core.dtype == torch.bfloat16
    for name, tensor in core.state_dict().items():
        assert tensor.dtype == weights[name].dtype and tensor.equal(weights[name]), name


def test_kernels_are_sorted_by_kind():
    from speed_checks import by_kind, kind_of

    names = {
        "void cutlass::device_kernel<...cutlass::gemm::GroupProblemShape<...>": "experts",
        "_gate_up_kernel": "experts",
        "nvjet_tst_192x192_64x4_1x2_h_bz_coopB_TNN": "products",
        "aten::bmm": "products",
        "fmha_cutlassF_bf16_aligned_64x64_rf_sm80": "attention",
        "_attend_kernel": "attention",
        "_tiles_kernel": "vocabulary",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add>": "other",
        "_combine_norm_kernel": "other",
        "Memcpy DtoD (Device -> Device)": "other",
    }
    assert {name: kind_of(name) for name in names} == names
    row = by_kind({name: (2, 1.0) for name in names})
    assert row["kernels"] == 20 and row["busy_ms"] == 10.0 and row["other_share"] == 0.3
    assert row["experts_kernels"] == 4 and row["products_ms"] == 2.0
    assert len(row["longest"]) == 10


def test_long_calls_are_repeated_less_often():
    from workload import Timer

    calls = []
    timer = Timer("cpu", repeats=4, patience_s=60.0)
    assert timer(lambda: calls.append(1)) >= 0 and len(calls) == 5  # the first does not count
    impatient = Timer("cpu", repeats=4, patience_s=1e-9)
    assert len(impatient.each(lambda: calls.append(1), lambda: None)) == 2
    assert len(calls) == 7
    impatient.each(lambda: calls.append(1), warm=True)
    assert len(calls) == 8


# The scripts.


@pytest.mark.slow
def test_one_run_gives_all_tables(speed, random_model, tmp_path, capsys, monkeypatch):
    import speed_sections

    monkeypatch.setattr(speed_sections, "TEXT_TOKENS", (2, 5))
    output = tmp_path / "new" / "figures.json"
    result = speed.main(options(random_model, "--output", str(output)))
    assert result["errors"] == {} and result["notes"] == []
    assert json.loads(output.read_text()) == result
    assert {path.name for path in output.parent.iterdir()} == {"figures.png", "figures.json"}
    assert set(speed.SECTIONS) <= set(result) and set(result["section_s"]) == set(speed.SECTIONS)

    for row in result["stages"]:
        assert row["rtfx1"] == pytest.approx(
            1000 * row["batch"] * row["seconds"] / row["total1_ms"]
        )
        assert row["share1"] == pytest.approx(row["floor1"]["total"] / row["total1_ms"])
        assert row["step_ms"] == pytest.approx(row["total2_ms"] - row["total1_ms"])
        parts = [row["floor1"][name] for name in ("mel", "encoder", "projector", "prefill")]
        assert row["floor1"]["total"] > sum(parts) > 0
    assert {row["setting"] for row in result["settings"]} == set(speed.make_settings(1.0, 1))
    fused = [row for row in result["settings"] if row["setting"] == "fused"]
    assert [row["times_fused"] for row in fused] == [1.0] * len(fused)
    assert {row["way"]: row["equal_to_plain_step1"] for row in result["agreement"]}["fused"] == 1
    (hit,) = result["routers"]
    assert 2 <= hit["hit"] <= hit["experts"] == 4 and hit["heaviest_over_mean"] >= 1
    assert [row["tokens"] for row in result["lengths"]] == [2, 5]
    assert [row["loop"] for row in result["kernels"]] == ["stock", "fused"]
    assert all(row["busy_ms"] != 0 and row["launches"] > 0 for row in result["kernels"])

    (fit,) = result["steps_fit"]
    steps, times = zip(
        *((row["steps"], row["total_ms"]) for row in result["steps_line"]), strict=True
    )
    slope, intercept = statistics.linear_regression(steps, times)
    assert (fit["slope_ms"], fit["intercept_ms"]) == pytest.approx((slope, intercept))

    first = result["stages"][0]
    assert result["batch1_ms"] == first["total1_ms"] and first["batch"] == 1
    assert result["batch1_stock_ms"] == result["stock"][0]["total_ms"]
    rows = [*result["settings"], *result["stages"]]
    best = max((row for row in rows if row["seconds"] == 2.0), key=lambda row: row["rtfx1"])
    assert (result["best_rtfx"], result["best_batch"]) == (best["rtfx1"], best["batch"])
    assert result["step_ms"].keys() == {"1"} and result["step_ms"]["1"].keys() == {"8", "10"}
    assert result["versions"]["torch"] == torch.__version__ and result["device"]
    printed = capsys.readouterr().out
    assert "| plain | 2 | 1 |" in printed and "stages: took" in printed


def test_memory_that_is_full_ends_a_sweep_only(speed, random_model, tmp_path, monkeypatch):
    from workload import Load

    whole = Load.transcribe

    def transcribe(self, steps):
        if self.batch > 2:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")
        return whole(self, steps)

    monkeypatch.setattr(Load, "transcribe", transcribe)
    sections = ["--largest_batch", "8", "--seconds", "2", "--sections", "stages", "routers"]
    result = speed.main(options(random_model, *sections))
    assert {row["batch"] for row in result["stages"]} <= {1, 2} and result["routers"]
    rates = [row["rtfx1"] for row in result["stages"]]
    if len(rates) == 2 and rates[1] > rates[0]:  # else throughput fell before
        assert result["notes"] == ["canvas, 2 s, batch of 4: out of memory"]
    assert result["errors"] == {}


def test_a_section_that_fails_leaves_the_others(speed, random_model, tmp_path, monkeypatch):
    import rivals

    def broken(*_):
        raise KeyError("no such thing")

    monkeypatch.setattr(rivals, "stock_generate", broken)
    output = tmp_path / "figures.json"
    sections = ["--sections", "stock", "whisper", "--output", str(output)]
    result = speed.main(options(random_model, *sections))
    written = json.loads(output.read_text())
    assert written == result
    assert result["errors"] == {"stock": "KeyError: 'no such thing'"} and result["whisper"]


def test_a_section_without_time_says_what_it_left_out(speed, random_model):
    sections = ["--sections", "stages", "step_times", "--minutes", "0"]
    result = speed.main(options(random_model, *sections))
    assert "stages" not in result and "step_times" not in result
    assert "stages: canvas, 2 s, batches from 1: left out, no time" in result["notes"]
    assert "step_times: batch of 1, canvas 8: left out, no time" in result["notes"]


def test_figures_are_written_whole_or_not_at_all(tmp_path):
    from speed_report import write

    path = tmp_path / "figures.json"
    write({"one": 1}, path)
    with pytest.raises(TypeError):
        write({"one": object()}, path)
    assert json.loads(path.read_text()) == {"one": 1}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["--seconds", "99"], "--seconds: this model hears 2 s"),
        (["--steps", "8"], "--steps: give two numbers or more"),
        (["--setting", "faster"], "--setting faster: choose one of plain, fused, canvas"),
        (["--repeats", "0"], "--repeats, --largest_batch, --step_batches, --canvases: at least 1"),
        (["--device", "abacus"], "'abacus' is not a device of this machine; try cpu"),
        (["--overrides", "window"], "'window' is no mapping; write '{NAME: VALUE}'"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_gets_one_line(speed, random_model, wrong, reason, capsys):
    with pytest.raises(SystemExit):
        speed.main(options(random_model, *wrong))
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_many_files(random_model, tmp_path):
    import files

    output = tmp_path / "files.json"
    made = ["--files", "5", "--batch_size", "2", "--steps", "2", "--interval", "0.05"]
    result = files.main(["--model", str(random_model), *made, "--output", str(output)])
    assert json.loads(output.read_text()) == result
    assert result["files"] == 5
    assert result["audio_s"] == pytest.approx(5 * 1.5, abs=0.01)  # 1, 1.25, ... 2 s
    assert result["rtfx"] == pytest.approx(result["audio_s"] / result["wall_s"])
    assert result["busy_share"] > 0
    # How many quarters were seen depends on how fast the machine was.
    assert 1 <= len(result["resident_gb_by_quarter"]) <= 4
    assert min(result["resident_gb_by_quarter"]) > 0.05


def test_files_of_a_folder(random_model, tmp_path, capsys):
    import files

    made = files.make_files(tmp_path, 3, shortest=0.5, longest=4.5, sample_rate=16000)
    args = ["--model", str(random_model), "--folder", str(tmp_path), "--steps", "1"]
    assert files.main(args)["files"] == 1  # of 0.5, 2.5 and 4.5 s; the model hears 2
    made[0].write_bytes(b"no audio")
    with pytest.raises(SystemExit):
        files.main(args)
    assert made[0].name in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        files.main([*args[:-4], "--folder", str(tmp_path / "nothing"), *args[-2:]])
    assert "no audio of at most 2 s" in capsys.readouterr().err


def test_files_are_the_same_for_the_same_seed(tmp_path):
    from files import make_files

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        make_files(tmp_path / name, 2, 0.1, 0.2, 8000, seed)
    one, same, other = (
        [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "abc"
    )
    assert one == same != other
