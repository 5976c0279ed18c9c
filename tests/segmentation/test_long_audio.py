"""Audio of any length: nothing cut, nothing invented, speakers known, memory bounded."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import soundfile
import torch

from speechbrain_diffasr import AudioError, DiffusionASR, cli, shipped_model
from speechbrain_diffasr.dataio import AudioStream, load_audio
from speechbrain_diffasr.segmentation import Region, Segmenter, segmenter
from speechbrain_diffasr.utils.errors import BoundaryError

SAMPLES = Path(shipped_model("diffasr-tiny")) / "samples"
RATE = 16000
NAMES = ("en_1", "de_1", "en_2", "de_2")


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Four sentences with pauses: path, their times and texts."""
    pieces, spans, texts = [torch.zeros(RATE)], [], []
    for name in NAMES:
        wav = load_audio(SAMPLES / f"{name}.wav")
        start = sum(map(len, pieces)) / RATE
        spans.append((start, start + len(wav) / RATE))
        texts.append((SAMPLES / f"{name}.txt").read_text(encoding="utf-8").strip())
        pieces += [wav, torch.zeros(int(1.5 * RATE))]
    wav = torch.cat(pieces)
    wav = wav + 1e-4 * torch.randn(len(wav), generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("recording") / "talk.wav"
    soundfile.write(path, wav.numpy(), RATE)
    return path, spans, texts


@pytest.fixture
def rttm(recording, tmp_path):
    _, spans, _ = recording
    lines = [
        f"SPEAKER talk 0 {start:.3f} {end - start:.3f} <NA> <NA> {name} <NA> <NA>\n"
        for (start, end), name in zip(spans, ["anna", "ben"] * 2, strict=True)
    ]
    (tmp_path / "talk.rttm").write_text("".join(lines))
    return tmp_path / "talk.rttm"


def test_boundaries_give_a_segment_each(asr, recording):
    """The tensor of SpeechBrain's VAD: each stretch says what it says alone."""
    path, spans, texts = recording
    transcript = asr.transcribe_long(path, boundaries=torch.tensor(spans), max_gap=0.0)
    assert [segment.text for segment in transcript.segments] == texts
    assert transcript.text == " ".join(texts)
    for segment, (start, end) in zip(transcript.segments, spans, strict=True):
        assert (segment.start, segment.end) == pytest.approx((start, end), abs=0.11)
        assert all(segment.start <= word.start < word.end <= segment.end for word in segment.words)
        assert all(0 < word.confidence <= 1 for word in segment.words)
    assert [segment.language for segment in transcript.segments] == ["en", "de"] * 2
    assert transcript.duration == soundfile.info(path).duration


def test_silero_finds_the_same(asr, recording):
    path, _, texts = recording
    pytest.importorskip("silero_vad")
    transcript = asr.transcribe_long(path, segmentation="vad", max_gap=0.0)
    assert [segment.text for segment in transcript.segments] == texts
    assert asr.transcribe_file(path, max_gap=0.0) == transcript.text  # auto is the same


def test_fixed_windows_lose_no_word(asr, recording):
    path, _, texts = recording
    text = asr.transcribe_file(path, segmentation="fixed")
    words, place = text.split(), 0
    heard = 0
    for word in " ".join(texts).split():
        if word in words[place:]:
            place += words[place:].index(word) + 1
            heard += 1
    assert heard >= 0.8 * len(" ".join(texts).split())


def test_fixed_windows_begin_and_end_with_sound(asr, recording, monkeypatch):
    """In silence at their ends models invent words."""
    heard, encode = [], asr.encode_batch

    def watch(wavs, lens):
        lengths = (lens * wavs.shape[1]).round().int().tolist()
        heard.extend(wav[:length] for wav, length in zip(wavs, lengths, strict=True))
        return encode(wavs, lens)

    monkeypatch.setattr(asr, "encode_batch", watch)
    transcript = asr.transcribe_long(recording[0], segmentation="fixed")
    edge = int(0.15 * RATE)  # the margin, and windows of 25 ms in which sound is sought
    ends = [part for wav in heard for part in (wav[:edge], wav[-edge:])]
    assert all(part.abs().max() > 8e-4 for part in ends)  # the noise has 1e-4
    assert len(heard) > 1
    for segment in transcript.segments:
        assert all(segment.start <= word.start < word.end <= segment.end for word in segment.words)


@pytest.mark.parametrize(
    ("max_gap", "noise", "expected"),
    [
        (0.0, 1e-4, [(0.0, 1.15), (1.85, 3.15), (3.85, 5.0)]),  # by each silence
        (1.5, 1e-4, [(0.0, 5.0)]),  # silences are shorter
        (0.0, 0.1, [(0.0, 5.0)]),  # with noise behind it, nothing is silent
    ],
)
def test_fixed_windows_begin_anew_behind_silences(tmp_path, max_gap, noise, expected):
    place = torch.arange(80000) / 16000
    sounds = ((place % 2) < 1).float() * torch.sin(2000 * place) * 0.5
    torch.manual_seed(0)
    path = tmp_path / "beeps.wav"
    soundfile.write(path, (sounds + noise * torch.randn(80000)).numpy(), 16000)
    plan = Segmenter(6.0, "fixed", max_gap=max_gap).plan(AudioStream(path))
    found = [(round(window.start, 2), round(window.end, 2)) for window in plan.windows]
    assert found == [pytest.approx(pair, abs=0.02) for pair in expected]


def test_speakers_of_an_rttm_file(asr, recording, rttm):
    path, _, texts = recording
    for options in ({"max_gap": 0.0}, {"segmentation": "vad", "max_gap": 0.0}):
        transcript = asr.transcribe_long(path, turns=rttm, **options)
        told = [(segment.speaker, segment.text) for segment in transcript.segments]
        assert told == list(zip(["anna", "ben"] * 2, texts, strict=True))
    assert transcript.speakers == ["anna", "ben"]


def test_the_worked_example(recording, rttm, capsys):
    """Boundaries of SpeechBrain's VAD, turns of a diarizer, and what the README shows."""
    path, spans, texts = recording
    boundaries = torch.tensor(spans)  # VAD.from_hparams(...).get_speech_segments(path)

    asr = DiffusionASR.from_hparams(source=shipped_model("diffasr-tiny"))
    transcript = asr.transcribe_long(path, boundaries=boundaries, turns=rttm, max_gap=0.0)
    for segment in transcript.segments:
        print(f"{segment.start:6.2f} {segment.end:6.2f} {segment.speaker}: {segment.text}")

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        f"{name}: {text}" for name, text in zip(["anna", "ben"] * 2, texts, strict=True)
    ]


def test_silence_says_nothing(asr, tmp_path):
    wav = torch.zeros(20 * RATE)
    soundfile.write(tmp_path / "zeros.wav", wav.numpy(), RATE)
    noise = 1e-3 * torch.randn(len(wav), generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "noise.wav", noise.numpy(), RATE)
    for name, how in (("zeros", "fixed"), ("zeros", "vad"), ("noise", "vad")):
        transcript = asr.transcribe_long(tmp_path / f"{name}.wav", segmentation=how)
        assert (transcript.text, transcript.segments, transcript.duration) == ("", (), 20.0)
    assert asr.transcribe_long(tmp_path / "noise.wav", boundaries=torch.tensor([])).text == ""


def test_one_window_is_one_utterance(asr):
    """As it was before there was anything longer."""
    path = SAMPLES / "en_1.wav"
    (alone,) = asr.transcribe([asr.load_audio(path)])
    ((_, streamed),) = asr.stream_files([path])
    assert (streamed.text, streamed.tokens, streamed.steps) == (
        alone.text,
        alone.tokens,
        alone.steps,
    )
    assert asr.transcribe_file(path, segmentation="none") == alone.text


def test_progress_of_a_long_file_is_told(asr, recording):
    path = recording[0]
    told = []
    list(asr.stream_files([path], on_window=lambda *now: told.append(now)))
    assert len(told) > 1 and {index for index, *_ in told} == {0}
    times = [done for _, done, _ in told]
    seconds = soundfile.info(path).duration
    assert times == sorted(times) and 0.5 * seconds < times[-1] <= seconds
    assert all(total == pytest.approx(seconds, abs=0.01) for *_, total in told)


def test_what_cannot_be_done_is_said(asr, recording, tmp_path):
    path, spans, _ = recording
    with pytest.raises(AudioError, match="but this model hears 6 s at once"):
        asr.transcribe_file(path, segmentation="none")
    with pytest.raises(ValueError, match="'words' is unknown; choose auto, vad, fixed, none"):
        asr.transcribe_file(path, segmentation="words")
    with pytest.raises(AudioError, match=r"boundaries reach to 99\.00 s, but the audio lasts"):
        asr.transcribe_file(path, boundaries=[*spans, (98, 99)])
    with pytest.raises(BoundaryError, match=r"no\.rttm: no such file"):
        asr.transcribe_long(path, turns=tmp_path / "no.rttm")


def test_text_that_fills_the_canvas_is_not_cut(tmp_path):
    """A window with more text than the canvas holds is heard in halves."""
    parts = [load_audio(SAMPLES / f"{name}.wav") for name in ("de_1", "de_2")]
    wav = torch.cat([torch.zeros(3200), parts[0], torch.zeros(8000), parts[1], torch.zeros(8000)])
    wav = wav + 1e-4 * torch.randn(len(wav), generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "two.wav", wav.numpy(), RATE)
    short = {"canvas_length": 6, "readings": 0}
    asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"), overrides=short)
    assert len(asr.transcribe([wav])[0].tokens) == 6
    text = asr.transcribe_file(tmp_path / "two.wav", boundaries=[(0.1, len(wav) / RATE)])
    assert text.startswith("ich weiß es nicht")
    assert "das ist nicht" in text


@pytest.mark.slow
def test_what_is_cut_again_does_not_pile_up(tmp_path, monkeypatch):
    """Halves are heard before windows that come later: of a long file little audio waits."""
    wav = load_audio(SAMPLES / "en_1.wav")[: int(1.3 * RATE)]
    count, batch_size = 24, 2
    soundfile.write(tmp_path / "again.wav", wav.repeat(count).numpy(), RATE)
    spans = torch.arange(count + 1) * len(wav) / RATE
    asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"), overrides={"canvas_length": 2})
    heard, encode = [], asr.encode_batch

    def watch(wavs, lens):
        heard.extend((lens * wavs.shape[1]).round().int().tolist())
        return encode(wavs, lens)

    monkeypatch.setattr(asr, "encode_batch", watch)
    boundaries = torch.stack([spans[:-1] + 0.01, spans[1:] - 0.01], dim=1)
    asr.transcribe_long(
        tmp_path / "again.wav", boundaries=boundaries, max_gap=0.0, batch_size=batch_size
    )
    whole = [length > 0.95 * len(wav) for length in heard]
    assert whole.count(True) == count and whole.count(False) == 2 * count
    waiting = [2 * whole[:n].count(True) - whole[:n].count(False) for n in range(len(whole) + 1)]
    assert max(waiting) <= 2 * 2 * batch_size < 2 * count


def test_transcripts_do_not_depend_on_how_files_are_batched(asr, recording, tmp_path):
    wav = load_audio(recording[0])
    paths = []
    for number, seconds in enumerate((7, 2.3, 12, 4.7)):
        paths.append(tmp_path / f"{number}.flac")
        soundfile.write(paths[-1], wav[: int(seconds * RATE)].numpy(), RATE)
    options = {"segmentation": "fixed"}
    alone = [asr.transcribe_file(path, batch_size=1, **options) for path in paths]
    assert asr.transcribe_files(paths, batch_size=3, **options) == alone
    assert asr.transcribe_files(paths, batch_size=16, **options) == alone
    assert len(set(alone)) == len(alone)


def test_planning_takes_no_more_memory_for_more_audio(tmp_path):
    """Ten minutes and one: of the audio nothing but levels is kept."""
    peaks = []
    for minutes in (1, 10):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(0.1 * torch.randn(60 * RATE).numpy())
        tracemalloc.start()
        stream = AudioStream(path)
        plan = Segmenter(30.0, "fixed").plan(stream)
        for window, wav in zip(
            plan.windows, stream.pieces(w.samples(RATE) for w in plan.windows), strict=True
        ):
            assert len(wav) == pytest.approx(window.duration * RATE, abs=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2e6  # bytes; the audio itself would be 35e6


def test_planning_leaves_no_gaps_in_memory(tmp_path):
    """What tracemalloc does not see: memory that is free but that nothing fits into."""
    noise = 0.1 * torch.randn(60 * RATE, generator=torch.Generator().manual_seed(0)).numpy()
    for minutes in (2, 40):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(noise)
    program = """
import sys
from pathlib import Path
from speechbrain_diffasr.dataio import AudioStream
from speechbrain_diffasr.segmentation import Segmenter
for path in sys.argv[1:]:
    Segmenter(6.0, "fixed").plan(AudioStream(path))
    lines = Path("/proc/self/status").read_text().splitlines()
    print(*(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""
    paths = [str(tmp_path / "2.wav"), str(tmp_path / "40.wav")]
    found = subprocess.run(
        [sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True
    )
    short, long = (1024 * int(peak) for peak in found.stdout.split())
    assert long - short < 20e6  # bytes; the audio itself would be 150e6


def test_without_silero_windows_are_fixed(monkeypatch, recording):
    monkeypatch.setattr(segmenter.importlib.util, "find_spec", lambda name: None)
    plan = Segmenter(6.0).plan(AudioStream(recording[0]))
    assert plan.overlapping
    plan = Segmenter(6.0).plan(AudioStream(recording[0]), [Region(1, 2)])
    assert not plan.overlapping and len(plan.windows) == 1


def test_the_command_writes_captions_and_speakers(asr, recording, rttm, monkeypatch, capfd):
    path, _, texts = recording
    monkeypatch.setattr(cli.common, "load_model", lambda *args: asr)
    command = ["transcribe", str(path), "--rttm", str(rttm), "--max-gap", "0"]
    assert cli.main([*command, "--format", "vtt"]) == 0
    out = capfd.readouterr().out
    assert f"<v anna>{texts[0]}</v>" in out and f"<v ben>{texts[1]}</v>" in out
    assert cli.main(command) == 0
    assert capfd.readouterr().out.splitlines()[:2] == [f"anna: {texts[0]}", f"ben: {texts[1]}"]
    assert cli.main([*command, "--format", "json"]) == 0
    (told,) = json.loads(capfd.readouterr().out)
    assert [part["speaker"] for part in told["segments"]] == ["anna", "ben"] * 2
