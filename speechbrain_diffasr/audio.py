"""Load, check, resample: a file or a tensor becomes 16 kHz mono, or one clear line of error."""

import contextlib
import functools
import math
import os
import re
import stat

import soundfile
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer

# How files begin that are met under audio names: (offset, bytes, what they are).
_CONVERT = "which soundfile cannot read; convert it, e.g. ffmpeg -i IN OUT.wav"
_NOT_AUDIO = [
    (0, b"PK\x03\x04", "starts with 'PK', a zip archive"),
    (0, b"\x1f\x8b", "is gzip-compressed; unpack it first"),
    (0, b"7z\xbc\xaf", "starts with '7z', a 7-Zip archive"),
    (0, b"Rar!", "starts with 'Rar!', a RAR archive"),
    (0, b"%PDF", "starts with '%PDF', a PDF document"),
    (0, b"\x89PNG", "starts with 'PNG', an image"),
    (0, b"\xff\xd8\xff", "is a JPEG image"),
    (0, b"GIF8", "starts with 'GIF8', an image"),
    (0, b"\x7fELF", "starts with 'ELF', a program"),
    (0, b"\x93NUMPY", "starts with 'NUMPY', a saved array"),
    (0, b"version https://git-lfs", "is a Git LFS pointer; run git lfs pull"),
    (4, b"ftyp", f"is MP4 or M4A, {_CONVERT}"),
    (0, b"\x1aE\xdf\xa3", f"is WebM or Matroska, {_CONVERT}"),
    (0, b"\x30\x26\xb2\x75", f"is WMA, {_CONVERT}"),
    (0, b"#!AMR", f"is AMR, {_CONVERT}"),
    (8, b"AVI ", f"is AVI, {_CONVERT}"),
]
_AUDIO_MAGIC = (b"RIFF", b"RF64", b"riff", b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"ID3")

# libsndfile shortens the sizes it reports to what the file holds; only its log keeps the claim.
_CLAIMED_SIZE = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
# Programs that write a WAV into a pipe cannot know its size and claim about 2 or 4 GiB.
_STREAM_SIZE = 0x7FFFF000
# Encoders disagree on whether the frame of an MP3 that carries the length, and the decoder's
# delay, count as audio: two frames of 1152 samples.
_MP3_SLACK = 2304
# A resampling filter bank has (rate / gcd) * (sample_rate / gcd) taps or more: 11127 Hz would
# take 24 s and 6 GB.
_MAX_TAPS = 10_000_000


class AudioError(ValueError):
    """A file or waveform cannot be transcribed.

    The message is one line: the name, the reason and, where there is one, the remedy.

    Arguments
    ---------
    name : str or Path
        The file, or what stands for it.
    reason : str
        What is wrong and what helps.

    Example
    -------
    >>> print(AudioError("a.wav", "the file is empty (0 bytes)"))
    a.wav: the file is empty (0 bytes)
    """

    def __init__(self, name, reason):
        super().__init__(" ".join(f"{os.fspath(name)}: {reason}".splitlines()))


def load_audio(path, sample_rate=16000, max_seconds=None):
    """Loads an audio file as the model wants it: mono, at its sample rate.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads, any rate, any number of channels (they are averaged).
    sample_rate : int
        Samples per second to return. Default: 16000.
    max_seconds : float, optional
        Longer audio is refused from its header, before anything is decoded. Default: no limit.

    Returns
    -------
    wav : torch.Tensor
        float32 in -1 … 1, [T].

    Raises
    ------
    AudioError
        If the file is missing, unreadable, empty, not audio, truncated, too long, silent to the
        last bit, or holds NaN or infinite samples.

    Example
    -------
    >>> tmpdir = getfixture("tmpdir")
    >>> audio_io.save(tmpdir / "stereo.wav", torch.rand(2, 44100), 44100)
    >>> load_audio(tmpdir / "stereo.wav").shape
    torch.Size([16000])
    """
    path = os.fspath(path)
    head = _read_head(path)
    # As bytes, because soundfile cannot encode names that are not valid UTF-8.
    file = os.fsencode(path) if os.name == "posix" else path
    header = _read_header(path, file, head)
    if max_seconds is not None:
        _check_length(path, header.frames, header.samplerate, max_seconds)
    _check_complete(path, header)
    if not header.frames:
        raise AudioError(path, "the file holds a header but no samples; record it again")

    try:
        audio, rate = audio_io.load(file, channels_first=False, dtype=torch.float32)  # [T, C]
    except RuntimeError as err:
        raise AudioError(path, _damaged(header.format, err.__cause__)) from None
    missing = header.frames - len(audio)
    if header.format == "MP3":
        missing = missing - _MP3_SLACK if _mp3_states_length(path) else 0
    if missing > 0:
        raise _truncated(path, len(audio) / rate, header.frames / rate)
    check_waveform(audio.flatten(), path)

    wav = _normalizer(sample_rate)(audio, _affordable_rate(rate, sample_rate))
    if max_seconds is not None:
        # Resampling rounds the length up; that the file is not too long is known by now.
        wav = wav[: math.ceil(max_seconds * sample_rate)]
    if not wav.any():
        raise AudioError(path, "the channels cancel out when mixed to mono; keep one of them")
    return wav.contiguous()


def check_waveform(wav, name, max_seconds=None, sample_rate=16000):
    """Checks that a waveform can be transcribed.

    Arguments
    ---------
    wav : torch.Tensor
        Floating-point samples, [T].
    name : str
        What the message calls it.
    max_seconds : float, optional
        Longest audio to accept. Default: no limit.
    sample_rate : int
        Samples per second of `wav`. Default: 16000.

    Raises
    ------
    AudioError
        If it is not [T], not floating-point, empty, too long, all zeros, or not finite.

    Example
    -------
    >>> check_waveform(torch.rand(16000), "noise", max_seconds=30)
    >>> check_waveform(torch.zeros(16000), "silence")
    Traceback (most recent call last):
    ...
    speechbrain_diffasr.audio.AudioError: silence: all samples are zero; there is nothing to hear
    """
    if wav.dim() != 1:
        shape = list(wav.shape)
        raise AudioError(name, f"a waveform of shape {shape}; expected mono samples, [T]")
    if not wav.is_floating_point():
        raise AudioError(name, f"samples of type {wav.dtype}; expected floats in -1 … 1")
    if not len(wav):
        raise AudioError(name, "no samples")
    if max_seconds is not None:
        _check_length(name, len(wav), sample_rate, max_seconds)
    bad = int((~wav.isfinite()).sum())
    if bad:
        raise AudioError(name, f"{bad} of {len(wav)} samples are NaN or infinite; export it again")
    if not wav.any():
        raise AudioError(name, "all samples are zero; there is nothing to hear")


@contextlib.contextmanager
def quiet_decoder():
    """Silences what the MP3 decoder writes to stderr past Python, for a program that reports itself.

    It turns file descriptor 2 of the whole process, so it is for programs with one thread.

    Example
    -------
    >>> with quiet_decoder():
    ...     _ = os.write(2, b"Note: Trying to resync...")
    """
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@functools.cache
def _normalizer(sample_rate):
    """One for all files, since it keeps the filters of every rate that it has met."""
    return AudioNormalizer(sample_rate)


def _affordable_rate(rate, sample_rate):
    """The rate itself, or one at most 0.5 % beside it whose resampling filters are small."""
    divisor = math.gcd(rate, sample_rate)
    if (rate // divisor) * (sample_rate // divisor) <= _MAX_TAPS:
        return rate
    grid = 10 ** max(1, len(str(rate)) - 4)
    return round(rate / grid) * grid


def _read_head(path):
    """The first bytes of a file that exists, is a regular file, may be read and is not empty."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(path, "a folder; name the audio files in it")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(path, "not a regular file; save the audio in a file first")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise AudioError(path, "no such file") from None
    except PermissionError:
        raise AudioError(path, "permission denied; make the file readable") from None
    except OSError as err:
        raise AudioError(path, f"cannot be read ({err.strerror})") from None
    if not head:
        raise AudioError(path, "the file is empty (0 bytes)")
    return head


def _read_header(path, file, head):
    """What soundfile knows of the file before decoding it."""
    try:
        header = soundfile.info(file)
    except soundfile.LibsndfileError as err:
        if head.startswith(_AUDIO_MAGIC) and head[8:12] != b"AVI ":
            kind = re.sub(rb"\W", b"", head[:4]).decode()
            raise AudioError(path, _damaged(kind, err)) from None
        raise AudioError(path, f"not audio (file {_looks_like(head)})") from None
    except TypeError:  # soundfile asks for the rate of .raw files
        raise AudioError(
            path, "samples without a header that gives their rate; convert it to WAV first"
        ) from None
    if header.frames >= 2**62:
        raise AudioError(path, "its header does not say how long it is; encode it to a file again")
    return header


def _looks_like(head):
    for offset, magic, kind in _NOT_AUDIO:
        if head.startswith(magic, offset):
            return kind
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page; the download failed"
    if not head.strip(b"\0"):
        return "starts with zero bytes only"
    # The last character may be cut in two.
    text = head.decode("utf-8", "ignore")
    if len(head) - len(text.encode()) < 4 and all(c.isprintable() or c.isspace() for c in text):
        return f"is text and starts with {text[:16]!r}"
    return "is of no known format"


def _damaged(kind, err):
    reason = getattr(err, "error_string", "the decoder failed").rstrip(".")
    # libsndfile has no code for an MP3 that its decoder refuses.
    if getattr(err, "code", None) == 7:
        reason = "no audio frames found"
    return f"truncated or damaged {kind} ({reason}); copy or download it again"


def _truncated(path, have, claimed):
    return AudioError(
        path,
        f"truncated: holds {have:.2f} of the {claimed:.2f} s that its header claims; "
        "copy or download it again",
    )


def _check_length(name, length, sample_rate, max_seconds):
    # The margin keeps the error of the product from refusing the longest audio allowed.
    if length <= math.ceil(max_seconds * sample_rate - 1e-6):
        return
    seconds = length / sample_rate
    digits = 1 if round(seconds, 1) > max_seconds else 4
    raise AudioError(
        name,
        f"{seconds:.{digits}f} s of audio, but this model hears {max_seconds:g} s at once; "
        "cut it into shorter pieces",
    )


def _check_complete(path, header):
    """Refuses a file that ends earlier than it says."""
    for claimed, have in _CLAIMED_SIZE.findall(header.extra_info):
        claimed, have = int(claimed), int(have)
        if have < claimed < _STREAM_SIZE:
            seconds = header.frames / header.samplerate
            raise _truncated(path, seconds, seconds * claimed / have if have else math.inf)
    if header.format == "OGG" and _ogg_ends_inside_a_page(path):
        raise AudioError(path, "truncated: ends inside a page; copy or download it again")


def _ogg_ends_inside_a_page(path):
    # libsndfile takes the last whole page for the end. Layout: RFC 3533, section 6.
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        while page := file.read(27):
            if not page.startswith(b"OggS"[: len(page)]):
                return False  # something else, such as a tag, was appended
            if len(page) < 27 or len(segments := file.read(page[26])) < page[26]:
                return True
            if file.seek(sum(segments), os.SEEK_CUR) > size:
                return True
    return False


def _mp3_states_length(path):
    """Whether an MP3 has a Xing or Info frame; without, its length is a guess by libsndfile."""
    with open(path, "rb") as file:
        tag = file.read(10)
        if tag.startswith(b"ID3"):
            # Seven bits to a byte: ID3v2.4, section 6.2.
            file.seek(10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0))))
        else:
            file.seek(0)
        frame = file.read(2048)
    return b"Xing" in frame or b"Info" in frame
