"""What an audio file is before it is decoded, or one clear line of error."""

import codecs
import contextlib
import math
import mmap
import os
import re
import stat

import soundfile

from speechbrain_diffasr.utils.errors import AudioError

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
MP3_SLACK = 2304  # samples
# Layer III, in kbit/s by the index in a frame's header: MPEG-1, then MPEG-2 and 2.5 (ISO 11172-3
# and 13818-3, section 2.4.2.3). Zero is free or forbidden.
_MP3_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
_MP3_SAMPLE_RATES = (44100, 48000, 32000)  # Hz, of MPEG-1; half in MPEG-2, a quarter in 2.5


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
    """Asks soundfile about a file, without decoding it.

    Arguments
    ---------
    path : str

    Returns
    -------
    header
        What soundfile.info gives: frames, samplerate, channels and so on.

    Raises
    ------
    AudioError
        If there is no such file, or it is not audio.
    """
    head = _read_head(path)
    try:
        header = soundfile.info(file_name(path))
    except soundfile.LibsndfileError as err:
        kind = _audio_kind(head)
        reason = damaged(kind, err) if kind else f"not audio (file {_looks_like(head)})"
        raise AudioError.of(path, reason) from None
    except TypeError:  # soundfile asks for the rate of .raw files
        raise AudioError.of(
            path, "samples without a header that gives their rate; convert it to WAV first"
        ) from None
    if header.frames >= 2**62:
        raise AudioError.of(
            path, "its header does not say how long it is; encode it to a file again"
        )
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


def damaged(kind, err):
    """Why libsndfile gave up on what begins like audio: the reason of an `AudioError`."""
    # libsndfile's own words for an MP3 that its decoder refuses are about pipes.
    reason = "no audio frames found" if err.code == 7 else err.error_string.rstrip(".")
    if "unimplemented" in reason or "nsupported" in reason:
        return f"a kind of {kind} that soundfile cannot read ({reason}); convert it, {_EXAMPLE}"
    return f"truncated or damaged {kind} ({reason}); copy or download it again"


def truncated(have, claimed):
    """The reason of an `AudioError` about a file that holds less than it claims."""
    return f"truncated: holds {have} of the {claimed} that it claims; copy or download it again"


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


def check_complete(path, header):
    """Refuses a file that holds nothing or ends earlier than it says."""
    for claimed, have in _CLAIMED_SIZE.findall(header.extra_info):
        if int(have) < int(claimed) < _STREAM_SIZE:
            raise AudioError.of(path, truncated(have, f"{claimed} bytes"))
    if header.format == "OGG" and _ogg_ends_inside_a_page(path):
        raise AudioError.of(path, "truncated: ends inside a page; copy or download it again")
    if header.format == "MP3" and not mp3_states_length(path):
        held = _mp3_length(path)
        if held > header.frames + MP3_SLACK:
            rate = header.samplerate
            raise AudioError.of(
                path,
                f"an MP3 that does not say how long it is: soundfile would stop at "
                f"{header.frames / rate:.1f} of its {held / rate:.1f} s; convert it, {_EXAMPLE}",
            )
    if not header.frames:
        raise AudioError.of(path, "the file holds a header but no samples; record it again")


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


def mp3_states_length(path):
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


def missing_samples(path, header, have):
    """How many samples a file lacks of those that its header claims.

    Arguments
    ---------
    path : str
    header
        From `read_header`.
    have : int
        Samples of each channel that were decoded.

    Returns
    -------
    missing : int
        None are missing if it is 0 or less.
    """
    missing = header.frames - have
    if header.format == "MP3":
        missing = missing - MP3_SLACK if mp3_states_length(path) else 0
    return missing


def _mp3_length(path):
    """Samples of an MP3 of layer III, counted frame by frame; 0 for other layers."""
    samples = 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = 0
        if data[:3] == b"ID3":
            place = 10 + sum(
                byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True)
            )
        while 0 <= place < len(data) - 4:
            size, length = _mp3_frame(data[place : place + 3])
            if size:
                samples += length
                place += size
            else:
                place = data.find(b"\xff", place + 1)
    return samples


def _mp3_frame(head):
    """Bytes and samples of the frame that begins with these three bytes; zeros if none does."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or layer != 1 or head[2] >> 2 & 3 == 3:
        return 0, 0
    is_first = version == 3
    kbits = _MP3_RATES[not is_first][head[2] >> 4]
    rate = _MP3_SAMPLE_RATES[head[2] >> 2 & 3] // {3: 1, 2: 2, 0: 4}[version]
    if not kbits:
        return 0, 0
    size = (144 if is_first else 72) * 1000 * kbits // rate + (head[2] >> 1 & 1)
    return size, 1152 if is_first else 576


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
