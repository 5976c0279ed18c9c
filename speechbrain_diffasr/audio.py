"""Load, check, resample: a file or a tensor becomes 16 kHz mono, or one clear line of error."""

import codecs
import contextlib
import functools
import math
import os
import re
import stat
import sys

import soundfile
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer

_EXAMPLE = "e.g. ffmpeg -i IN OUT.wav"
_CONVERT = f"which soundfile cannot read; convert it, {_EXAMPLE}"
# How files begin that are met under audio names: (offset, bytes, what they are).
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
    (0, b"\xff\xf1", f"is AAC, {_CONVERT}"),
    (0, b"\xff\xf9", f"is AAC, {_CONVERT}"),
    (0, b"#!AMR", f"is AMR, {_CONVERT}"),
    (8, b"AVI ", f"is AVI, {_CONVERT}"),
    (8, b"WEBP", "is a WebP image"),
]
_AUDIO = {
    b"RIFF": "WAV",
    b"RF64": "RF64",
    b"riff": "W64",
    b"FORM": "AIFF",
    b".snd": "AU",
    b"caff": "CAF",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
}

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

    Example
    -------
    >>> try:
    ...     load_audio("interview.wav")
    ... except AudioError as err:
    ...     print(err)
    interview.wav: no such file
    """


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
    file = _file_name(path)
    header = _read_header(path)
    if max_seconds is not None:
        _check_length(path, header.frames, header.samplerate, max_seconds)
    _check_complete(path, header)

    try:
        audio, rate = audio_io.load(file, channels_first=False, dtype=torch.float32)  # [T, C]
    except RuntimeError as err:
        if not isinstance(err.__cause__, soundfile.LibsndfileError):
            raise
        raise _error(path, _damaged(header.format, err.__cause__)) from None
    missing = header.frames - len(audio)
    if header.format == "MP3":
        missing = missing - _MP3_SLACK if _mp3_states_length(path) else 0
    if missing > 0:
        have, claimed = f"{len(audio) / rate:.2f}", f"{header.frames / rate:.2f} s"
        raise _error(path, _truncated(have, claimed))
    check_waveform(audio.flatten(), path)

    wav = _normalizer(sample_rate)(audio, _affordable_rate(rate, sample_rate))
    if max_seconds is not None:
        # Resampling rounds the length up; that the file is not too long is known by now.
        wav = wav[: math.ceil(max_seconds * sample_rate)]
    if not wav.any():
        raise _error(path, "the channels cancel out when mixed to mono; keep one of them")
    return wav.contiguous()


def check_audio(path):
    """Reads the header of an audio file and its last sample, which is quick.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads.

    Returns
    -------
    header
        What soundfile.info gives: frames, samplerate, channels and so on.

    Raises
    ------
    AudioError
        If the file is missing, unreadable, empty, not audio, or ends earlier than it says.

    Example
    -------
    >>> tmpdir = getfixture("tmpdir")
    >>> audio_io.save(tmpdir / "speech.flac", torch.rand(1, 24000), 16000)
    >>> check_audio(tmpdir / "speech.flac").frames
    24000
    """
    path = os.fspath(path)
    header = _read_header(path)
    _check_complete(path, header)
    last = header.frames - 1
    if header.format == "MP3":
        last = last - _MP3_SLACK if _mp3_states_length(path) else 0
    try:
        with soundfile.SoundFile(_file_name(path)) as file:
            file.seek(max(last, 0))
            complete = len(file.read(1)) == 1
    except soundfile.LibsndfileError as err:
        raise _error(path, _damaged(header.format, err)) from None
    if not complete:
        raise _error(path, "truncated; copy or download it again")
    return header


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
        raise _error(name, f"a waveform of shape {shape}; expected mono samples, [T]")
    if not wav.is_floating_point():
        raise _error(name, f"samples of type {wav.dtype}; expected floats in -1 … 1")
    if not len(wav):
        raise _error(name, "no samples")
    if max_seconds is not None:
        _check_length(name, len(wav), sample_rate, max_seconds)
    bad = int((~wav.isfinite()).sum())
    if bad:
        raise _error(name, f"{bad} of {len(wav)} samples are NaN or infinite; export it again")
    if not wav.any():
        raise _error(name, "all samples are zero; there is nothing to hear")


@contextlib.contextmanager
def quiet_decoder():
    """Silences what the MP3 decoder writes to stderr, past Python.

    It turns file descriptor 2 of the whole process, in all threads, so it is for programs that
    report errors themselves.

    Yields
    ------
    stderr : file
        Still reaches whoever reads stderr.

    Example
    -------
    >>> with quiet_decoder() as stderr:
    ...     _ = os.write(2, b"Note: Trying to resync...")
    """
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr
        yield sys.stderr
        return
    stderr = sys.stderr
    with contextlib.suppress(OSError, AttributeError, ValueError):
        if sys.stderr.fileno() == 2:
            stderr = os.fdopen(
                os.dup(saved), "w", 1, sys.stderr.encoding, sys.stderr.errors, closefd=True
            )
    try:
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield stderr
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        if stderr is not sys.stderr:
            stderr.close()


def _error(name, reason):
    # A file name may hold line breaks, a message may not.
    return AudioError(" ".join(f"{os.fspath(name)}: {reason}".splitlines()))


@functools.cache
def _normalizer(sample_rate):
    """One for all files, since it keeps the filters of every rate that it has met."""
    return AudioNormalizer(sample_rate)


def _affordable_rate(rate, sample_rate):
    """The rate itself, or one that needs small filters: 0.1 % beside it, 1 % below 5 kHz."""
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
            raise _error(path, "a folder; name the audio files in it")
        if not stat.S_ISREG(status.st_mode):
            raise _error(path, "not a regular file; save the audio in a file first")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise _error(path, "no such file") from None
    except PermissionError:
        raise _error(path, "permission denied; make the file readable") from None
    except OSError as err:
        raise _error(path, f"cannot be read ({err.strerror})") from None
    if not head:
        raise _error(path, "the file is empty (0 bytes)")
    return head


def _file_name(path):
    # As bytes, because soundfile cannot encode names that are not valid UTF-8.
    return os.fsencode(path) if os.name == "posix" else path


def _read_header(path):
    """What soundfile knows of the file before decoding it."""
    head = _read_head(path)
    try:
        header = soundfile.info(_file_name(path))
    except soundfile.LibsndfileError as err:
        kind = _audio_kind(head)
        reason = _damaged(kind, err) if kind else f"not audio (file {_looks_like(head)})"
        raise _error(path, reason) from None
    except TypeError:  # soundfile asks for the rate of .raw files
        raise _error(
            path, "samples without a header that gives their rate; convert it to WAV first"
        ) from None
    if header.frames >= 2**62:
        raise _error(path, "its header does not say how long it is; encode it to a file again")
    return header


def _audio_kind(head):
    """The format that the first bytes promise, or None."""
    if any(head.startswith(magic, offset) for offset, magic, _ in _NOT_AUDIO):
        return None
    # An MPEG frame begins with eleven set bits and a layer that is not 0 (which is AAC).
    if len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0 and head[1] & 0x06:
        return "MP3"
    return next((kind for magic, kind in _AUDIO.items() if head.startswith(magic)), None)


def _looks_like(head):
    """What a file that is no audio begins like."""
    for offset, magic, kind in _NOT_AUDIO:
        if head.startswith(magic, offset):
            return kind
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page; the download failed"
    if not head.strip(b"\0"):
        return "starts with zero bytes only"
    with contextlib.suppress(UnicodeDecodeError):
        # Incremental, because the last character may be cut in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
        if all(c.isprintable() or c.isspace() for c in text):
            return f"is text and starts with {text[:16]!r}"
    return "is of no known format"


def _damaged(kind, err):
    """Why libsndfile gave up on what begins like audio."""
    # libsndfile's own words for an MP3 that its decoder refuses are about pipes.
    reason = "no audio frames found" if err.code == 7 else err.error_string.rstrip(".")
    if "unimplemented" in reason or "nsupported" in reason:
        return f"a kind of {kind} that soundfile cannot read ({reason}); convert it, {_EXAMPLE}"
    return f"truncated or damaged {kind} ({reason}); copy or download it again"


def _truncated(have, claimed):
    return f"truncated: holds {have} of the {claimed} that it claims; copy or download it again"


def _check_length(name, length, sample_rate, max_seconds):
    # The margin keeps the error of the product from refusing the longest audio allowed.
    if length <= math.ceil(max_seconds * sample_rate - 1e-6):
        return
    seconds = length / sample_rate
    digits = 1 if round(seconds, 1) > max_seconds else 4
    raise _error(
        name,
        f"{seconds:.{digits}f} s of audio, but this model hears {max_seconds:g} s at once; "
        "cut it into shorter pieces",
    )


def _check_complete(path, header):
    """Refuses a file that holds nothing or ends earlier than it says."""
    for claimed, have in _CLAIMED_SIZE.findall(header.extra_info):
        if int(have) < int(claimed) < _STREAM_SIZE:
            raise _error(path, _truncated(have, f"{claimed} bytes"))
    if header.format == "OGG" and _ogg_ends_inside_a_page(path):
        raise _error(path, "truncated: ends inside a page; copy or download it again")
    if not header.frames:
        raise _error(path, "the file holds a header but no samples; record it again")


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
            file.seek(
                10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
            )
        else:
            file.seek(0)
        frame = file.read(2048)
    return b"Xing" in frame or b"Info" in frame
