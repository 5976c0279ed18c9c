"""Load, check, resample: a file or a tensor becomes 16 kHz mono, or one clear line of error."""

import contextlib
import copy
import math
import os
import sys

import soundfile
import torch
from speechbrain.dataio import audio_io

from speechbrain_diffasr.dataio import foreign
from speechbrain_diffasr.dataio.channels import CANCEL, Cancelling, Comparison
from speechbrain_diffasr.dataio.containers import truncated
from speechbrain_diffasr.dataio.header import check_length, damaged, fits, read_header
from speechbrain_diffasr.dataio.resampling import affordable_rate, normalizer, resample_blocks
from speechbrain_diffasr.utils.errors import AudioError

# Samples of all channels that are read at once, and of each channel at least.
_BLOCK = 2**18
_SHORTEST_BLOCK = 2**12
# A quick look takes fewer.
_SHORT_BLOCK = 2**14
# Bits to a step from 0 to 1; of formats that are not listed, as many as 16 bits have. Floats have
# no step.
_BITS = {"PCM_24": 23, "PCM_32": 31, "FLOAT": math.inf, "DOUBLE": math.inf}


def load_audio(path, sample_rate=16000, max_seconds=None, channel=None):
    """Loads an audio file as the model wants it: mono, at its sample rate.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads, or with the extra `av` FFmpeg, any rate, any number of
        channels (they are averaged).
    sample_rate : int
        Samples per second to return. Default: 16000.
    max_seconds : float, optional
        Longer audio is refused from its header, before anything is decoded. Default: no limit.
    channel : int, optional
        The only one to keep, from 0. Default: the mean of all.

    Returns
    -------
    wav : torch.Tensor
        float32 in -1 … 1, [T].

    Raises
    ------
    AudioError
        If the file is missing, unreadable, empty, not audio, truncated, too long, silent to the
        last bit, or holds NaN or infinite samples, or if its channels cancel out.

    Example
    -------
    >>> tmpdir = getfixture("tmpdir")
    >>> audio_io.save(tmpdir / "stereo.wav", torch.rand(2, 44100), 44100)
    >>> load_audio(tmpdir / "stereo.wav").shape
    torch.Size([16000])
    """
    path = os.fspath(path)
    header = read_header(path)
    if max_seconds is not None:
        check_length(path, header.frames, header.samplerate, max_seconds)

    try:
        parts = [
            audio_io.load(source, channels_first=False, dtype=torch.float32)[0]
            for source in header.sources(path)
        ]
    except RuntimeError as err:
        if not isinstance(err.__cause__, soundfile.LibsndfileError):
            raise
        raise AudioError.of(path, damaged(header.format, err.__cause__)) from None
    rate = header.samplerate
    if header.is_foreign:
        parts = [torch.zeros(0, header.channels), *foreign.decode(path, header.format)]
    audio = torch.cat(parts)  # [T, C]
    check_complete(path, header, len(audio))
    audio = select_channel(audio, channel, path)
    check_waveform(audio.flatten(), path)
    cancelling = Cancelling()
    cancelling.add(audio)
    if cancelling.found:
        raise AudioError.of(path, CANCEL)

    wav = normalizer(sample_rate)(audio, affordable_rate(rate, sample_rate))
    if max_seconds is not None:
        # Resampling rounds the length up; that the file is not too long is known by now.
        wav = wav[: math.ceil(max_seconds * sample_rate)]
    return wav.contiguous()


def select_channel(audio, channel, name):
    """Keeps one channel.

    Arguments
    ---------
    audio : torch.Tensor
        [T, C].
    channel : int or None
        From 0; None keeps all.
    name : str
        Of the file, for the message.

    Returns
    -------
    audio : torch.Tensor
        [T, C] or [T, 1].

    Raises
    ------
    AudioError
        If there is no such channel.
    """
    if channel is None:
        return audio
    if not 0 <= channel < audio.shape[1]:
        raise AudioError.of(name, f"no channel {channel}; it has {audio.shape[1]}, from 0")
    return audio[:, channel : channel + 1]


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
    header = read_header(path)
    complete = True
    try:
        for source in header.sources(path):
            with soundfile.SoundFile(source) as file:
                file.seek(max(file.frames - 1 - header.slack, 0))
                complete = complete and len(file.read(1)) == 1
    except soundfile.LibsndfileError as err:
        raise AudioError.of(path, damaged(header.format, err)) from None
    if not complete:
        raise AudioError.of(path, "truncated; copy or download it again")
    return header


def read_samples(path, header, first, last):
    """Reads a stretch of a file, at its own rate, all channels.

    Arguments
    ---------
    path : str or Path
    header : Header
        From `check_audio`.
    first, last : int
        First sample, and the one behind the last.

    Returns
    -------
    audio : torch.Tensor
        float32, [T, C]; shorter if the file ends before.

    Raises
    ------
    AudioError
        If the file is damaged.

    Example
    -------
    >>> path = getfixture("tmp_path") / "speech.flac"
    >>> audio_io.save(path, torch.rand(1, 24000), 16000)
    >>> read_samples(path, check_audio(path), 8000, 9000).shape
    torch.Size([1000, 1])
    """
    path, pieces, start = os.fspath(path), [torch.zeros(0, header.channels)], 0
    try:
        for source in header.sources(path):
            # One seek in a fresh file: near seeks after a read miss their place in Ogg files
            # (https://github.com/libsndfile/libsndfile/issues/885).
            with soundfile.SoundFile(source) as file:
                begin, end = max(first - start, 0), min(last - start, file.frames)
                if begin < end:
                    file.seek(begin)
                    block = file.read(end - begin, dtype="float32", always_2d=True)
                    pieces.append(torch.from_numpy(block))
                start += file.frames
    except soundfile.LibsndfileError as err:
        raise AudioError.of(path, damaged(header.format, err)) from None
    for block in foreign.decode(path, header.format) if header.is_foreign else ():
        pieces.append(block[max(first - start, 0) : max(last - start, 0)])
        start += len(block)
        if start >= last:
            break
    return torch.cat(pieces)


def check_complete(path, header, have):
    """Refuses a file of which fewer samples were decoded than its header claims.

    Arguments
    ---------
    path : str
    header : Header
    have : int
        Samples of each channel.
    """
    if header.frames - header.slack > have:
        have, claimed = (f"{samples / header.samplerate:.2f}" for samples in (have, header.frames))
        raise AudioError.of(path, truncated(have, f"{claimed} s"))


class AudioStream:
    """Reads an audio file of any length piece by piece, as `load_audio` would give it whole.

    It never seeks, because libsndfile does not find the right sample in many an Ogg and MP3.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads, or with the extra `av` FFmpeg, any rate, any number of
        channels (they are averaged).
    sample_rate : int
        Samples per second to give. Default: 16000.
    channel : int, optional
        The only one to give, from 0. Default: the mean of all.

    Raises
    ------
    AudioError
        If the file is missing, unreadable, empty, not audio, or ends earlier than it says.

    Example
    -------
    >>> tmpdir = getfixture("tmpdir")
    >>> audio_io.save(tmpdir / "long.wav", torch.rand(2, 4410000), 44100)
    >>> stream = AudioStream(tmpdir / "long.wav")
    >>> stream.seconds, sum(len(block) for block in stream.blocks())
    (100.0, 1600000)
    >>> [len(piece) for piece in stream.pieces([(0, 16000), (8000, 40000)])]
    [16000, 32000]
    """

    def __init__(self, path, sample_rate=16000, channel=None):
        self.path = os.fspath(path)
        self.sample_rate = sample_rate
        self.channel = channel
        self.header = read_header(self.path)

    def of_channel(self, channel):
        """The same file, of which only one channel is read.

        Arguments
        ---------
        channel : int
            From 0.

        Returns
        -------
        stream : AudioStream
        """
        stream = copy.copy(self)
        stream.channel = channel
        return stream

    def compare_channels(self):
        """Reads a file of two channels once, and compares them.

        Returns
        -------
        are_apart : bool
            Whether they hold different speech.

        Raises
        ------
        AudioError
            If the file is damaged or ends early, or its channels cancel out when mixed.
        """
        cancelling, comparison = Cancelling(), Comparison(self.header.samplerate)
        for block in self._read(_BLOCK):
            cancelling.add(block)
            comparison.add(block)
        if cancelling.found:
            raise AudioError.of(self.path, CANCEL)
        return comparison.found

    @property
    def seconds(self):
        """How long the audio is, by its header."""
        return self.header.frames / self.header.samplerate

    @property
    def noise_floor(self):
        """What samples can be without a sound: three steps of their format, for dither."""
        return 3 * 2.0 ** -_BITS.get(self.header.subtype, 16 - 1)

    def fits(self, max_seconds):
        """Whether the audio is no longer than so many seconds."""
        return fits(self.header.frames, self.header.samplerate, max_seconds)

    def blocks(self):
        """Reads the file from its beginning.

        Yields
        ------
        wav : torch.Tensor
            Consecutive pieces of the waveform, float32, [T]; together what `load_audio` gives,
            but digital silence is not refused.

        Raises
        ------
        AudioError
            If the file is damaged, ends early, holds NaN or infinite samples, or its channels
            cancel out.
        """
        rate = affordable_rate(self.header.samplerate, self.sample_rate)
        cancelling = Cancelling()

        def watched():
            for block in self._read(_BLOCK):
                cancelling.add(block)
                yield block

        yield from resample_blocks(watched(), rate, self.sample_rate)
        if cancelling.found:
            raise AudioError.of(self.path, CANCEL)

    def pieces(self, spans):
        """Reads parts of the file.

        Arguments
        ---------
        spans : iterable of (int, int)
            First sample of each part and the one behind its last, at `sample_rate`. None starts
            before the one before it; they may overlap.

        Yields
        ------
        wav : torch.Tensor
            float32, [T].

        Raises
        ------
        AudioError
            As `blocks`, and if the file ends before a part does.
        """
        blocks = self.blocks()
        wav, begin = torch.zeros(0), 0  # the part of the file that is in memory
        for start, stop in spans:
            while begin + len(wav) < stop:
                block = next(blocks, None)
                if block is None:
                    raise AudioError.of(self.path, "changed while it was read; try again")
                known = wav[max(0, start - begin) :]
                begin += len(wav) - len(known)
                wav = torch.cat([known, block])
            yield wav[start - begin : stop - begin].clone()

    def samples(self):
        """Reads the file at its own sample rate, in shorter blocks: for a quick look.

        Yields
        ------
        wav : torch.Tensor
            Consecutive pieces, the mean of all channels, float32, [T].

        Raises
        ------
        AudioError
            If the file is damaged, ends early, or holds NaN or infinite samples.
        """
        for block in self._read(_SHORT_BLOCK):
            yield block.mean(dim=1)

    def _read(self, samples):
        """Blocks as they are in the file, [T, C]."""
        header = self.header
        size = max(_SHORTEST_BLOCK, samples // header.channels)
        length = 0
        try:
            for block in self._decode(size):
                bad = (~block.isfinite()).any(dim=1).nonzero()
                if len(bad):
                    time = (length + int(bad[0])) / header.samplerate
                    raise AudioError.of(
                        self.path, f"NaN or infinite samples at {time:.2f} s; export it again"
                    )
                length += len(block)
                yield block
        except soundfile.LibsndfileError as err:
            raise AudioError.of(self.path, damaged(header.format, err)) from None
        check_complete(self.path, header, length)

    def _decode(self, size):
        header = self.header
        for source in header.sources(self.path):
            with soundfile.SoundFile(source) as file:
                while len(block := file.read(size, dtype="float32", always_2d=True)):
                    yield select_channel(torch.from_numpy(block), self.channel, self.path)
        held, count = [], 0
        for block in foreign.decode(self.path, header.format) if header.is_foreign else ():
            held.append(select_channel(block, self.channel, self.path))
            count += len(block)
            if count >= size:
                yield torch.cat(held)
                held, count = [], 0
        if held:
            yield torch.cat(held)


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
    >>> try:
    ...     check_waveform(torch.zeros(16000), "silence")
    ... except AudioError as err:
    ...     print(err)
    silence: all samples are zero; there is nothing to hear
    """
    if not torch.is_tensor(wav):
        raise AudioError.of(name, f"a {type(wav).__name__}; expected a tensor of samples, [T]")
    if wav.dim() != 1:
        shape = list(wav.shape)
        raise AudioError.of(name, f"a waveform of shape {shape}; expected mono samples, [T]")
    if not wav.is_floating_point():
        raise AudioError.of(name, f"samples of type {wav.dtype}; expected floats in -1 … 1")
    if not len(wav):
        raise AudioError.of(name, "no samples")
    if max_seconds is not None:
        check_length(name, len(wav), sample_rate, max_seconds)
    bad = int((~wav.isfinite()).sum())
    if bad:
        raise AudioError.of(
            name, f"{bad} of {len(wav)} samples are NaN or infinite; export it again"
        )
    if not wav.any():
        raise AudioError.of(name, "all samples are zero; there is nothing to hear")


def check_batch(wavs, wav_lens, max_seconds=None, sample_rate=16000):
    """Checks that a padded batch can be transcribed.

    Arguments
    ---------
    wavs : torch.Tensor
        Waveforms, [B, T].
    wav_lens : torch.Tensor
        Lengths relative to the longest, [B].
    max_seconds, sample_rate
        As for `check_waveform`.

    Raises
    ------
    AudioError
        As `check_waveform`, for the first waveform that cannot; and if the shapes do not fit, or
        a length is not in 0 … 1.

    Example
    -------
    >>> check_batch(torch.rand(2, 16000), torch.tensor([1.0, 0.5]))
    """
    if wavs.dim() != 2:
        raise AudioError.of("wavs", f"a batch of shape {list(wavs.shape)}; expected [B, T]")
    if list(wav_lens.shape) != [len(wavs)]:
        raise AudioError.of(
            "wav_lens", f"of shape {list(wav_lens.shape)}; expected one for each: [{len(wavs)}]"
        )
    if not bool(((wav_lens >= 0) & (wav_lens <= 1)).all()):
        raise AudioError.of("wav_lens", "relative to the longest, so expected in 0 … 1")
    lengths = (wav_lens * wavs.shape[1]).round().long().tolist()
    for index, (wav, length) in enumerate(zip(wavs, lengths, strict=True)):
        check_waveform(wav[:length], f"wavs[{index}]", max_seconds, sample_rate)


@contextlib.contextmanager
def silence_mp3_decoder():
    """Silences what the MP3 decoder writes to stderr, past Python.

    It turns file descriptor 2 of the whole process, in all threads, so it is for programs that
    report errors themselves.

    Yields
    ------
    stderr : file
        Still reaches whoever reads stderr.

    Example
    -------
    >>> with silence_mp3_decoder() as stderr:
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
