"""The cache of encoded audio: equal losses, nothing stale, nothing half written."""

import json
import os
import re
import resource
import signal
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from speechbrain.dataio import audio_io
from training_runs import CONTEXT, REPOSITORY, same, state, train, write_data

from speechbrain_diffasr import DiffusionASR
from speechbrain_diffasr.dataio import FeatureCache


@pytest.fixture
def asr(random_model):
    return DiffusionASR.from_hparams(random_model)


@pytest.fixture
def paths(tmp_path):
    torch.manual_seed(0)
    paths = [str(tmp_path / f"{number}.wav") for number in range(5)]
    for number, path in enumerate(paths):
        audio_io.save(path, 0.1 * torch.randn(1, 8000 + 3000 * number), 16000)
    return paths


def filled(asr, folder, paths, **options):
    cache = FeatureCache(folder, asr.mods.encoder.whisper, **options)
    cache.fill(paths, asr.load_audio, batch_size=2, progress=False)
    return cache


def encoded(asr, path):
    return asr.mods.encoder.whisper(asr.load_audio(path)[None])[0]


def test_cached_and_uncached_training_are_equal(random_model, tmp_path):
    recipe = write_data(tmp_path)
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    code, text = train(recipe, random_model, plain)
    assert code == 0, text
    code, text = train(recipe, random_model, cached, feature_cache=tmp_path / "features")
    assert code == 0, text
    losses = [
        [float(x) for x in re.findall(r": (\d[\d.e+-]*)", state(path)["log"])]
        for path in (plain, cached)
    ]
    assert len(losses[0]) > 10
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for name in ("projector", "diffusion_gemma"):
        same(state(plain)[name], state(cached)[name], rtol=1e-3, atol=1e-4)
    # Before the first utterance is encoded, a reader knows what it will take.
    told = re.search(r"feature_cache: ([\d.]+) GB an hour of this audio", text)
    frames, width, seconds = 100, 24, 0.87  # of each utterance, as float32
    assert float(told[1]) == pytest.approx(frames * width * 4 * 3600 / seconds / 1e9, rel=0.03)
    assert text.index("GB an hour") < text.index("Encoding") < text.index("epoch 1 train")


def test_nothing_stale_is_used(asr, paths, tmp_path):
    folder = tmp_path / "features"
    cache = filled(asr, folder, paths)
    audio_io.save(paths[0], 0.2 * torch.randn(1, 9000), 16000)
    with pytest.raises(ValueError, match=r"0\.wav: not in the feature cache .* run again"):
        cache[paths[0]]
    assert cache.missing(paths) == [paths[0]]
    cache = filled(asr, folder, paths)
    torch.testing.assert_close(cache[paths[0]], encoded(asr, paths[0]))
    whisper = asr.mods.encoder.whisper
    whisper.set_window(1.5)
    other = FeatureCache(folder, whisper)
    assert other.missing(paths) == paths
    with torch.no_grad():
        next(whisper.parameters()).add_(1e-3)
    assert FeatureCache(folder, whisper).folder not in (cache.folder, other.folder)


def test_an_encoder_that_is_trained_is_refused(asr, tmp_path):
    asr.mods.encoder.whisper.freeze = False
    with pytest.raises(ValueError, match="feature_cache: the encoder is trained"):
        FeatureCache(tmp_path, asr.mods.encoder.whisper)


def test_a_truncated_file_is_made_again(asr, paths, tmp_path, caplog):
    cache = filled(asr, tmp_path / "features", paths, shard_size=2)
    shards = sorted(cache.folder.iterdir())
    assert len(shards) == 3
    os.truncate(shards[0], os.path.getsize(shards[0]) // 2)
    shards[1].write_bytes(b"")
    again = filled(asr, tmp_path / "features", paths, shard_size=2)
    assert [str(s) in caplog.text for s in shards] == [True, True, False]
    assert caplog.text.count("damaged") == 2
    for path in paths:
        torch.testing.assert_close(again[path], encoded(asr, path))


def test_changed_bytes_are_noticed(asr, paths, tmp_path):
    cache = filled(asr, tmp_path / "features", paths[:1])
    shard = next(cache.folder.iterdir())
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    cache = FeatureCache(tmp_path / "features", asr.mods.encoder.whisper)
    cache.refresh()
    with pytest.raises(ValueError, match=rf"{shard.name}: damaged; delete"):
        cache[paths[0]]


def fill_until_killed(model, folder, paths):
    """SIGKILL instead of the fourth utterance, with two in each file."""
    asr = DiffusionASR.from_hparams(model)

    def load_audio(path):
        if path == paths[3]:
            os.kill(os.getpid(), signal.SIGKILL)
        return asr.load_audio(path)

    cache = FeatureCache(folder, asr.mods.encoder.whisper, shard_size=2)
    cache.fill(paths, load_audio, batch_size=1, progress=False)


def test_a_fill_that_was_killed_goes_on(asr, random_model, paths, tmp_path):
    folder = tmp_path / "features"
    process = CONTEXT.Process(target=fill_until_killed, args=(random_model, folder, paths))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    cache = FeatureCache(folder, asr.mods.encoder.whisper, shard_size=2)
    assert cache.missing(paths) == paths[2:]
    abandoned = cache.folder / ".diffasr-1-0.tmp"
    abandoned.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    loaded = []
    cache.fill(paths, lambda p: loaded.append(p) or asr.load_audio(p), 1, progress=False)
    assert loaded == paths[2:]
    assert not list(cache.folder.glob("*.tmp"))
    keys = [key for shard in cache.folder.iterdir() for key in load_file(shard)]
    assert len(keys) == len(set(keys)) == len(paths)


def full_disk(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_a_full_disk_gets_one_line(random_model, tmp_path):
    recipe = write_data(tmp_path)
    options = {"feature_cache": tmp_path / "features"}
    full = partial(full_disk, 20_000)
    code, text = train(recipe, random_model, tmp_path / "run", prepare=full, **options)
    assert code == 1 and "Traceback" not in text, text
    last = text.strip().splitlines()[-1]
    assert "could not be written" in last and "GB are free" in last
    assert "--feature_cache null" in last
    assert not list((tmp_path / "features").glob("*/*"))


def test_a_disk_that_is_too_small_is_refused_before(random_model, tmp_path):
    recipe = write_data(tmp_path)
    code, text = train(
        recipe, random_model, tmp_path / "run", prepare=small_disk, feature_cache=tmp_path / "f"
    )
    assert code == 1 and "Traceback" not in text, text
    assert re.search(r"feature_cache: \S+ needs [\d.e-]+ GB, but [\d.e-]+ GB are free", text)
    assert "Encoding" not in text


def small_disk():
    """A disk with a kilobyte left."""
    import shutil
    from types import SimpleNamespace

    shutil.disk_usage = lambda path: SimpleNamespace(free=1000)


@pytest.mark.slow
def test_the_benchmark_compares_equal_epochs(random_model, tmp_path, monkeypatch, capsys):
    write_data(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import feature_cache

    output = tmp_path / "result.json"
    options = ["--csv", tmp_path / "train.csv", "--model", random_model, "--output", output]
    options += ["--num_workers", "0", "--batch_size", "4"]
    monkeypatch.setattr(sys, "argv", ["feature_cache.py", *map(str, options)])
    feature_cache.main()
    result = json.loads(output.read_text())
    assert result["utterances"] == 8
    assert result["relative_difference_of_losses"] < 1e-3
    again, cached = result["rows"]
    assert again["fill_s"] == 0 < cached["fill_s"] and min(again["epoch_s"], cached["epoch_s"]) > 0
    frames, width = 100, 24
    expected = 8 * frames * width * 4 / result["hours"] / 3600
    assert result["cache_gb_per_hour"] * 1e9 / 3600 == pytest.approx(expected, rel=0.1)
    assert "| encoded again |" in capsys.readouterr().out
