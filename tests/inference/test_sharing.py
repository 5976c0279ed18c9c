"""One recognizer in threads and in other processes, and several models in one place."""

import copy
import multiprocessing
import os
import pickle
import shutil
import threading
from pathlib import Path

import pytest
import torch

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.utils.errors import AudioError
from speechbrain_diffasr.utils.parallel import OneAtATime

TINY = Path(shipped_model("diffasr-tiny"))
DIGITS = TINY.with_name("diffasr-tiny-digits")
SAMPLES = sorted(map(str, (TINY / "samples").glob("*.wav")))[:4]


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(TINY)


@pytest.fixture(scope="module")
def texts(asr):
    return {path: asr.transcribe_file(path) for path in SAMPLES}


def batch_of(asr, paths):
    wavs = [asr.load_audio(path) for path in paths]
    lens = torch.tensor([len(wav) / max(map(len, wavs)) for wav in wavs])
    return torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), lens


def test_threads_take_turns_and_get_their_own_texts(asr, texts):
    ways = [
        lambda: [asr.transcribe_file(path) for path in SAMPLES],
        lambda: asr.transcribe_files(SAMPLES, batch_size=3),
        lambda: [one.text for one in asr.transcribe(list(map(asr.load_audio, SAMPLES)))],
        lambda: asr.transcribe_batch(*batch_of(asr, SAMPLES))[0],
        lambda: [asr.transcribe_long(path, segmentation="fixed").text for path in SAMPLES],
    ]
    results, barrier = {}, threading.Barrier(len(ways))

    def work(index):
        barrier.wait()
        try:
            results[index] = [ways[index]() for _ in range(2)]
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=[index]) for index in range(len(ways))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {index: [list(texts.values())] * 2 for index in range(len(ways))}


def test_a_stream_that_is_not_used_up_keeps_nobody_waiting(asr, texts):
    stream = asr.stream_files(SAMPLES, batch_size=2)
    next(stream)
    said = []
    thread = threading.Thread(target=lambda: said.append(asr.transcribe_file(SAMPLES[0])))
    thread.start()
    del stream
    thread.join(60)
    assert said == [texts[SAMPLES[0]]]


def test_each_result_may_be_taken_in_another_thread(asr, texts):
    """As web servers do, which answer from a pool."""
    stream, results = asr.stream_files(SAMPLES, batch_size=1, words=True), {}

    def take():
        index, result = next(stream)
        results[index] = result.text

    for _ in SAMPLES:
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
    assert [results[index] for index in range(len(SAMPLES))] == list(texts.values())
    assert next(stream, None) is None
    assert asr.transcribe_file(SAMPLES[0]) == texts[SAMPLES[0]]


def test_a_lock_that_another_thread_releases():
    lock = OneAtATime()
    lock.__enter__()
    thread = threading.Thread(target=lock.__exit__)
    thread.start()
    thread.join()
    with lock:
        assert pickle.loads(pickle.dumps(lock)) is not lock


def transcribe(asr, path, queue):
    queue.put(asr.transcribe_file(path))


def test_a_spawned_process_is_given_it(asr, texts):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=transcribe, args=(asr, SAMPLES[1], queue))
    process.start()
    assert queue.get(timeout=120) == texts[SAMPLES[1]]
    process.join()


@pytest.mark.parametrize("way", [copy.deepcopy, lambda asr: pickle.loads(pickle.dumps(asr))])
def test_a_copy_says_the_same_and_is_saved_the_same(way, asr, texts, tmp_path):
    twin = way(asr)
    assert {path: twin.transcribe_file(path) for path in SAMPLES} == texts
    twin.save_pretrained(tmp_path)
    assert DiffusionASR.from_hparams(tmp_path).transcribe_file(SAMPLES[0]) == texts[SAMPLES[0]]


@pytest.mark.gpu
def test_threads_and_copies_on_a_gpu():
    asr = DiffusionASR.from_hparams(TINY, run_opts={"device": torch.device("cuda")})
    texts = [asr.transcribe_file(path) for path in SAMPLES]
    said = {}

    def work(index):
        said[index] = asr.transcribe_files(SAMPLES, batch_size=2)

    threads = [threading.Thread(target=work, args=[index]) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == dict.fromkeys(range(4), texts)
    # Its CUDA graphs stay behind.
    for twin in (copy.deepcopy(asr), pickle.loads(pickle.dumps(asr))):
        assert twin.transcribe_files(SAMPLES) == texts
    assert asr.transcribe_files(SAMPLES) == texts


BAD = {
    "empty": (torch.zeros(0), "no samples"),
    "all zero": (torch.zeros(16000), "all samples are zero"),
    "integers": (torch.ones(16000, dtype=torch.int16), "samples of type torch.int16"),
    "NaN": (torch.full((16000,), float("nan")), "16000 of 16000 samples are NaN or infinite"),
    "infinite": (torch.rand(16000).index_fill(0, torch.tensor([7]), torch.inf), "1 of 16000"),
    "stereo": (torch.rand(2, 16000), "a waveform of shape [2, 16000]; expected mono"),
    "too long": (torch.rand(16000 * 31), "but this model hears"),
    "a list": ([0.5, 0.1], "a list; expected a tensor"),
}


@pytest.mark.parametrize("name", BAD)
def test_waveforms_are_checked_as_files_are(name, asr):
    wav, words = BAD[name]
    good = torch.rand(16000)
    with pytest.raises(AudioError) as caught:
        asr.transcribe([good, wav])
    assert str(caught.value).startswith("wavs[1]: ") and words in str(caught.value)


@pytest.mark.parametrize("name", ["all zero", "integers", "NaN"])
def test_batches_are_checked_as_files_are(name, asr):
    wav, words = BAD[name]
    with pytest.raises(AudioError) as caught:
        asr.transcribe_batch(torch.stack([wav, wav]), torch.tensor([1.0, 0.5]))
    assert "wavs[0]: " in str(caught.value) and words.split(" ")[-1] in str(caught.value)


def test_padding_is_no_silence_and_lengths_are_checked(asr):
    wavs = torch.zeros(2, 16000)
    wavs[:, :8000] = torch.rand(2, 8000)
    assert len(asr.transcribe_batch(wavs, torch.tensor([1.0, 0.5]))[0]) == 2
    for lens, words in [
        (torch.tensor([1.0, 0.0]), "wavs[1]: no samples"),
        (torch.tensor([1.0]), "expected one for each: [2]"),
        (torch.tensor([16000.0, 8000.0]), "relative to the longest"),
    ]:
        with pytest.raises(AudioError) as caught:
            asr.transcribe_batch(wavs, lens)
        assert words in str(caught.value)
    with pytest.raises(AudioError, match=r"\[B, T\]"):
        asr.transcribe_batch(wavs[0], torch.tensor([1.0]))


def test_nothing_is_no_batch(asr):
    assert asr.transcribe([]) == []
    assert asr.transcribe_batch(torch.zeros(0, 0), torch.zeros(0)) == ([], [])


# What collects a model's files


def test_a_savedir_of_another_model_is_refused(tmp_path):
    DiffusionASR.from_hparams(TINY, savedir=str(tmp_path))
    DiffusionASR.from_hparams(os.path.relpath(TINY), savedir=str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path}: has the files of {TINY}, not of "):
        DiffusionASR.from_hparams(DIGITS, savedir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="'/no/such/folder' is neither a folder nor"):
        DiffusionASR.from_hparams("/no/such/folder", savedir=str(tmp_path))
    (tmp_path / "source.txt").unlink()  # collected by SpeechBrain alone
    DiffusionASR.from_hparams(TINY, savedir=str(tmp_path))
    (tmp_path / "source.txt").unlink()
    with pytest.raises(ValueError, match="has the files of another model"):
        DiffusionASR.from_hparams(DIGITS, savedir=str(tmp_path))


def test_a_source_that_does_not_load_claims_no_savedir(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "hyperparams.yaml").write_text("modules: !new:no.such.Class\n")
    with pytest.raises(Exception, match=r"no\.such|no such|No module"):
        DiffusionASR.from_hparams(tmp_path / "broken", savedir=str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "source.txt").exists()


def test_a_folder_can_be_its_own_savedir(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("samples"))
    for _ in range(2):
        DiffusionASR.from_hparams(folder, savedir=str(folder))
    assert not (folder / "source.txt").exists()


def test_what_is_trained_anew_is_loaded_anew(tmp_path):
    from speechbrain.utils.fetching import LocalStrategy

    folder = shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("samples"))
    options = {"savedir": str(tmp_path / "saved"), "local_strategy": LocalStrategy.COPY}
    first = DiffusionASR.from_hparams(folder, **options)
    with torch.no_grad():
        for parameter in first.mods.encoder.parameters():
            parameter.zero_()
    first.save_pretrained(folder)
    # Neither the size nor an older time hides that it is another file.
    os.utime(folder / "projector.safetensors", (1, 1))
    again = DiffusionASR.from_hparams(folder, **options)
    assert not any(parameter.any() for parameter in again.mods.encoder.projector.parameters())


def test_a_file_by_its_address(asr, texts, tmp_path):
    copy = shutil.copy(SAMPLES[0], tmp_path / "my call.wav")
    address = Path(copy).as_uri()
    assert "%20" in address
    assert asr.transcribe_file(address) == texts[SAMPLES[0]]
    assert len(asr.load_audio(address)) > 16000 / 2
    twin = DiffusionASR.from_hparams(TINY.as_uri())
    assert twin.transcribe_files([address, SAMPLES[1]]) == [texts[p] for p in SAMPLES[:2]]
    with pytest.raises(AudioError, match=f"{tmp_path}/absent.wav: no such file"):
        asr.transcribe_file(f"file://{tmp_path}/absent.wav")


def test_a_fine_tuned_folder_without_its_base_says_so(tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "digits")
    with pytest.raises(FileNotFoundError) as caught:
        DiffusionASR.from_hparams(folder)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{folder}: tokenizer, whisper, base")
    assert "expected in '../diffasr-tiny'" in line and "overrides={'sources'" in line
    places = dict.fromkeys(("tokenizer", "whisper", "base", "language"), str(TINY))
    DiffusionASR.from_hparams(folder, overrides={"sources": places})


@pytest.mark.parametrize(
    "options",
    [
        {"device": torch.device("cpu")},
        {"device": "cpu", "jit": True},
        {"jit_module_keys": ["encoder"]},
        {"data_parallel_backend": True, "data_parallel_count": 1},
        {"precision": "fp32"},
        {"device": None},
        None,
    ],
    ids=str,
)
def test_options_of_speechbrain(options, texts):
    asr = DiffusionASR.from_hparams(TINY, run_opts=options)
    assert asr.transcribe_file(SAMPLES[0]) == texts[SAMPLES[0]]
