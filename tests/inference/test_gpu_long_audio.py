"""Audio of any length on a GPU: the text, times, confidences and languages of a CPU.

In float32 both devices differ by the order in which they add, which moves the audio's embeddings by
about 1e-6 of their size. On a CPU, random numbers of 1e-4 of their size, added to the embeddings of
this recording, changed no text and no time, and confidences by less than 1e-4.
"""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import soundfile
import torch
from terminals import watch_files
from torch.nn.utils.rnn import pad_sequence

from speechbrain_diffasr import AudioError, DiffusionASR, cli, shipped_model
from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.decoders import identify_language
from speechbrain_diffasr.transcripts import WordAligner
from speechbrain_diffasr.visualization import explain

pytestmark = pytest.mark.gpu

RATE = 16000
SAMPLES = sorted(Path(shipped_model("diffasr-tiny")).glob("samples/*.wav"))
TEXTS = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in SAMPLES]
LANGUAGES = [path.stem.split("_")[0].replace("digits", "en") for path in SAMPLES]
DEVICES = ("cpu", "cuda")
FRAME = 0.08  # s; CTC may mark a word in the frame beside, where both are as probable
CLOSE = 1e-3  # of probabilities
NEARLY_ALL = 0.9  # of the samples: beside a little noise the model errs in two of 28


@pytest.fixture(scope="module", autouse=True)
def full_precision():
    """SpeechBrain, once imported, lets products and convolutions on a GPU round to TF32."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.fixture(scope="module")
def recognizers(full_precision):
    """On the CPU and on the GPU."""
    return [
        DiffusionASR.from_hparams(shipped_model("diffasr-tiny"), run_opts={"device": name})
        for name in DEVICES
    ]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """All samples twice, a minute with pauses: path, and where each begins and ends."""
    pieces, spans = [torch.zeros(RATE)], []
    for path in 2 * SAMPLES:
        wav = load_audio(path)
        start = sum(map(len, pieces)) / RATE
        spans.append((start, start + len(wav) / RATE))
        pieces += [wav, torch.zeros(RATE)]
    wav = torch.cat(pieces)
    wav = wav + 1e-4 * torch.randn(len(wav), generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("recording") / "talk.wav"
    soundfile.write(path, wav.numpy(), RATE)
    assert len(wav) > 55 * RATE
    return path, spans


@pytest.fixture(scope="module")
def parts(recording, tmp_path_factory):
    """Files of which some are heard whole, and one cannot be read."""
    wav, folder = load_audio(recording[0]), tmp_path_factory.mktemp("parts")
    paths = []
    for number, seconds in enumerate((7.0, 2.3, 12.0, 4.7)):
        paths.append(folder / f"{number}.flac")
        soundfile.write(paths[-1], wav[: int(seconds * RATE)].numpy(), RATE)
    return [*paths, folder / "missing.wav"]


@pytest.fixture
def rttm(recording, tmp_path):
    _, spans = recording
    lines = [
        f"SPEAKER talk 1 {start:.3f} {end - start:.3f} <NA> <NA> {'ab'[number % 2]} <NA> <NA>\n"
        for number, (start, end) in enumerate(spans)
    ]
    (tmp_path / "talk.rttm").write_text("".join(lines))
    return tmp_path / "talk.rttm"


def assert_same_words(on_gpu, on_cpu):
    """Words of both devices, with times and confidences."""
    assert [word.text for word in on_gpu] == [word.text for word in on_cpu]
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours.start == pytest.approx(theirs.start, abs=FRAME + 1e-6)
        assert ours.end == pytest.approx(theirs.end, abs=FRAME + 1e-6)
        assert ours.confidence == pytest.approx(theirs.confidence, abs=CLOSE)


def assert_same(on_gpu, on_cpu):
    """Transcripts of both devices."""
    assert on_gpu.text == on_cpu.text
    assert on_gpu.language == on_cpu.language
    assert on_gpu.language_probability == pytest.approx(on_cpu.language_probability, abs=CLOSE)
    for ours, theirs in zip(on_gpu.segments, on_cpu.segments, strict=True):
        assert (ours.text, ours.language, ours.speaker) == (
            theirs.text,
            theirs.language,
            theirs.speaker,
        )
        assert ours.start == pytest.approx(theirs.start, abs=FRAME + 1e-6)
        assert ours.end == pytest.approx(theirs.end, abs=FRAME + 1e-6)
        assert_same_words(ours.words, theirs.words)


def assert_heard(transcript):
    """The samples, each as a segment, in both of their turns."""
    pairs = list(zip(transcript.segments, 2 * TEXTS, strict=True))
    assert sum(segment.text == text for segment, text in pairs) >= NEARLY_ALL * len(pairs)
    assert [segment.language for segment, _ in pairs] == 2 * LANGUAGES


def test_boundaries(recognizers, recording):
    """Each stretch of speech by itself."""
    path, spans = recording
    on_cpu, on_gpu = (
        asr.transcribe_long(path, boundaries=torch.tensor(spans)) for asr in recognizers
    )
    assert_heard(on_gpu)
    assert len(on_gpu.words) > len(spans)
    assert_same(on_gpu, on_cpu)


def test_boundaries_that_lie_on_the_gpu(recognizers, recording):
    """SpeechBrain's VAD gives them there if it runs there."""
    path, spans = recording
    _, asr = recognizers
    told = asr.transcribe_long(path, boundaries=torch.tensor(spans, device="cuda"), words=False)
    assert_heard(told)


def test_fixed_windows(recognizers, recording):
    """Windows overlap, so that texts are joined by the times of their words."""
    on_cpu, on_gpu = (
        asr.transcribe_long(recording[0], segmentation="fixed") for asr in recognizers
    )
    assert len(on_gpu.words) > len(SAMPLES)
    assert_same(on_gpu, on_cpu)


def test_silero_finds_speech_beside_a_gpu(recognizers, recording):
    pytest.importorskip("silero_vad")
    on_cpu, on_gpu = (asr.transcribe_long(recording[0], segmentation="vad") for asr in recognizers)
    assert_heard(on_gpu)
    assert_same(on_gpu, on_cpu)


@pytest.mark.parametrize("segmentation", ["auto", "fixed"])
def test_speakers(recognizers, recording, rttm, segmentation):
    on_cpu, on_gpu = (
        asr.transcribe_long(recording[0], turns=rttm, segmentation=segmentation)
        for asr in recognizers
    )
    assert set(on_gpu.speakers) == {"a", "b"}
    assert_same(on_gpu, on_cpu)


def test_many_files_in_any_batch(recognizers, parts):
    """Words, languages and errors too; on the GPU alone what it is beside others."""
    options = {"segmentation": "fixed", "words": True, "seed": [3, 1, 4, 1, 5]}
    on_cpu, on_gpu = (dict(asr.stream_files(parts, **options)) for asr in recognizers)
    assert isinstance(on_gpu[4], AudioError)
    for index in range(4):
        assert on_gpu[index].steps == on_cpu[index].steps
        assert_same(on_gpu[index], on_cpu[index])
    for batch_size in (1, 2, 16):
        again = dict(recognizers[1].stream_files(parts, batch_size=batch_size, **options))
        assert [again[index].tokens for index in range(4)] == [
            on_gpu[index].tokens for index in range(4)
        ]
        for index in range(4):
            assert_same(again[index], on_gpu[index])


def test_text_that_fills_the_canvas(recording):
    """The window is heard in halves."""
    path, spans = recording
    boundaries = [(spans[0][0], spans[2][1])]
    told = [
        DiffusionASR.from_hparams(
            shipped_model("diffasr-tiny"),
            overrides={"canvas_length": 6},
            run_opts={"device": device},
        ).transcribe_long(path, language="de", boundaries=boundaries)
        for device in DEVICES
    ]
    assert len(told[1].words) > 6
    assert_same(told[1], told[0])


def test_languages(recognizers):
    """Of samples alone and together."""
    found = []
    for asr in recognizers:
        wavs = [asr.load_audio(path) for path in SAMPLES]
        lens = torch.tensor([len(wav) for wav in wavs])
        audio = asr.encode_batch(pad_sequence(wavs, batch_first=True), lens / lens.max())
        found.append(identify_language(asr.mods.decoder, audio, asr.language_table))
        alone = [
            identify_language(asr.mods.decoder, row[None], asr.language_table)[0] for row in audio
        ]
        assert alone == found[-1]
    on_cpu, on_gpu = found
    assert [one.code for one in on_gpu] == LANGUAGES
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=CLOSE)


@pytest.mark.parametrize("chunk_size", [7, 256])
def test_alignment_of_given_texts(recognizers, chunk_size):
    """Waveforms lie on either device; the texts come without probabilities of a denoiser."""
    words = []
    for asr in recognizers:
        wavs = [asr.load_audio(path) for path in SAMPLES]
        assert {wav.device.type for wav in wavs} == {torch.device(asr.device).type}
        lens = torch.tensor([len(wav) for wav in wavs])
        audio = asr.encode_batch(pad_sequence(wavs, batch_first=True), lens / lens.max())
        tokens = [asr.tokenizer.encode(text) for text in TEXTS]
        aligner = WordAligner(asr.mods.encoder, asr.mods.decoder, chunk_size=chunk_size)
        words.append(aligner(wavs, audio, tokens))
        assert len(words[-1]) == len(SAMPLES)
        elsewhere = aligner([wav.cpu() for wav in wavs], audio, tokens)
        assert elsewhere == words[-1]
    for on_cpu, on_gpu in zip(*words, strict=True):
        assert len(on_gpu) > 0
        assert_same_words(on_gpu, on_cpu)


def test_watching_changes_no_transcript(recognizers):
    """And each step says on both devices how many tokens were accepted, and the draft."""
    paths, steps = SAMPLES[:4], []
    for asr in recognizers:
        file = io.StringIO()
        watched = dict(watch_files(asr, paths, file))
        streamed = dict(asr.stream_files(paths))
        for index in range(len(paths)):
            assert watched[index].tokens == streamed[index].tokens
        lines = file.getvalue().splitlines()
        assert len(lines) == sum(transcript.steps for transcript in watched.values())
        steps.append(re.sub(r"entropy [\d.]+ nats", "", file.getvalue()))
    assert steps[1] == steps[0]


@pytest.mark.parametrize("sample", [0, -1])
def test_explanations(recognizers, sample):
    """Every step is there, and none that the utterance did not take."""
    told = []
    for asr in recognizers:
        wav = asr.load_audio(SAMPLES[sample])
        told.append(explain(asr, wav))
        assert len(told[-1].frames) == 1 + asr.transcribe([wav])[0].steps
    on_cpu, on_gpu = told
    assert (on_gpu.text, on_gpu.ctc_text) == (on_cpu.text, on_cpu.ctc_text)
    assert torch.equal(on_gpu.wav, on_cpu.wav)
    assert_same_words(on_gpu.words, on_cpu.words)
    for ours, theirs in zip(on_gpu.frames, on_cpu.frames, strict=True):
        for name in ("step", "canvas", "accepted", "tokens"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.entropy == pytest.approx(theirs.entropy, abs=CLOSE)
    for ours, theirs in zip(on_gpu.pieces, on_cpu.pieces, strict=True):
        assert (ours.token, ours.start, ours.end) == (theirs.token, theirs.start, theirs.end)
        assert ours.probability == pytest.approx(theirs.probability, abs=CLOSE)


def run(command):
    """What a command says on stdout; it must not fail."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(out):
        assert cli.main(list(map(str, command))) == 0
    return out.buffer.getvalue().decode("utf-8")


def flattened(content, place=()):
    """Numbers and texts of a JSON value by their place."""
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        return {k: v for key, value in pairs for k, v in flattened(value, (*place, key)).items()}
    return {place: content}


def test_the_command_writes_json(recording):
    command = ["transcribe", recording[0], "--segment", "fixed", "--format", "json"]
    on_cpu, on_gpu = (
        flattened(json.loads(run([*command, "--device", device]))) for device in DEVICES
    )
    assert on_gpu.keys() == on_cpu.keys()
    for place, value in on_cpu.items():
        if isinstance(value, float):
            near = FRAME + 2e-3 if place[-1] in ("start", "end") else 2 * CLOSE
            value = pytest.approx(value, abs=near)
        assert on_gpu[place] == value, place
    assert any(place[-1] == "confidence" for place in on_gpu)


def test_the_command_writes_captions(recording, rttm):
    """In the same words and at the same times, but for a frame."""
    command = ["transcribe", recording[0], "--rttm", rttm, "--format", "srt"]
    on_cpu, on_gpu = (run([*command, "--device", device]).splitlines() for device in DEVICES)
    assert len(on_gpu) == len(on_cpu) > 4 * len(SAMPLES)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        if " --> " in theirs:
            assert caption_times(ours) == pytest.approx(caption_times(theirs), abs=FRAME + 2e-3)
        else:
            assert ours == theirs


def caption_times(line):
    """Seconds of a line such as 00:00:01,000 --> 00:00:02,500."""
    numbers = list(map(int, re.findall(r"\d+", line)))
    return [3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (numbers[:4], numbers[4:])]


def test_the_command_watches(capfd):
    pytest.importorskip("wcwidth")
    told = []
    for device in DEVICES:
        told.append(run(["transcribe", SAMPLES[0], SAMPLES[1], "--watch", "--device", device]))
        assert "step 1/8" in capfd.readouterr().err
    assert (
        told[1]
        == told[0]
        == "".join(f"{path}\t{text}\n" for path, text in zip(SAMPLES[:2], TEXTS[:2], strict=True))
    )


def test_the_command_transcribes_a_folder(parts, tmp_path):
    """And a second time nothing."""
    command = ["transcribe", "--manifest", parts[0].parent, "--format", "json"]
    for device in DEVICES:
        told = run([*command, "--device", device, "--output", tmp_path / device])
        assert told.startswith("4 files transcribed")
    names = sorted(path.name for path in (tmp_path / "cpu").glob("*.flac.json"))
    assert len(names) == 4
    for name in names:
        on_cpu, on_gpu = (
            json.loads((tmp_path / device / name).read_text(encoding="utf-8")) for device in DEVICES
        )
        assert on_gpu["text"] == on_cpu["text"]
    assert run([*command, "--device", "cuda", "--output", tmp_path / "cuda"]).startswith("0 files")


def test_the_command_explains(recording, tmp_path):
    """A whole file, and a part of one: the page has the transcript and all steps."""
    pages = {}
    for device in DEVICES:
        options = ["--device", device, "--language", LANGUAGES[0]]
        run(["explain", SAMPLES[0], *options, "--output", tmp_path / "whole.html"])
        start, end = recording[1][0]
        part = ["--start", f"{start:.3f}", "--end", f"{end:.3f}"]
        run(["explain", recording[0], *part, *options, "--output", tmp_path / "part.html"])
        pages[device] = [
            (tmp_path / name).read_text(encoding="utf-8") for name in ("whole.html", "part.html")
        ]
    for on_cpu, on_gpu in zip(*(pages[device] for device in DEVICES), strict=True):
        assert re.findall("<h1.*</h1>", on_gpu) == re.findall("<h1.*</h1>", on_cpu)
        assert f">{TEXTS[0]}</h1>" in on_gpu
