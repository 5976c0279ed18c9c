"""What libsndfile cannot open and phones and browsers record: M4A, WebM, AAC, and sound of films.

Read with PyAV, whose wheels hold FFmpeg, if it is installed: `speechbrain_diffasr[av]`.
"""

import importlib.util

import torch

from speechbrain_diffasr.dataio.containers import truncated
from speechbrain_diffasr.utils.errors import AudioError

INSTALL = "pip install 'speechbrain_diffasr[av]' to have it read"
# Containers say how long they are in units of their own, and codecs add frames at the ends.
SLACK = 0.25  # s


def is_installed():
    """Whether PyAV is there.

    Returns
    -------
    installed : bool
    """
    return importlib.util.find_spec("av") is not None


def describe(path, kind):
    """What a file holds, by its packets, without decoding them.

    Arguments
    ---------
    path : str
    kind : str
        What messages call it, such as MP4.

    Returns
    -------
    frames, rate, channels : int
        Samples of each channel, samples per second, and channels.
    codec : str
        As FFmpeg calls it.

    Raises
    ------
    AudioError
        If it holds no sound, is damaged, or ends earlier than it says.
    """
    import av

    try:
        with av.open(path) as container:
            stream = _stream(path, kind, container)
            claimed = 0.0
            if stream.duration is not None:
                claimed = float(stream.duration * stream.time_base)
            elif container.duration is not None and len(container.streams) == 1:
                claimed = container.duration / av.time_base
            seconds = first = None
            for packet in container.demux(stream):
                if packet.pts is not None:
                    start = float(packet.pts * packet.time_base)
                    first = start if first is None else min(first, start)
                    length = float((packet.duration or 0) * packet.time_base)
                    seconds = max(seconds or 0.0, start + length)
            held = 0.0 if seconds is None else seconds - max(first, 0.0)
            codec = stream.codec_context.name
            rate, channels = stream.rate, stream.channels
    except av.FFmpegError as err:
        raise _damaged(path, kind, err) from None
    if claimed > held + SLACK:
        raise AudioError.of(path, truncated(f"{held:.2f}", f"{claimed:.2f} s"))
    if not held or not rate:
        # Raw streams need not have times.
        count = sum(len(block) for block in decode(path, kind))
        return count, rate, channels, codec
    return round(held * rate), rate, channels, codec


def decode(path, kind):
    """Decodes a file.

    Arguments
    ---------
    path : str
    kind : str
        What messages call it, such as MP4.

    Yields
    ------
    block : torch.Tensor
        Consecutive samples, float32, [T, C].

    Raises
    ------
    AudioError
        If it is damaged.
    """
    import av

    try:
        with av.open(path) as container:
            stream = _stream(path, kind, container)
            convert = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
            for frame in container.decode(stream):
                for part in convert.resample(frame):
                    yield torch.from_numpy(part.to_ndarray()).T
            for part in convert.resample(None):
                yield torch.from_numpy(part.to_ndarray()).T
    except av.FFmpegError as err:
        raise _damaged(path, kind, err) from None
    except ValueError as err:  # frames of another kind than the first
        raise AudioError.of(
            path, f"its sound changes its format ({err}); convert it first"
        ) from None


def _stream(path, kind, container):
    if not container.streams.audio:
        raise AudioError.of(path, f"{kind} without sound; name another file")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise AudioError.of(path, f"{kind} in a codec that FFmpeg does not know; convert it")
    return stream


def _damaged(path, kind, err):
    return AudioError.of(
        path, f"truncated or damaged {kind} ({err.strerror}); copy or download it again"
    )
