"""Boundaries as SpeechBrain's VAD, silero-vad and RTTM files give them."""

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from speechbrain.dataio import audio_io
from speechbrain.inference.VAD import VAD

from speechbrain_diffasr import Segment, Transcript
from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.segmentation import Region, SileroVAD, read_boundaries, read_rttm
from speechbrain_diffasr.segmentation.boundaries import Rttm, regions_from_tensor
from speechbrain_diffasr.text.recordings import recording_names
from speechbrain_diffasr.transcripts.writers import format_rttm
from speechbrain_diffasr.utils.errors import BoundaryError, MissingPackageError

RATE = 16000
HOP = 160
SAMPLES = Path(__file__).parents[2] / "pretrained" / "diffasr-tiny" / "samples"


class Loudness(torch.nn.Module):
    """One feature for each 10 ms: how many dB a frame is above -45 dB."""

    def forward(self, wavs):  # [B, T]
        padded = torch.nn.functional.pad(wavs, (HOP, HOP))
        power = padded.unfold(1, 2 * HOP, HOP).square().mean(-1)  # [B, T / HOP + 1]
        return (10 * power.clamp(min=1e-9).log10() + 45)[..., None]


class Unchanged(torch.nn.Module):
    def forward(self, features, lengths):
        return features


class Recurrent(torch.nn.Module):
    def forward(self, features):
        return features, None


@pytest.fixture(scope="module")
def vad():
    """SpeechBrain's own VAD, with loudness in place of a trained network."""
    modules = {
        "compute_features": Loudness(),
        "mean_var_norm": Unchanged(),
        "cnn": torch.nn.Unflatten(2, (1, 1)),
        "rnn": Recurrent(),
        "dnn": torch.nn.Identity(),
        "model": torch.nn.Identity(),
    }
    hparams = {"sample_rate": RATE, "time_resolution": HOP / RATE, "device": "cpu"}
    return VAD(modules=modules, hparams=hparams)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Four sentences with pauses of a second, and where they lie."""
    pieces, spans, time = [torch.zeros(RATE)], [], 1.0
    for name in ("en_1", "de_1", "fr_1", "zh_1"):
        wav = load_audio(SAMPLES / f"{name}.wav")
        pieces += [wav, torch.zeros(RATE)]
        spans.append((time, time + len(wav) / RATE))
        time = spans[-1][1] + 1.0
    path = tmp_path_factory.mktemp("recording") / "four.wav"
    torch.manual_seed(0)
    wav = torch.cat(pieces)
    audio_io.save(path, (wav + 1e-4 * torch.randn(len(wav)))[None], RATE)
    return path, spans


def test_what_speechbrain_s_vad_returns(vad, recording):
    """The real tensor of get_speech_segments: times are taken over as they are."""
    path, spans = recording
    boundaries = vad.get_speech_segments(str(path), close_th=0.5)
    regions = regions_from_tensor(boundaries)
    assert [(region.start, region.end) for region in regions] == list(
        map(tuple, boundaries.tolist())
    )
    assert len(regions) == len(spans)
    for region, (start, end) in zip(regions, spans, strict=True):
        assert region.start == pytest.approx(start, abs=0.5)
        assert region.end == pytest.approx(end, abs=0.5)


def test_what_speechbrain_s_vad_returns_for_silence(vad, tmp_path):
    audio_io.save(tmp_path / "silence.wav", torch.zeros(1, 5 * RATE), RATE)
    boundaries = vad.get_speech_segments(str(tmp_path / "silence.wav"))
    assert regions_from_tensor(boundaries) == []
    vad.save_boundaries(boundaries, tmp_path / "vad.txt", print_boundaries=False)
    assert read_boundaries(tmp_path / "vad.txt") == []


@pytest.mark.parametrize("with_audio", [False, True])
def test_what_speechbrain_s_vad_saves(vad, recording, tmp_path, with_audio):
    """The file says what the tensor says, but for its rounding to 10 ms."""
    path, _ = recording
    boundaries = vad.get_speech_segments(str(path), close_th=0.0, double_check=False)
    saved = tmp_path / "vad.txt"
    vad.save_boundaries(boundaries, saved, False, audio_file=str(path) if with_audio else None)
    regions = read_boundaries(saved)
    assert len(regions) == len(boundaries) >= 4
    found = torch.tensor([(region.start, region.end) for region in regions])
    torch.testing.assert_close(found, boundaries, atol=0.00501, rtol=0)


def test_boundaries_in_samples(vad, recording, tmp_path):
    """As get_boundaries gives and saves them with output_value='samples'."""
    path, _ = recording
    threshold = vad.apply_threshold(vad.get_speech_prob_file(str(path))).float()
    seconds = regions_from_tensor(vad.get_boundaries(threshold.clone()))
    samples = vad.get_boundaries(threshold.clone(), output_value="samples")
    saved = tmp_path / "vad.txt"
    vad.save_boundaries(samples, saved, print_boundaries=False)
    for regions in (regions_from_tensor(samples, RATE), read_boundaries(saved, RATE)):
        assert [region.start for region in regions] == pytest.approx([r.start for r in seconds])
        assert [region.end for region in regions] == pytest.approx([r.end for r in seconds])
    with pytest.raises(BoundaryError, match="samples; give the sample rate"):
        regions_from_tensor(samples)
    with pytest.raises(BoundaryError, match="samples; give the sample rate"):
        read_boundaries(saved)


def test_random_boundaries_come_back(vad, tmp_path):
    """Hours with more than 999 segments, some of which touch."""
    for seed in range(20):
        torch.manual_seed(seed)
        edges = torch.rand(random.Random(seed).choice([2, 10, 3000])).mul(20).round().div(10)
        boundaries = edges.cumsum(0).view(-1, 2)
        boundaries = boundaries[boundaries[:, 0] < boundaries[:, 1]]
        vad.save_boundaries(boundaries, tmp_path / "vad.txt", print_boundaries=False)
        found = read_boundaries(tmp_path / "vad.txt")
        expected = regions_from_tensor((100 * boundaries.double()).round() / 100)
        assert [region.start for region in found] == [region.start for region in expected]
        assert [region.end for region in found] == [region.end for region in expected]


@pytest.mark.parametrize(
    "boundaries, reason",
    [
        (torch.tensor([1.0, 2.0, 3.0, 4.0]), r"shape \[4\]; expected starts and ends"),
        (torch.zeros(2, 3), r"shape \[2, 3\]"),
        (torch.tensor([[1.0, 2.0], [5.0, 4.0]]), "row 1: speech from 5 to 4 s"),
        (torch.tensor([[-1.0, 2.0]]), "row 0: speech from -1 to 2 s"),
        (torch.tensor([[0.0, torch.nan]]), "row 0: speech from 0 to nan s"),
        (torch.tensor([[0.0, torch.inf]]), "row 0: speech from 0 to inf s"),
    ],
)
def test_tensors_that_are_no_boundaries(boundaries, reason):
    with pytest.raises(BoundaryError, match=reason):
        regions_from_tensor(boundaries)


def test_reference_rttm_of_recipes(tmp_path):
    """The AMI recipe begins each recording with its speakers; several recordings share a file."""
    path = tmp_path / "ref.rttm"
    path.write_text(
        "SPKR-INFO rec1 0 <NA> <NA> <NA> unknown anna <NA> <NA>\n"
        "SPEAKER rec1 0 0.5 1.25 <NA> <NA> anna <NA> <NA>\n"
        ";; a comment\n\n"
        "SPEAKER rec2 1 3.0 1.0 <NA> <NA> ben <NA>\n"
        "SPEAKER rec2 1 9.0 0.0 <NA> <NA> ben <NA>\n"
        "LEXEME rec2 1 3.0 0.5 tea lex ben 0.9 <NA>"
    )
    assert read_rttm(path, "rec1") == [Region(0.5, 1.75, "anna")]
    assert read_rttm(path, "rec2") == [Region(3.0, 4.0, "ben")]
    with pytest.raises(BoundaryError, match="turns of 2 recordings; say which one: rec1, rec2"):
        read_rttm(path)
    with pytest.raises(BoundaryError, match="no turns of recording 'rec3', only of rec1, rec2"):
        read_rttm(path, "rec3")


def test_comments_and_old_lines_of_nine_fields(tmp_path):
    path = tmp_path / "call.rttm"
    path.write_text(
        ";; a comment\n; another, with many words in it, more than ten of them, all in one line\n"
        "# a third\n\nSPKR-INFO call 1 <NA> <NA> <NA> unknown anna <NA> <NA>\n"
        "SPEAKER call 1 0.5 1.0 <NA> <NA> anna <NA>\n"
    )
    assert read_rttm(path) == [Region(0.5, 1.5, "anna")]


SEVERAL = [
    "my call.wav", "other.wav", "mon/1.wav", "tue/1.wav", 'a "quoted" one.wav', ";;odd.wav",
    "café.wav", "a.b.wav",
]  # fmt: skip


def test_what_is_written_is_read_back(tmp_path):
    names = recording_names(SEVERAL)
    turns = {
        path: Segment(index, index + 0.5, "hello", speaker=f"speaker {index}")
        for index, path in enumerate(SEVERAL)
    }
    path = tmp_path / "own.rttm"
    path.write_text(
        "".join(
            format_rttm(Transcript((turns[audio],), 20.0, name=audio), name)
            for audio, name in zip(SEVERAL, names, strict=True)
        )
    )
    rttm = Rttm.read(path, allow_other_name=False).of_files(SEVERAL)
    for index, audio in enumerate(SEVERAL):
        assert rttm.turns_of_audio(audio) == [Region(index, index + 0.5, f"speaker_{index}")]
    alone = Rttm.read(path, allow_other_name=False)
    assert alone.turns_of_audio("elsewhere/my call.wav")[0].speaker == "speaker_0"
    with pytest.raises(BoundaryError, match="no turns of recording 'third'"):
        rttm.turns_of_audio("third.wav")


def test_one_name_for_two_files_is_not_taken_for_both(tmp_path):
    path = tmp_path / "call.rttm"
    path.write_text("SPEAKER 1 1 0.5 1.0 <NA> <NA> anna <NA> <NA>\n")
    files = ["mon/1.wav", "tue/1.wav"]
    rttm = Rttm.read(path, allow_other_name=False).of_files(files)
    for audio in files:
        with pytest.raises(BoundaryError, match=r"no turns of recording '(mon|tue)_1', only of 1"):
            rttm.turns_of_audio(audio)


@pytest.mark.parametrize(
    "read, content, reason",
    [
        (
            read_boundaries,
            "segment_001  0.00  1.50 SPEACH\n",
            "line 1: .* is not like 'segment_001",
        ),
        (read_boundaries, "segment_001  0.00  1.50 SPEECH\nhello\n", "line 2: 'hello' is not like"),
        (read_boundaries, "segment_001  2.00  1.50 SPEECH\n", "line 1: speech from 2 to 1.5 s"),
        (read_boundaries, "segment_001  0.0.0  1.50 SPEECH\n", "'0.0.0' is not a time in seconds"),
        (read_boundaries, "segment_001  nan  1.50 SPEECH\n", "'nan' is not a time in seconds"),
        (read_boundaries, "SPEAKER a 0 0.0 1.0 <NA> <NA> b <NA> <NA>\n", "; this is RTTM"),
        (read_boundaries, "\x00\ufffd", "is not like 'segment_001"),
        (read_rttm, "segment_001  0.00  1.50 SPEECH\n", "; these are boundaries of a VAD"),
        (read_rttm, "SPEAKER a 0 0.0 1.0 <NA>\n", "line 1: .* is not like 'SPEAKER name"),
        (read_rttm, "SPEAKER a 0 x 1.0 <NA> <NA> b <NA> <NA>\n", "'x' is not a time in seconds"),
        (read_rttm, "SPEAKER a 0 5 -1 <NA> <NA> b <NA> <NA>\n", "line 1: speech from 5 to 4 s"),
        (read_rttm, "SPEAKER a 0 inf 1 <NA> <NA> b <NA> <NA>\n", "'inf' is not a time in seconds"),
        (
            read_rttm,
            "SPEAKER my call 1 0 1 <NA> <NA> anna <NA> <NA>\n",
            r"line 1: 11 fields, not 10 \(white space in the name of the recording or speaker",
        ),
        (
            read_rttm,
            "SPEAKER call 1 0 1 <NA> <NA> anna maria <NA> <NA>\n",
            "line 1: 11 fields, not 10",
        ),
        (read_rttm, "a,0.0,1.0,anna\n", "line 1: 'a,0.0,1.0,anna' is not like"),
    ],
)
def test_bad_files_get_one_line(tmp_path, read, content, reason):
    """It names the file even where that has a line break in it."""
    path = tmp_path / "bad\nfile"
    path.write_text(content)
    with pytest.raises(BoundaryError, match=reason) as caught:
        read(path)
    assert str(caught.value).startswith(f"{tmp_path}/bad file: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("read", [read_boundaries, read_rttm])
def test_files_that_cannot_be_read(tmp_path, read):
    (tmp_path / "speech.wav").write_bytes(b"RIFF\xff\xfe\x80\x90WAVE")
    for name, reason in [
        ("speech.wav", "speech.wav: not a text file"),
        ("none.txt", "none.txt: no such file"),
        (".", "cannot be read"),
    ]:
        with pytest.raises(BoundaryError, match=reason):
            read(tmp_path / name)


@pytest.fixture(scope="module")
def silero():
    pytest.importorskip("silero_vad")
    return SileroVAD()


def test_silero_finds_the_sentences(silero, recording):
    """Each is found, and the pauses between them are not."""
    path, spans = recording
    regions = silero([load_audio(path)])
    for start, end in spans:
        heard = sum(max(0, min(r.end, end) - max(r.start, start)) for r in regions)
        assert heard > 0.75 * (end - start)
    silent = [(a[1] + 0.2, b[0] - 0.2) for a, b in pairwise(spans)]
    assert not [r for r in regions for a, b in silent if r.start < b and r.end > a]


def test_silero_gives_the_same_as_its_own_function(silero, recording):
    """In blocks of any size, and again with the same object."""
    from silero_vad import get_speech_timestamps

    wav = load_audio(recording[0])
    expected = get_speech_timestamps(wav, silero.model, min_speech_duration_ms=100)
    for size in (512, 700, 16000, len(wav)):
        found = silero(iter(wav.split(size)))
        assert [round(region.start * RATE) for region in found] == [e["start"] for e in expected]
        assert [round(region.end * RATE) for region in found] == [e["end"] for e in expected]


def test_silero_hears_no_speech_where_there_is_none(silero):
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(10 * RATE)
    assert silero([]) == silero([torch.zeros(5 * RATE)]) == silero([noise]) == []


def test_silero_needs_no_network_and_keeps_the_threads():
    """Importing the package would leave torch with one thread."""
    program = (
        "import socket, torch\n"
        "def refuse(*args, **kwargs): raise OSError('no network here')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "torch.set_num_threads(3)\n"
        "from speechbrain_diffasr.segmentation import SileroVAD\n"
        "assert SileroVAD()([torch.zeros(16000)]) == []\n"
        "print(torch.get_num_threads())\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True)
    assert (done.stdout, done.stderr) == (b"3\n", b"")


def test_without_silero_there_is_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(MissingPackageError, match="not installed; pip install silero-vad, or"):
        SileroVAD()
