"""Calls with a person on each channel: who says what, when, in every format."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_diffasr import DiffusionASR, cli, shipped_model
from speechbrain_diffasr.transcripts.writers import FORMATS

SAMPLES = Path(shipped_model("diffasr-tiny")) / "samples"
PAIR = ("de_1", "en_1")


def read(name):
    return soundfile.read(SAMPLES / f"{name}.wav")[0], (SAMPLES / f"{name}.txt").read_text().strip()


(LEFT, LEFT_TEXT), (RIGHT, RIGHT_TEXT) = map(read, PAIR)


def stereo(path, *channels):
    length = max(map(len, channels))
    wav = np.stack([np.pad(one, (0, length - len(one))) for one in channels], axis=1)
    soundfile.write(path, wav, 16000)
    return str(path)


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Both at once."""
    return stereo(tmp_path_factory.mktemp("call") / "call.wav", LEFT, RIGHT)


@pytest.fixture(scope="module")
def long_call(tmp_path_factory):
    """In turns, for longer than is heard at once."""
    gap = np.zeros(16000)
    left, right = [], []
    for index in range(8):
        mine, yours = (LEFT, RIGHT) if index % 2 == 0 else (RIGHT, LEFT)
        del yours
        said = np.concatenate([mine, gap])
        (left if index % 2 == 0 else right).append(said)
        (right if index % 2 == 0 else left).append(0 * said)
    return stereo(
        tmp_path_factory.mktemp("call") / "long.wav", np.concatenate(left), np.concatenate(right)
    )


def spoken(transcript):
    return [(part.speaker, part.text) for part in transcript.segments]


@pytest.mark.parametrize("channels", ["auto", "separate"])
def test_each_channel_is_a_speaker(asr, call, channels):
    transcript = asr.transcribe_long(call, channels=channels)
    assert spoken(transcript) == [("left", LEFT_TEXT), ("right", RIGHT_TEXT)]
    assert transcript.channels == ("left", "right")
    assert bool(transcript.notes) == (channels == "auto")
    assert transcript.duration == pytest.approx(max(len(LEFT), len(RIGHT)) / 16000)
    for part, wav in zip(transcript.segments, (LEFT, RIGHT), strict=True):
        assert [word.text for word in part.words] == part.text.split()
        assert all(0 <= word.start <= word.end <= len(wav) / 16000 for word in part.words)


def test_a_channel_says_what_it_says_alone(asr, call, tmp_path):
    apart = asr.transcribe_long(call, channels="separate")
    for index, part in enumerate(apart.segments):
        wav, rate = soundfile.read(call)
        soundfile.write(tmp_path / "one.wav", wav[:, index], rate)
        alone = asr.transcribe_long(tmp_path / "one.wav")
        assert [(word.text, word.start, word.end) for word in alone.words] == [
            (word.text, word.start, word.end) for word in part.words
        ]


def test_the_first_alone(asr, call, caplog):
    assert asr.transcribe_file(call, channels="first") == LEFT_TEXT
    assert not caplog.records


def test_a_mix_of_both_has_a_warning(asr, call, caplog):
    transcript = asr.transcribe_long(call, channels="mix")
    assert transcript.speakers == [] and transcript.channels == ()
    (record,) = caplog.records
    assert "two channels with different speech are mixed" in record.getMessage()
    assert call in record.getMessage()


def test_the_same_on_both_is_mixed_without_a_word(asr, tmp_path, caplog):
    path = stereo(tmp_path / "a.wav", LEFT, 0.8 * LEFT)
    assert asr.transcribe_file(path) == LEFT_TEXT
    assert not caplog.records


def test_long_calls_are_cut_on_each_channel(asr, long_call):
    transcript = asr.transcribe_long(long_call, segmentation="fixed")
    assert transcript.duration > asr.max_seconds
    assert {name for name, _ in spoken(transcript)} == {"left", "right"}
    starts = [part.start for part in transcript.segments]
    assert starts == sorted(starts)
    said = {name: " ".join(t for who, t in spoken(transcript) if who == name)
            for name in ("left", "right")}  # fmt: skip
    assert said["left"].split().count(LEFT_TEXT.split()[0]) >= 3
    assert said["right"].split().count(RIGHT_TEXT.split()[-1]) >= 3


def test_many_files_among_them_calls(asr, call, tmp_path):
    mono = str(SAMPLES / "fr_1.wav")
    cancelled = stereo(tmp_path / "c.wav", LEFT, -LEFT)
    silent = stereo(tmp_path / "s.wav", LEFT, 0 * LEFT)
    paths = [mono, call, cancelled, silent, call]
    results = dict(asr.stream_files(paths, batch_size=3, words=True))
    assert sorted(results) == list(range(5))
    assert "cancel out" in str(results[2])
    assert spoken(results[1]) == spoken(results[4]) == [("left", LEFT_TEXT), ("right", RIGHT_TEXT)]
    assert results[0].text == (SAMPLES / "fr_1.txt").read_text().strip()
    assert results[3].text == LEFT_TEXT
    apart = dict(asr.stream_files(paths[2:4], channels="separate"))
    assert spoken(apart[0])[0] == ("left", LEFT_TEXT)
    assert spoken(apart[1]) == [("left", LEFT_TEXT)]


def test_three_channels(asr, tmp_path):
    path = stereo(tmp_path / "a.wav", LEFT, 0 * LEFT, RIGHT)
    transcript = asr.transcribe_long(path, channels="separate")
    assert spoken(transcript) == [("channel 1", LEFT_TEXT), ("channel 3", RIGHT_TEXT)]
    assert FORMATS["ctm"](transcript).splitlines()[-1].startswith("a 3 ")


def test_what_does_not_go_together(asr, call):
    with pytest.raises(ValueError, match="channels: 'both' is unknown; choose auto, mix, first"):
        asr.transcribe_file(call, channels="both")
    turns = [(0.0, 1.0)]
    with pytest.raises(ValueError, match="separate makes each a speaker; give no turns with it"):
        asr.transcribe_file(call, channels="separate", turns=turns)


def test_times_and_speakers_in_every_format(asr, call):
    transcript = asr.transcribe_long(call)
    written = {kind: write(transcript) for kind, write in FORMATS.items()}
    assert written["text"] == f"left: {LEFT_TEXT}\nright: {RIGHT_TEXT}\n"
    assert f"<v left>{LEFT_TEXT}" in written["vtt"]
    assert LEFT_TEXT in written["srt"] and RIGHT_TEXT in written["srt"]
    assert [part["speaker"] for part in json.loads(written["json"])["segments"]] == [
        "left", "right",
    ]  # fmt: skip
    words = [(line.split()[1], line.split()[4]) for line in written["ctm"].splitlines()]
    assert words == [("1", word) for word in LEFT_TEXT.split()] + [
        ("2", word) for word in RIGHT_TEXT.split()
    ]
    lines = [line.split() for line in written["rttm"].splitlines() if line[:7] == "SPEAKER"]
    assert [(line[2], line[7]) for line in lines] == [("1", "left"), ("2", "right")]
    assert "left: words" in written["textgrid"] and "right: words" in written["textgrid"]


def test_the_command_line(call, tmp_path, capfd):
    def run(*arguments):
        status = cli.main(["transcribe", *arguments])
        return (status, *capfd.readouterr())

    note = f"diffasr: {call}: two channels with different speech: each is heard by itself\n"
    assert run(call) == (0, f"left: {LEFT_TEXT}\nright: {RIGHT_TEXT}\n", note)
    assert run(call, "--channels", "first") == (0, f"{LEFT_TEXT}\n", "")
    folder, output = str(Path(call).parent), str(tmp_path / "out")
    status, _, err = run("--manifest", folder, "--output", output, "--channels", "mix")
    assert status == 0 and "are mixed" in err
    rttm = tmp_path / "a.rttm"
    rttm.write_text("SPEAKER call 1 0 1 <NA> <NA> anna <NA> <NA>\n")
    status, out, err = run(call, "--rttm", str(rttm))
    assert out.startswith("anna: ") and "are mixed" in err
    status, _, err = run(call, "--channels", "separate", "--rttm", str(rttm))
    assert status == 2 and "--channels: separate makes each a speaker" in err
