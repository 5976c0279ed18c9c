"""What an audio file is before it is decoded, or one clear line of error."""

import codecs
import contextlib
import math
import os
import stat
from dataclasses import dataclass

import soundfile

from speechbrain_diffasr.dataio import foreign
from speechbrain_diffasr.dataio.containers import MP3_SLACK, find_parts, wav_codec
from speechbrain_diffasr.utils.errors import AudioError

_EXAMPLE = "e.g. ffmpeg -i IN OUT.wav"
_AGAIN = f"encode it to a file again, {_EXAMPLE}"
_SPLIT = "cut them apart, e.g. ffmpeg -i IN OUT.wav"
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
    (8, b"WEBP", "is a WebP image"),
]
# Sound that libsndfile cannot open: (offset, bytes, format).
_FOREIGN = [
    (4, b"ftyp", "MP4 or M4A"),
    (4, b"moov", "QuickTime"),
    (4, b"mdat", "QuickTime"),
    (4, b"wide", "QuickTime"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"\x30\x26\xb2\x75", "WMA"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"#!AMR", "AMR"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV\x01", "Flash video"),
    (0, b"\0\0\x01\xba", "MPEG video"),
    (0, b"\x0bw", "AC-3"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"TTA1", "True Audio"),
    (0, b".RMF", "RealMedia"),
]
_AUDIO = {
    b"RIFF": "WAV",
    b"RIFX": "WAV",
    b"RF64": "RF64",
    b"riff": "W64",
    b"FORM": "AIFF",
    b".snd": "AU",
    b"dns.": "AU",
    b"caff": "CAF",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
}


@dataclass(frozen=True)
class Header:
    """What an audio file holds.

    Arguments
    ---------
    frames : int
        Samples of each channel, of all its parts.
    samplerate : int
        In Hz.
    channels : int
    format, subtype : str
        The names of libsndfile.
    parts : tuple of Part
        What is read one behind the other; none if it is the file as it is.
    is_foreign : bool
        Whether it is not libsndfile that reads it, but `foreign`. Default: False.
    """

    frames: int
    samplerate: int
    channels: int
    format: str
    subtype: str
    parts: tuple = ()
    is_foreign: bool = False

    @property
    def duration(self):
        """Seconds."""
        return self.frames / self.samplerate

    @property
    def slack(self):
        """Samples that may be fewer than the file says: see `MP3_SLACK` and `foreign.SLACK`."""
        if self.is_foreign:
            return round(foreign.SLACK * self.samplerate)
        return MP3_SLACK * max(1, len(self.parts)) if self.format == "MP3" else 0

    def sources(self, path):
        """What soundfile is to be given, part after part.

        Arguments
        ---------
        path : str

        Yields
        ------
        source : str or bytes or file
            A file is closed when the next one is asked for.
        """
        if not self.parts and not self.is_foreign:
            yield file_name(path)
        for part in self.parts:
            with part.open(path) as view:
                yield view


def _read_head(path):
    """The first bytes of a file that exists, is a regular file, may be read and is not empty."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            if not os.access(path, os.R_OK | os.X_OK):
                raise AudioError.of(path, "permission denied; make the folder readable")
            raise AudioError.of(path, "a folder; name the audio files in it")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError.of(path, "not a regular file; save the audio in a file first")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise AudioError.of(path, "no such file") from None
    except AudioError:
        raise
    except ValueError:
        raise AudioError.of(path, "no file can have this name (it holds a zero byte)") from None
    except PermissionError:
        raise AudioError.of(path, "permission denied; make the file readable") from None
    except OSError as err:
        raise AudioError.of(path, f"cannot be read ({err.strerror})") from None
    if not head:
        raise AudioError.of(path, "the file is empty (0 bytes)")
    return head


def file_name(path):
    """What soundfile is to be given for a path."""
    # As bytes, because soundfile cannot encode names that are not valid UTF-8.
    return os.fsencode(path) if os.name == "posix" else path


def read_header(path):
    """Finds out what an audio file holds, without decoding it.

    Arguments
    ---------
    path : str

    Returns
    -------
    header : Header

    Raises
    ------
    AudioError
        If there is no such file, it is not audio, holds nothing, or ends earlier than it says.
    """
    head = _read_head(path)
    kind = _audio_kind(head)
    other = _starts(head, _FOREIGN)
    if other is not None:
        return _read_foreign(path, other, f"{other}, which soundfile cannot read")
    try:
        parts = tuple(find_parts(path, kind))
        empty = Header(0, 1, 1, "", "", parts)
        infos = [soundfile.info(source) for source in empty.sources(path)]
    except soundfile.LibsndfileError as err:
        if not kind:
            raise AudioError.of(path, f"not audio (file {_looks_like(head)})") from None
        codec = wav_codec(path) if kind == "WAV" else None
        if codec is not None:
            reason = f"a WAV with {codec} in it, which soundfile cannot read"
            return _read_foreign(path, kind, reason)
        if _is_unsupported(err):
            return _read_foreign(path, kind, _unsupported(kind, err))
        raise AudioError.of(path, damaged(kind, err)) from None
    except TypeError:  # soundfile asks for the rate of .raw files
        raise AudioError.of(
            path, "samples without a header that gives their rate; convert it to WAV first"
        ) from None
    except OSError as err:
        raise AudioError.of(path, f"cannot be read ({err.strerror})") from None
    kinds = dict.fromkeys((info.samplerate, info.channels) for info in infos)
    if len(kinds) > 1:
        told = ", then ".join(f"{rate} Hz with {channels} channel(s)" for rate, channels in kinds)
        raise AudioError.of(path, f"recordings of different kinds are joined: {told}; {_SPLIT}")
    frames = sum(info.frames for info in infos)
    if frames >= 2**62:
        raise AudioError.of(path, f"its header does not say how long it is; {_AGAIN}")
    if not frames:
        raise AudioError.of(path, "the file holds a header but no samples; record it again")
    first = infos[0]
    return Header(frames, first.samplerate, first.channels, first.format, first.subtype, parts)


def _read_foreign(path, kind, reason):
    """The header of what libsndfile cannot read, if something else can."""
    if not foreign.is_installed():
        raise AudioError.of(path, f"{reason}; {foreign.INSTALL}, or convert it, {_EXAMPLE}")
    frames, rate, channels, codec = foreign.describe(path, kind)
    if not frames:
        raise AudioError.of(path, f"damaged {kind}: no sound can be decoded; copy it again")
    return Header(frames, rate, channels, kind, codec, is_foreign=True)


def _starts(head, known):
    """What of a list of (offset, bytes, what it is) a file begins like, or None."""
    return next((what for offset, magic, what in known if head.startswith(magic, offset)), None)


def _audio_kind(head):
    """The format that the first bytes promise, or None."""
    if _starts(head, _NOT_AUDIO) or _starts(head, _FOREIGN):
        return None
    # An MPEG frame begins with eleven set bits and a layer that is not 0 (which is AAC).
    if len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0 and head[1] & 0x06:
        return "MP3"
    return next((kind for magic, kind in _AUDIO.items() if head.startswith(magic)), None)


def _looks_like(head):
    """What a file that is no audio begins like."""
    if kind := _starts(head, _NOT_AUDIO):
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


def damaged(kind, err):
    """Why libsndfile gave up on what begins like audio: the reason of an `AudioError`."""
    if _is_unsupported(err):
        return f"{_unsupported(kind, err)}; convert it, {_EXAMPLE}"
    return f"truncated or damaged {kind} ({_words(err)}); copy or download it again"


def _unsupported(kind, err):
    return f"a kind of {kind} that soundfile cannot read ({_words(err)})"


def _words(err):
    # libsndfile's own words for an MP3 that its decoder refuses are about pipes.
    return "no audio frames found" if err.code == 7 else err.error_string.rstrip(".")


def _is_unsupported(err):
    return "unimplemented" in err.error_string or "nsupported" in err.error_string


def check_length(name, length, sample_rate, max_seconds):
    """Refuses more audio than a model hears at once."""
    if fits(length, sample_rate, max_seconds):
        return
    seconds = length / sample_rate
    digits = 1 if round(seconds, 1) > max_seconds else 4
    raise AudioError.of(
        name,
        f"{seconds:.{digits}f} s of audio, but this model hears {max_seconds:g} s at once; "
        "cut it into shorter pieces",
    )


def fits(length, sample_rate, max_seconds):
    """Whether so many samples are no more than so many seconds."""
    # The margin keeps the error of the product from refusing the longest audio allowed.
    return length <= math.ceil(max_seconds * sample_rate - 1e-6)


def file_seconds(path):
    """How long a file says it is, to sort by; nothing is checked.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    seconds : float
        0 if it cannot be told, and for what is no file.

    Example
    -------
    >>> file_seconds("missing.wav")
    0.0
    """
    # A named pipe would be waited for.
    if not os.path.isfile(path):
        return 0.0
    try:
        return soundfile.info(file_name(path)).duration
    except (OSError, RuntimeError, TypeError):
        return 0.0
