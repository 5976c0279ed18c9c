"""Headers that are wrong: all of what is in a file is heard, or one line says what is not."""

import io
import struct

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_diffasr.dataio import AudioStream, load_audio
from speechbrain_diffasr.dataio.audio import check_audio
from speechbrain_diffasr.utils.errors import AudioError

RATE = 16000


def tone(hertz, seconds, channels=1):
    time = np.arange(round(RATE * seconds)) / RATE
    wav = 0.4 * np.sin(2 * np.pi * hertz * time)
    return np.repeat(wav[:, None], channels, axis=1) if channels > 1 else wav


FIRST, SECOND = tone(440, 1.0), tone(1320, 1.5)
BOTH = np.concatenate([FIRST, SECOND])


def encoded(wav, kind, subtype=None, rate=RATE, **options):
    file = io.BytesIO()
    soundfile.write(file, wav, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


def with_bytes(data, place, new):
    return data[:place] + new + data[place + len(new) :]


def wav_with(size, data=None, riff=None):
    """A WAV whose data chunk, and RIFF chunk, claim so many bytes."""
    data = encoded(BOTH, "WAV") if data is None else data
    place = data.index(b"data") + 4
    data = with_bytes(data, place, struct.pack("<I", size))
    return data if riff is None else with_bytes(data, 4, struct.pack("<I", riff))


def aiff_with(size, frames):
    data = encoded(BOTH, "AIFF")
    data = with_bytes(data, data.index(b"SSND") + 4, struct.pack(">I", size))
    return with_bytes(data, data.index(b"COMM") + 10, struct.pack(">I", frames))


def rf64_with(size):
    data = encoded(BOTH, "RF64")
    return with_bytes(data, data.index(b"ds64") + 16, struct.pack("<Q", size))


def w64_with(size):
    data = encoded(BOTH, "W64")
    return with_bytes(data, data.index(b"data") + 16, struct.pack("<Q", size))


def caf_with(size):
    data = encoded(BOTH, "CAF")
    return with_bytes(data, data.index(b"data") + 4, struct.pack(">q", size))


def au_with(size, **options):
    code = "<I" if options else ">I"
    return with_bytes(encoded(BOTH, "AU", "PCM_16", **options), 8, struct.pack(code, size))


def flac_with(total, data=None):
    data = encoded(BOTH, "FLAC") if data is None else data
    field = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    return with_bytes(data, 18, field.to_bytes(8, "big"))


LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"
ODD = (np.arange(8001) % 200 / 255).astype(np.float32)

WHOLE = {
    "WAV, size 0": wav_with(0),
    "WAV, size 0 and RIFF size 0": wav_with(0, riff=0),
    "WAV, written early": wav_with(2000, riff=2036),
    "WAV, one sample claimed": wav_with(2),
    **{
        f"WAV from a pipe, {size:#x}": wav_with(size)
        for size in (0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x80000000, 0x7FFFF000)
    },
    "WAV from a pipe, 0x7FFFF024": wav_with(0x7FFFF024, riff=0x7FFFF048),
    "WAV and WAV": encoded(FIRST, "WAV") + encoded(SECOND, "WAV"),
    "WAV with a list and WAV": encoded(FIRST, "WAV") + LIST + encoded(SECOND, "WAV"),
    "three WAVs": b"".join(encoded(part, "WAV") for part in np.split(BOTH, [5000, 16000])),
    "big-endian WAV, size 0": with_bytes(
        data := encoded(BOTH, "WAV", endian="BIG"), data.index(b"data") + 4, bytes(4)
    ),
    "big-endian WAVs": encoded(FIRST, "WAV", endian="BIG") + encoded(SECOND, "WAV", endian="BIG"),
    "RF64, size 0": rf64_with(0),
    "RF64, too small": rf64_with(4000),
    "RF64 from a pipe": rf64_with(0xFFFFFFFF),
    "W64, too small": w64_with(4024),
    "W64, size 0": w64_with(24),
    "W64 and W64": encoded(FIRST, "W64") + encoded(SECOND, "W64"),
    "AIFF from sox": aiff_with(0x7F000008, 0x3F800000),
    "AIFF, zeros": aiff_with(0, 0),
    "AIFF, no samples claimed": aiff_with(8, 0),
    "AIFF, too small": aiff_with(2008, 1000),
    "AIFF from a pipe": aiff_with(0xFFFFFFFF, 0xFFFFFFFF),
    "AIFF and AIFF": encoded(FIRST, "AIFF") + encoded(SECOND, "AIFF"),
    "AU, not known": au_with(0xFFFFFFFF),
    "AU, size 0": au_with(0),
    "AU, too small": au_with(2000),
    "little-endian AU, too small": au_with(2000, endian="LITTLE"),
    "AU and AU": encoded(FIRST, "AU") + encoded(SECOND, "AU"),
    "CAF, not known": caf_with(-1),
    "CAF, too small": caf_with(4004),
    "FLAC, not known": flac_with(0),
    "FLAC, too few": flac_with(5000),
    "FLAC and FLAC": encoded(FIRST, "FLAC") + encoded(SECOND, "FLAC"),
    "FLACs of one length": encoded(BOTH[:20000], "FLAC") + encoded(BOTH[20000:], "FLAC"),
    "FLACs, neither known": flac_with(0, encoded(FIRST, "FLAC"))
    + flac_with(0, encoded(SECOND, "FLAC")),
    "FLAC behind ID3": b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + flac_with(0),
    "FLAC before ID3v1": flac_with(5000) + b"TAG" + bytes(125),
}


def saved(folder, data, name="a.wav"):
    path = folder / name
    path.write_bytes(data)
    return str(path)


def heard_in_blocks(path):
    return torch.cat(list(AudioStream(path).blocks()))


@pytest.mark.parametrize("name", WHOLE)
def test_all_samples_are_heard(name, tmp_path):
    path = saved(tmp_path, WHOLE[name])
    expected = torch.from_numpy(np.round(BOTH * 2**15) / 2**15).float()
    wav = load_audio(path)
    assert len(wav) == len(expected)
    assert (wav - expected).abs().max() < 2 / 2**15
    assert torch.equal(heard_in_blocks(path), wav)
    assert check_audio(path).frames == len(expected)
    assert check_audio(path).duration == AudioStream(path).seconds == 2.5


UNCHANGED = {
    "WAV with a list": encoded(BOTH, "WAV") + LIST,
    "WAV with a list that was cut": encoded(BOTH, "WAV") + LIST[:-9],
    "WAV with ID3v1": encoded(BOTH, "WAV") + b"TAG" + bytes(125),
    "WAV with zeros": encoded(BOTH, "WAV") + bytes(64),
    "AIFF with a name": encoded(BOTH, "AIFF") + b"NAME" + struct.pack(">I", 4) + b"call",
    "FLAC with ID3v1": encoded(BOTH, "FLAC") + b"TAG" + bytes(125),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_stands_behind_the_samples_is_no_sound(name, tmp_path):
    path = saved(tmp_path, UNCHANGED[name])
    assert len(load_audio(path)) == check_audio(path).frames == len(BOTH)


@pytest.mark.parametrize("pad", [b"", b"\0"])
def test_an_odd_number_of_bytes_may_be_padded(pad, tmp_path):
    data = encoded(ODD, "WAV", "PCM_U8")
    size = struct.pack("<I", 8001)
    body = data[: data.index(b"data") + 4] + size + data[data.index(b"data") + 8 :][:8001]
    assert check_audio(saved(tmp_path, body + pad + LIST)).frames == 8001


def joined(kind, subtype):
    return b"".join(encoded(part, kind, subtype) for part in (FIRST, SECOND))


def mp3(wav, **options):
    return encoded(wav, "MP3", "MPEG_LAYER_III", **options)


def xing_place(data):
    return max(data.find(b"Xing"), data.find(b"Info"))


def without_xing(data):
    """The frames behind the one that tells the length."""
    xing = xing_place(data)
    start = data.rfind(b"\xff", 0, xing)
    return data[data.index(data[start : start + 2], xing) :]


def in_wav(data, size=None):
    """MP3 as the data of a WAV."""
    head = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 576, 1, 0)
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


VARIABLE = mp3(BOTH, bitrate_mode="VARIABLE", compression_level=0.3)
NOISE = np.random.default_rng(0).normal(0, 0.1, 4000)
BURST = mp3(np.concatenate([NOISE, BOTH]), bitrate_mode="VARIABLE", compression_level=0.3)
LOSSY = {
    "Ogg and Ogg": joined("OGG", "VORBIS"),
    "Opus and Opus": joined("OGG", "OPUS"),
    "Ogg and a tag": joined("OGG", "VORBIS") + b"TAG" + bytes(125),
    "MP3 and MP3": mp3(FIRST) + mp3(SECOND),
    "MP3 with a tag and MP3": mp3(FIRST) + b"ID3\4\0\0\0\0\0\x0a" + b"\xff\xfb" * 5 + mp3(SECOND),
    "MP3 that claims ten frames": with_bytes(
        VARIABLE, xing_place(VARIABLE) + 8, struct.pack(">I", 10)
    ),
    "MP3 without a length": without_xing(VARIABLE),
    "MP3s without a length": without_xing(mp3(FIRST)) + without_xing(mp3(SECOND)),
    "MP3 in a WAV": in_wav(mp3(BOTH)),
    "MP3 in a WAV, size 0": in_wav(mp3(BOTH), 0),
    "MP3 without a length in a WAV": in_wav(without_xing(VARIABLE)),
}


def loudness(wav, hertz):
    """How loud a tone is in every tenth of a second."""
    wav = wav[: len(wav) // 1600 * 1600].reshape(-1, 1600)
    time = torch.arange(1600) / RATE
    return (wav * torch.exp(2j * torch.pi * hertz * time)).mean(dim=1).abs()


@pytest.mark.parametrize("name", LOSSY)
def test_both_tones_are_heard(name, tmp_path):
    path = saved(tmp_path, LOSSY[name])
    wav = load_audio(path)
    assert abs(len(wav) - len(BOTH)) < 4 * 1152
    assert (loudness(wav, 440) > 0.1).sum() in range(8, 12)
    assert (loudness(wav, 1320) > 0.1).sum() in range(13, 17)
    torch.testing.assert_close(heard_in_blocks(path), wav)
    assert abs(check_audio(path).frames - len(wav)) <= 2 * 2304


def test_a_wrong_guess_of_libsndfile_is_put_right(tmp_path):
    path = saved(tmp_path, without_xing(BURST), "a.mp3")
    assert soundfile.info(path).frames < len(BOTH), "this file tests nothing"
    wav = load_audio(path)
    assert len(wav) >= len(NOISE) + len(BOTH)
    assert (loudness(wav, 1320) > 0.1).sum() in range(13, 17)


LINES = {
    "WAV, cut at 2.5 GiB": (wav_with(2684354560), "holds 80000 of the 2684354560 bytes"),
    "WAV, cut": (wav_with(80002), "holds 80000 of the 80002 bytes"),
    "RF64, cut": (rf64_with(90000), "holds 80000 of the 90000 bytes"),
    "W64, cut": (w64_with(90024), "holds 80000 of the 90000 bytes"),
    "AIFF, cut": (aiff_with(90008, 45000), "holds 80000 of the 90000 bytes"),
    "AU, cut": (au_with(90000), "holds 80000 of the 90000 bytes"),
    "CAF, cut": (caf_with(90004), "holds 80000 of the 90000 bytes"),
    "FLAC, cut": (flac_with(90000), "truncated"),
    "MP3, cut": (VARIABLE[: len(VARIABLE) // 2], "truncated: holds"),
    "joined MP3, cut": (mp3(FIRST) + VARIABLE[: len(VARIABLE) // 2], "truncated: holds"),
    "joined Ogg, cut": (joined("OGG", "VORBIS")[:-100], "truncated: ends inside a page"),
    "two rates of Ogg": (
        encoded(FIRST, "OGG") + encoded(SECOND, "OGG", rate=8000),
        "16000 Hz with 1 channel(s), then 8000 Hz with 1 channel(s); cut them apart, e.g. ffmpeg",
    ),
    "two rates of FLAC": (
        encoded(FIRST, "FLAC") + encoded(SECOND, "FLAC", rate=8000),
        "recordings of different kinds are joined",
    ),
    "two rates of MP3": (mp3(FIRST) + mp3(SECOND, rate=44100), "then 44100 Hz"),
    "mono and stereo WAV": (
        encoded(FIRST, "WAV") + encoded(tone(440, 1, 2), "WAV"),
        "1 channel(s), then 16000 Hz with 2 channel(s)",
    ),
    "WAV without samples": (encoded(BOTH[:0], "WAV"), "a header but no samples"),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("read", [load_audio, check_audio, heard_in_blocks])
def test_one_line_says_what_is_not_heard(name, read, tmp_path):
    data, words = LINES[name]
    path = saved(tmp_path, data)
    with pytest.raises(AudioError) as caught:
        read(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: ") and words in line


@pytest.mark.parametrize("first", ["WAV", "AIFF", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("second", ["WAV", "AIFF", "FLAC", "OGG"])
def test_a_recording_of_another_format_behind_does_not_vanish(first, second, tmp_path):
    one, other = encoded(FIRST, first), encoded(SECOND, second)
    if first == second:
        assert check_audio(saved(tmp_path, one + other)).duration == pytest.approx(2.5, abs=0.01)
        return
    with pytest.raises(AudioError) as caught:
        load_audio(saved(tmp_path, one + other))
    assert f"tail -c +{len(one) + 1} IN > SECOND.{second.lower()}" in str(caught.value)


def test_a_size_that_wrapped_at_4_gib(tmp_path):
    path = tmp_path / "a.wav"
    data = encoded(FIRST, "WAV")
    held = 2**32 + 32000  # a hole, which takes no space on the disk
    with open(path, "wb") as file:
        file.write(wav_with(held % 2**32, data))
        file.truncate(44 + held)
    assert check_audio(path).frames == held // 2
    first = next(AudioStream(path).blocks())
    assert torch.equal(first[:16000], load_audio(saved(tmp_path, data, "b.wav")))
