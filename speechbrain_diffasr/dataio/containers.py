"""Where the audio of a file lies, by its bytes, since what its header says may be wrong.

Sizes are left at zero by recorders that die, wrap at 4 GiB, or stand for "not known"; files are
joined end to end. libsndfile believes the header and stops early, without a word. Here the bytes
are walked, and such a file is given to it as what it is: parts with headers that are right.
"""

import io
import mmap
import struct
from dataclasses import dataclass
from functools import cache

import soundfile

from speechbrain_diffasr.utils.errors import AudioError

# Programs that write into a pipe cannot know the size and claim one of these: 2 or 4 GiB, sox 2 GiB
# less a block or 16 MiB. The header is counted in or not, which makes it so much less or more.
_STREAM_SIZES = (0xFFFFFFFF, 0x80000000, 0x7FFFF000, 0x7F000000)
_STREAM_LESS, _STREAM_MORE = 256, 4096
# Fewer bytes behind the end are no audio that anybody would miss, 10 ms at 16 bits and 16 kHz.
_CRUMBS = 320
# What taggers append to any audio file.
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
# A chunk that was cut is known by its name alone.
_WAV_CHUNKS = (
    b"LIST", b"INFO", b"bext", b"cue ", b"smpl", b"fact", b"PEAK", b"JUNK", b"junk", b"iXML",
    b"afsp", b"id3 ", b"ID3 ", b"_PMX", b"inst", b"plst", b"PAD ", b"FLLR", b"acid", b"minf",
    b"elm1", b"regn", b"umid", b"DISP", b"aXML", b"axml", b"chna", b"levl", b"SAUR",
)  # fmt: skip
_AIFF_CHUNKS = (
    b"COMM", b"NAME", b"AUTH", b"ANNO", b"(c) ", b"MARK", b"INST", b"COMT", b"APPL", b"MIDI",
    b"AESD", b"CHAN", b"ID3 ", b"PEAK", b"FVER", b"basc", b"trns", b"cate", b"LGWV",
)  # fmt: skip
_CAF_CHUNKS = (b"info", b"free", b"strg", b"mark", b"peak", b"uuid")
# How a recording begins that was put behind another one: (bytes, offset of more, more, ending).
_BEGINNINGS = (
    (b"RIFF", 8, b"WAVE", "wav"),
    (b"FORM", 8, b"AIF", "aiff"),
    (b"fLaC", 4, b"\0\0\0\x22", "flac"),
    (b"OggS", 4, b"\0\x02", "ogg"),
)
# Codecs inside a WAV that are MPEG audio (RFC 2361).
_MPEG_IN_WAV = (0x50, 0x55)
# Those that libsndfile reads: PCM, ADPCM of Microsoft and IMA, float, A-law, mu-law, GSM, NMS,
# G.721, and the extensible format, which names one of them.
_CODECS_IN_WAV = (0x01, 0x02, 0x03, 0x06, 0x07, 0x11, 0x31, 0x38, 0x40, 0xFFFE)
_FOREIGN_IN_WAV = {
    0x22: "TrueSpeech", 0x42: "G.723.1", 0x45: "G.726", 0x50: "MPEG layer II", 0x55: "MP3",
    0x83: "G.729", 0xFF: "AAC", 0x160: "WMA", 0x161: "WMA", 0x162: "WMA", 0x2000: "AC-3",
    0x674F: "Vorbis", 0x704F: "Opus", 0xF1AC: "FLAC",
}  # fmt: skip
# Kbit/s of a layer III frame by the index in its header: MPEG-1, then MPEG-2 and 2.5 (ISO 11172-3
# and 13818-3, section 2.4.2.3). Zero is free or forbidden.
_MP3_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
_MP3_SAMPLE_RATES = (44100, 48000, 32000)  # Hz, of MPEG-1; half in MPEG-2, a quarter in 2.5
# Encoders disagree on whether the frame of an MP3 that carries the length, and the decoder's
# delay, count as audio: two frames of 1152 samples.
MP3_SLACK = 2304  # samples
# So many frames of another kind in a row are another recording, fewer are chance.
_MP3_RUN = 8
# How far from the end of a FLAC its last frame may begin; without STREAMINFO's own bound.
_FLAC_TAIL = 2**17


@dataclass(frozen=True)
class Part:
    """A stretch of a file that is an audio file of its own, once its header is put right.

    Arguments
    ---------
    start, stop : int
        First byte, and the one behind the last.
    patches : tuple of (int, bytes)
        What stands in the file where, counted from `start`, instead of what is there.
    prefix : bytes
        What is put in front.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.bin"
    >>> _ = path.write_bytes(b"0123456789")
    >>> with Part(2, 8, ((1, b"x"),), b"ab").open(path) as view:
    ...     _ = view.seek(1)
    ...     view.read(5)
    b'b2x45'
    """

    start: int
    stop: int
    patches: tuple = ()
    prefix: bytes = b""

    def open(self, path):
        """Opens the stretch as a file that soundfile takes.

        Arguments
        ---------
        path : str or Path

        Returns
        -------
        view : io.BufferedReader
        """
        return io.BufferedReader(_View(path, self), 2**16)


class _View(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path, part):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        self._part = part
        self._size = len(part.prefix) + part.stop - part.start
        self._place = 0

    def close(self):
        if not self.closed:
            self._file.close()
        super().close()

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self._place

    def seek(self, offset, whence=io.SEEK_SET):
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def readinto(self, buffer):
        count = max(0, min(len(buffer), self._size - self._place))
        prefix = self._part.prefix[self._place : self._place + count]
        buffer[: len(prefix)] = prefix
        begin = self._place + len(prefix) - len(self._part.prefix)
        if count > len(prefix):
            self._file.seek(self._part.start + begin)
            got = self._file.read(count - len(prefix))
            buffer[len(prefix) : len(prefix) + len(got)] = got
            count = len(prefix) + len(got)
            for place, data in self._part.patches:
                low, high = max(place, begin), min(place + len(data), begin + len(got))
                if low < high:
                    at = len(prefix) + low - begin
                    buffer[at : at + high - low] = data[low - place : high - place]
        self._place += count
        return count


def find_parts(path, kind):
    """Finds what of a file is audio that its header does not tell.

    Arguments
    ---------
    path : str
        A file that is not empty.
    kind : str or None
        What its first bytes promise.

    Returns
    -------
    parts : list of Part
        Each an audio file of its own; none if the file is just what its header says.

    Raises
    ------
    AudioError
        If the file ends earlier than its header says.
    """
    walk = _WALKS.get(kind)
    if walk is None:
        return []
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        try:
            parts = walk(path, data)
        except struct.error:  # it ends inside of a header, which libsndfile finds too
            return []
        return [] if parts == [Part(0, len(data))] else parts


def truncated(have, claimed):
    """The reason of an `AudioError` about a file that holds less than it claims."""
    return f"truncated: holds {have} of the {claimed} that it claims; copy or download it again"


def _refuse_other(path, data, place):
    """Refuses a file in which a recording of another format begins at a place."""
    for magic, offset, more, ending in _BEGINNINGS:
        begin = place + offset
        if data[place : place + 4] == magic and data[begin : begin + len(more)] == more:
            raise AudioError.of(
                path,
                f"a second recording follows at byte {place}, and would not be heard; cut it off: "
                f"tail -c +{place + 1} IN > SECOND.{ending}",
            )


@dataclass(frozen=True)
class _Chunks:
    """How a family of formats writes chunks: a name, a size, and what it says it holds."""

    name: int  # bytes
    size: str  # of struct
    counts_header: bool = False
    align: int = 2
    known: tuple = ()  # names by which a chunk that was cut is known

    @property
    def header(self):
        return self.name + struct.calcsize(self.size)

    def read(self, data, place):
        """The name, first byte and size of a chunk."""
        (size,) = struct.unpack_from(self.size, data, place + self.name)
        begin = place + self.header
        return data[place : place + self.name], begin, size - self.header * self.counts_header

    def behind(self, begin, size):
        """Where the next chunk starts."""
        return begin + size + -size % self.align

    def is_chain(self, data, place, magic):
        """Whether what follows are chunks up to the end, and where another file begins."""
        while place + self.header <= len(data):
            if data[place : place + len(magic)] == magic:
                return True, place
            name, begin, size = self.read(data, place)
            if not all(32 <= byte < 127 for byte in name[:4]) or size < 0:
                return False, None
            place = self.behind(begin, size)
            if place > len(data) + 1:
                return name[:4] in self.known, None
        return len(data) - place < self.header, None


def _in_turn(one):
    """A walk through files that may be joined, each read by `one`, which finds the next."""

    def walk(path, data):
        parts, start = [], 0
        while start is not None:
            found, start = one(path, data, start)
            parts += found
        return parts

    return walk


def _sized(path, data, start, chunks, place, claimed, offset, field):
    """The part of a file that begins at `start`, and where the next file starts, or None.

    `place` is where its samples start, `claimed` how many bytes the header says they are, `offset`
    what the size counts beside them, and `field` where that size stands and its code of struct.
    """
    magic = data[start : start + chunks.name]
    held = len(data) - place
    streamed = claimed < 0 or any(
        -_STREAM_LESS <= claimed + offset - size <= _STREAM_MORE for size in _STREAM_SIZES
    )
    following = None
    if claimed == 0 and chunks.is_chain(data, place, magic)[0]:
        return [Part(start, len(data))], None
    if streamed or claimed == 0:
        size = held
    elif claimed > held:
        raise AudioError.of(path, truncated(held, f"{claimed} bytes"))
    else:
        size = claimed
        # Not all writers pad what is odd.
        ends = dict.fromkeys((chunks.behind(place, claimed), place + claimed))
        for end in ends:
            if data[end : end + len(magic)] != magic:
                _refuse_other(path, data, end)
            is_chain, following = chunks.is_chain(data, end, magic)
            rest = data[end : end + 16]
            if is_chain or len(data) - end < _CRUMBS or rest.startswith(_TAGS):
                break
        else:
            # Neither chunks nor a tag: the samples go on.
            size = held
    stop = len(data) if following is None else following
    if size == claimed or (streamed and claimed >= held):
        return [Part(start, stop)], following
    where, code = field
    if size + offset < 2 ** (8 * struct.calcsize(code)):
        patch = where - start, struct.pack(code, size + offset)
        return [Part(start, stop, (patch,))], following
    if magic != b"RIFF":
        raise AudioError.of(
            path,
            f"holds {size} bytes of samples, which is more than its header can say; "
            "convert it, e.g. sox IN OUT.w64",
        )
    # As RF64, whose sizes have 64 bits (EBU Tech 3306).
    chunk = b"ds64" + struct.pack("<IQQQI", 28, len(data) - start - 8, size, 0, 0)
    between = data[start + 12 : place - chunks.header]
    prefix = b"RF64\xff\xff\xff\xffWAVE" + chunk + between + b"data\xff\xff\xff\xff"
    return [Part(place, stop, (), prefix)], following


@_in_turn
def _wav(path, data, start):
    code = ">I" if data[start : start + 4] == b"RIFX" else "<I"
    chunks = _Chunks(4, code, known=_WAV_CHUNKS)
    place, codec, wide = start + 12, None, None
    while place + chunks.header <= len(data):
        name, begin, size = chunks.read(data, place)
        if name == b"ds64":
            wide = begin + 8
        elif name == b"fmt ":
            (codec,) = struct.unpack_from(chunks.size[0] + "H", data, begin)
        elif name == b"data":
            field = place + 4, chunks.size
            if wide is not None and data[start : start + 4] == b"RF64":
                (size,) = struct.unpack_from("<Q", data, wide)
                field = wide, "<Q"
            found, following = _sized(path, data, start, chunks, begin, size, 0, field)
            if codec in _MPEG_IN_WAV:
                stop = min(begin + size, len(data)) if size and not found[0].patches else None
                stop = stop or following or len(data)
                # Without a frame that can be read, libsndfile is to say what it is.
                found = _mpeg_parts(path, data, begin, stop) or found
            return found, following
        place = chunks.behind(begin, size)
    return [Part(start, len(data))], None


def wav_codec(path):
    """Names the codec in a WAV that is none of those that libsndfile knows.

    Arguments
    ---------
    path : str

    Returns
    -------
    name : str or None
        None if libsndfile knows it, or there is none.
    """
    with open(path, "rb") as file:
        head = file.read(2**16)
    place = head.find(b"fmt ")
    if place < 0 or len(head) < place + 10:
        return None
    (codec,) = struct.unpack_from("<H", head, place + 8)
    if codec in _CODECS_IN_WAV:
        return None
    name = _FOREIGN_IN_WAV.get(codec)
    return f"codec {codec:#06x}" if name is None else f"{name} (codec {codec:#06x})"


@_in_turn
def _aiff(path, data, start):
    chunks, place = _Chunks(4, ">I", known=_AIFF_CHUNKS), start + 12
    while place + chunks.header <= len(data):
        name, begin, size = chunks.read(data, place)
        if name == b"SSND":
            (offset,) = struct.unpack_from(">I", data, begin)
            offset += 8
            field = place + 4, chunks.size
            claimed = max(0, size - offset)
            return _sized(path, data, start, chunks, begin + offset, claimed, offset, field)
        place = chunks.behind(begin, size)
    return [Part(start, len(data))], None


@_in_turn
def _w64(path, data, start):
    chunks = _Chunks(16, "<Q", counts_header=True, align=8, known=_WAV_CHUNKS)
    place = start + 40
    while place + chunks.header <= len(data):
        name, begin, size = chunks.read(data, place)
        if name[:4] == b"data":
            field = place + 16, chunks.size
            return _sized(path, data, start, chunks, begin, size, chunks.header, field)
        if size < 0:
            break
        place = chunks.behind(begin, size)
    return [Part(start, len(data))], None


@_in_turn
def _caf(path, data, start):
    chunks, place = _Chunks(4, ">q", align=1, known=_CAF_CHUNKS), start + 8
    while place + chunks.header <= len(data):
        name, begin, size = chunks.read(data, place)
        if name == b"data":
            # An edit count of four bytes stands before the samples; a size of -1 is not known.
            claimed = size - 4 if size >= 4 else size
            field = place + 4, chunks.size
            return _sized(path, data, start, chunks, begin + 4, claimed, 4, field)
        if size < 0:
            break
        place = chunks.behind(begin, size)
    return [Part(start, len(data))], None


@_in_turn
def _au(path, data, start):
    code = "<I" if data[start : start + 4] == b"dns." else ">I"
    header, claimed = struct.unpack_from(f"{code}I", data, start + 4)
    place = start + header
    # It has no chunks: behind the samples is nothing, or another file.
    end = place + claimed
    if data[end : end + 4] == data[start : start + 4]:
        return [Part(start, end)], end
    chunks = _Chunks(4, code, align=1)
    return _sized(path, data, start, chunks, place, claimed, 0, (start + 8, code))


def _ogg(path, data):
    """Links of a chain, each of which begins with pages that say so (RFC 3533, section 6)."""
    starts, place, has_data = [0], 0, False
    while place < len(data):
        page = data[place : place + 27]
        if not page.startswith(b"OggS"[: len(page)]):
            _refuse_other(path, data, place)
            place = data.find(b"OggS", place)  # a tag, or damage
            if place < 0:
                break
            continue
        sizes = data[place + 27 : place + 27 + (page[26] if len(page) == 27 else 0)]
        end = place + 27 + len(sizes) + sum(sizes)
        if len(page) < 27 or len(sizes) < page[26] or end > len(data):
            raise AudioError.of(path, "truncated: ends inside a page; copy or download it again")
        if not page[5] & 2:
            has_data = True
        elif has_data:
            starts.append(place)
            has_data = False
        place = end
    return [Part(*ends) for ends in zip(starts, [*starts[1:], len(data)], strict=True)]


def _flac(path, data):
    """Files that are joined, each with the number of its samples (RFC 9639)."""
    starts, place = [], data.find(b"fLaC")
    while place >= 0:
        if data[place + 4] & 0x7F == 0 and data[place + 5 : place + 8] == b"\0\0\x22":
            starts.append(place)
        place = data.find(b"fLaC", place + 4)
    if not starts:
        return []
    for magic, *_ in _BEGINNINGS:
        place = data.find(magic) if magic != b"fLaC" else -1
        while place >= 0:
            _refuse_other(path, data, place)
            place = data.find(magic, place + 4)
    ends = [*starts[1:], len(data)]
    parts = [_flac_part(data, *both) for both in zip(starts, ends, strict=True)]
    if len(parts) == 1 and not parts[0].patches:
        return []  # what stands before it is a tag
    return parts


def _flac_part(data, start, stop):
    info = data[start + 8 : start + 42]
    field = int.from_bytes(info[10:18], "big")
    unknown = field >> 36 << 36
    claimed = field - unknown
    block, largest = int.from_bytes(info[2:4], "big"), int.from_bytes(info[7:10], "big")
    place = max(start, stop - max(_FLAC_TAIL, 2 * largest))
    heads = _flac_heads(data[place:stop], block)
    if claimed and claimed in heads.values():
        return Part(start, stop)
    # A tag behind the last frame, a cut, or a claim that is wrong: checksums of frames tell.
    held = _flac_end(data[place:stop], heads)
    if held <= claimed:
        return Part(start, stop)
    return Part(start, stop, ((18, (unknown + held).to_bytes(8, "big")),))


def _flac_heads(tail, block):
    """Places of all that looks like a frame's header, and the samples up to the frame's end."""
    heads, place = {}, tail.find(b"\xff")
    while 0 <= place < len(tail) - 5:
        if tail[place + 1] & 0xFE == 0xF8 and (end := _flac_head(tail[place : place + 16], block)):
            heads[place] = end
        place = tail.find(b"\xff", place + 1)
    return heads


def _flac_head(head, block):
    """The samples up to the end of the frame with this header (RFC 9639, section 9.1), or 0."""
    code, width = head[2] >> 4, 1
    if head[4] & 0x80:
        width = 8 - (head[4] ^ 0xFF).bit_length()
        if not 2 <= width <= 7:
            return 0
    number = head[4] if width == 1 else head[4] & (0x7F >> width)
    for byte in head[5 : 4 + width]:
        number = number << 6 | byte & 0x3F
    place = 4 + width
    more = {6: 1, 7: 2}.get(code, 0)
    if more:
        size = int.from_bytes(head[place : place + more], "big") + 1
    elif code < 2:
        size = 192 * code
    else:
        size = 576 << code - 2 if code < 6 else 256 << code - 8
    place += more + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if not size or place >= len(head) or _checksum(head[:place], 8, 0x07) != head[place]:
        return 0
    return (number if head[1] & 1 else number * block) + size


def _flac_end(tail, heads):
    """The samples up to the end of the last whole frame, or 0."""
    tag = tail.rfind(b"TAG")  # ID3v1, of 128 bytes
    bounds = [*heads, len(tail) if tag != len(tail) - 128 or tag < 0 else tag]
    ends = [0]
    for index, place in enumerate(heads):
        check, begin = 0, place
        for bound in bounds[index + 1 :]:
            # The last two bytes of a frame are the checksum of it, so that with them it is 0.
            check, begin = _checksum(tail[begin:bound], 16, 0x8005, check), bound
            if check == 0:
                ends.append(heads[place])
                break
    return max(ends)


def _checksum(data, bits, polynomial, value=0):
    """A cyclic redundancy check, highest bit first."""
    table = _checksum_table(bits, polynomial)
    mask = (1 << bits) - 1
    for byte in data:
        value = value << 8 & mask ^ table[value >> bits - 8 ^ byte]
    return value


@cache
def _checksum_table(bits, polynomial):
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table


def _mp3(path, data):
    if data[:3] == b"ID3" and data[(place := _behind_id3(data, 0)) : place + 4] == b"fLaC":
        return _flac(path, data)
    return _mpeg_parts(path, data, 0, len(data))


def _mpeg_parts(path, data, start, stop):
    """Stretches of MPEG audio of layer III with one rate and number of channels each."""
    runs = _mp3_runs(path, data, start, stop)
    if not runs:
        return []  # another layer, or no audio, which libsndfile knows
    parts = []
    for index, run in enumerate(runs):
        end = runs[index + 1].first if index + 1 < len(runs) else stop
        whole = index == 0 and end == len(data) and start == 0
        begin = start if index == 0 else run.first
        field, claimed = _mp3_claim(data, run.first)
        frames = run.frames - (claimed is not None)
        slack = MP3_SLACK // run.samples
        if claimed is not None and claimed > frames + slack:
            have, said = (f"{n * run.samples / run.rate:.2f}" for n in (frames, claimed))
            raise AudioError.of(path, truncated(have, f"{said} s"))
        if claimed is not None and claimed < frames - slack:
            patch = field - begin, frames.to_bytes(4, "big")
            parts.append(Part(begin, end, (patch,)))
        elif claimed is None and not (whole and _guess_is_right(path, run)):
            parts.append(Part(run.first, end, (), _xing_frame(data, run)))
        else:
            parts.append(Part(begin, end))
    return parts


@dataclass
class _Run:
    """Frames of MPEG audio with one sample rate and number of channels."""

    first: int  # byte
    rate: int  # Hz
    channels: int
    samples: int  # of a frame
    frames: int = 0

    @property
    def kind(self):
        return self.rate, self.channels


def _mp3_runs(path, data, start, stop):
    runs, place, other = [], start, []
    synced = False
    while place < stop - 4:
        if data[place : place + 3] == b"ID3":
            place, synced = _behind_id3(data, place), False
            continue
        size, run = _mp3_frame(data[place : place + 4], place)
        # Where it lost its way, one header may be chance, two are not.
        if size and not synced and place + size < stop - 4:
            size = _mp3_frame(data[place + size : place + size + 4], 0)[0] and size
        if not size:
            if synced:
                _refuse_other(path, data, place)
            synced, place = False, data.find(b"\xff", place + 1, stop)
            if place < 0:
                break
            continue
        synced = True
        if runs and _mp3_claim(data, place)[1] is not None:
            runs.append(run)  # whose length is told anew
            run.frames, other = 1, []
        elif runs and run.kind == runs[-1].kind:
            runs[-1].frames += 1
            other = []
        else:
            other.append(run)
            if not runs or len(other) >= _MP3_RUN or place + size >= stop - 4:
                runs.append(other[0])
                runs[-1].frames = len(other)
                other = []
        place += size
    return runs


def _mp3_frame(head, place):
    """Bytes of the frame that begins with these, and a run that begins with it; or 0."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return 0, None
    version, layer, index = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 2 & 3
    if version == 1 or layer != 1 or index == 3:
        return 0, None
    is_first = version == 3
    kbits = _MP3_RATES[not is_first][head[2] >> 4]
    rate = _MP3_SAMPLE_RATES[index] // {3: 1, 2: 2, 0: 4}[version]
    if not kbits:
        return 0, None
    size = (144 if is_first else 72) * 1000 * kbits // rate + (head[2] >> 1 & 1)
    channels = 1 if head[3] >> 6 == 3 else 2
    return size, _Run(place, rate, channels, 1152 if is_first else 576)


def _mp3_claim(data, place):
    """Where a frame that carries the length has it, and the frames that it claims, or None."""
    field = place + 4 + _mp3_side(data[place : place + 4]) + 8
    if data[field - 8 : field - 4] in (b"Xing", b"Info") and data[field - 1] & 1:
        return field, int.from_bytes(data[field : field + 4], "big")
    return field, None


def _mp3_side(head):
    """Bytes of the side information of a frame."""
    mono = head[3] >> 6 == 3
    if head[1] >> 3 & 3 == 3:
        return 17 if mono else 32
    return 9 if mono else 17


def _xing_frame(data, run):
    """A frame that says how many frames follow, for what has none."""
    head = bytearray(data[run.first : run.first + 4])
    head[1] |= 1  # no checksum
    side = _mp3_side(head)
    for index in range(1, 15):
        head[2] = index << 4 | head[2] & 0x0C
        size, _ = _mp3_frame(head, 0)
        if size >= 4 + side + 16:
            break
    text = b"Xing" + (1).to_bytes(4, "big") + run.frames.to_bytes(4, "big")
    return bytes(head) + bytes(side) + text + bytes(size - 4 - side - len(text))


def _guess_is_right(path, run):
    """Whether libsndfile, which guesses from the first frame, guesses the length."""
    try:
        with open(path, "rb") as file:
            guess = soundfile.info(file).frames
    except soundfile.LibsndfileError:
        return True  # its own words are the best there are
    return abs(guess - run.frames * run.samples) <= MP3_SLACK // 2


def _behind_id3(data, place):
    """Where an ID3v2 tag ends; seven bits of a byte count (ID3v2.4, section 6.2)."""
    sizes = zip(data[place + 6 : place + 10], (21, 14, 7, 0), strict=False)
    return place + 10 + sum(byte << shift for byte, shift in sizes)


_WALKS = {
    "WAV": _wav,
    "RF64": _wav,
    "W64": _w64,
    "AIFF": _aiff,
    "AU": _au,
    "CAF": _caf,
    "FLAC": _flac,
    "Ogg": _ogg,
    "MP3": _mp3,
}
