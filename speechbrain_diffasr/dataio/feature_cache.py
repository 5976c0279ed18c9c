"""Frames of the frozen encoder on disk: each utterance is encoded once for all epochs and runs."""

import hashlib
import logging
import os
import shutil
import time
import uuid
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from speechbrain.utils.distributed import (
    ddp_barrier,
    get_rank,
    if_main_process,
    is_distributed_initialized,
)
from tqdm import tqdm

from speechbrain_diffasr.utils.atomic import replacing

logger = logging.getLogger(__name__)

ABANDONED = 3600  # s since the last write to a file that is still unfinished


class FeatureCache:
    """What a frozen Whisper encoder makes of utterances, kept in safetensors files.

    A whole window of each utterance is kept, since padding leaves traces in all frames: for
    Whisper-small in bfloat16 that is 2.3 MB an utterance, 0.66 GB an hour of LibriSpeech. Frames
    are found by the encoder's weights, its window, and path, size and time of the recording, so
    nothing stale is ever used. They are computed in the precision of the encoder's weights; without
    a cache, `--precision bf16` has an encoder in float32 compute in bfloat16, and the losses differ
    a little.

    Arguments
    ---------
    folder : str or Path
        Where the files go; runs and recipes can share it.
    encoder : WhisperEncoder
        Frozen.
    shard_size : int
        Utterances in a file. Default: 256.

    Example
    -------
    >>> from speechbrain.dataio import audio_io
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> folder = getfixture("tmp_path")
    >>> audio_io.save(folder / "a.wav", torch.rand(1, 16000), 16000)
    >>> cache = FeatureCache(folder / "features", asr.mods.encoder.whisper)
    >>> cache.fill([str(folder / "a.wav")], asr.load_audio, batch_size=1, progress=False)
    >>> frames = cache[str(folder / "a.wav")]
    >>> torch.equal(frames, asr.mods.encoder.whisper(asr.load_audio(folder / "a.wav")[None])[0])
    True
    """

    def __init__(self, folder, encoder, shard_size=256):
        if not encoder.freeze:
            raise ValueError("feature_cache: the encoder is trained, so its frames change")
        self.folder = Path(folder) / _fingerprint(encoder)
        self.encoder = encoder
        self.shard_size = shard_size
        self.places = {}
        self.files = {}

    def refresh(self):
        """Looks which utterances are there."""
        self.places = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    self.places.update(dict.fromkeys(file.keys(), path))
            except FileNotFoundError:
                continue  # another process has just deleted it
            except SafetensorError as error:
                logger.warning("%s: damaged (%s); its utterances are encoded again", path, error)
                path.unlink(missing_ok=True)

    def missing(self, paths):
        """Those recordings that `fill` would encode.

        Arguments
        ---------
        paths : list of str
            Recordings.

        Returns
        -------
        paths : list of str
        """
        self.refresh()
        return [path for path in dict.fromkeys(paths) if _key(path) not in self.places]

    def fill(self, paths, load_audio, batch_size, rank=0, world_size=1, progress=True):
        """Encodes what is not there yet.

        Arguments
        ---------
        paths : list of str
            Recordings.
        load_audio : callable
            From a path to a waveform [T].
        batch_size : int
            Utterances that are encoded together.
        rank, world_size : int
            Which share of them is this process's.
        progress : bool
            Whether to show a progress bar. Default: True.

        Raises
        ------
        OSError
            If the disk is full.
        """
        # Shared out before looking what is there: other processes may have begun to write.
        share = list(dict.fromkeys(paths))[rank::world_size]
        missing = [(_key(path), path) for path in self.missing(share)]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear_unfinished()
        device = next(self.encoder.parameters()).device
        with tqdm(
            total=len(missing), unit="utt", desc="Encoding", disable=not (progress and missing)
        ) as bar:
            for start in range(0, len(missing), self.shard_size):
                shard = missing[start : start + self.shard_size]
                frames = {}
                for first in range(0, len(shard), batch_size):
                    batch = shard[first : first + batch_size]
                    wavs = [load_audio(path).to(device) for _, path in batch]
                    encoded = self._encode(wavs)
                    frames.update((key, row) for (key, _), row in zip(batch, encoded, strict=True))
                    bar.update(len(batch))
                self._write(frames)
        self.refresh()

    def _encode(self, wavs):
        """Frames of waveforms, each [frames, width] on the CPU."""
        lens = torch.tensor([len(wav) for wav in wavs])
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        with torch.no_grad():
            frames = self.encoder(padded, lens / lens.max())
        return [row.cpu().clone() for row in frames]

    def _write(self, frames):
        """Puts a shard on disk, complete or not at all."""
        # A name of its own, since another run may encode the same utterances at the same time.
        path = self.folder / f"{uuid.uuid4().hex[:16]}.safetensors"
        sums = {key: str(_checksum(row)) for key, row in frames.items()}
        try:
            with replacing(path) as part:
                save_file(frames, part, metadata=sums)
        except (OSError, SafetensorError) as error:
            free = shutil.disk_usage(self.folder).free / 1e9
            raise OSError(
                f"feature_cache: {path}: could not be written ({error}); {free:.3g} GB are free "
                "there; make room or name another folder, and the same command goes on, or train "
                "without: --feature_cache null"
            ) from error

    def _clear_unfinished(self):
        for part in self.folder.glob(".diffasr-*.tmp"):
            # Writing takes seconds: this one belongs to a run that was killed.
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink(missing_ok=True)

    def __getitem__(self, path):
        """The frames of a recording, [frames, width]."""
        key = _key(path)
        if key not in self.places:
            raise ValueError(
                f"{path}: not in the feature cache {self.folder}; it was changed after the start: "
                "run again"
            )
        # A file opened before a data loader's fork cannot be shared with its workers.
        place = os.getpid(), self.places[key]
        if place not in self.files:
            self.files[place] = safe_open(place[1], "pt")
        frames = self.files[place].get_tensor(key)
        if str(_checksum(frames)) != self.files[place].metadata()[key]:
            raise ValueError(f"{place[1]}: damaged; delete this file and run again")
        return frames

    @property
    def utterance_bytes(self):
        """Bytes that each utterance takes, however short it is."""
        weights = next(self.encoder.parameters())
        return self.encoder.num_frames * self.encoder.output_size * weights.element_size()

    @property
    def size(self):
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))


def encode_datasets(cache, datasets, load_audio, batch_size, progress=True):
    """Fills a cache for datasets, in all processes together; says before how large it will be.

    Arguments
    ---------
    cache : FeatureCache
    datasets : list of DynamicItemDataset
        With wav and duration (s).
    load_audio : callable
        From a path to a waveform [T].
    batch_size : int
        Utterances that are encoded together.
    progress : bool
        Whether the first process shows a progress bar. Default: True.

    Raises
    ------
    OSError
        If the disk cannot hold it.
    """
    rows = [data.data[name] for data in datasets for name in data.data_ids]
    seconds = {row["wav"]: row["duration"] for row in rows}
    missing = cache.missing(seconds)
    needed = len(missing) * cache.utterance_bytes
    everything, hours = len(seconds) * cache.utterance_bytes, sum(seconds.values()) / 3600
    cache.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache.folder).free
    logger.info(
        "feature_cache: %.3g GB an hour of this audio, %.3g GB in all; %d of %d utterances are to "
        "be encoded, %.3g GB, into %s, where %.3g GB are free",
        everything / hours / 1e9, everything / 1e9, len(missing), len(seconds), needed / 1e9,
        cache.folder, free / 1e9,
    )  # fmt: skip
    if needed > free:
        raise OSError(
            f"feature_cache: {cache.folder} needs {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB "
            "are free; make room or name another folder, or train without: --feature_cache null"
        )
    ddp_barrier()
    try:
        cache.fill(
            seconds,
            load_audio,
            batch_size,
            rank=get_rank() if is_distributed_initialized() else 0,
            world_size=torch.distributed.get_world_size() if is_distributed_initialized() else 1,
            progress=progress and if_main_process(),
        )
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"{str(error).splitlines()[0]}\nTurn down feature_batch_size ({batch_size})"
        ) from None
    ddp_barrier()
    cache.refresh()
    logger.info("feature_cache: %s holds %.3g GB", cache.folder, cache.size / 1e9)


def _key(path):
    """Identifies a recording as it is now."""
    info = os.stat(path)
    name = f"{os.path.realpath(path)} {info.st_size} {info.st_mtime_ns}"
    return hashlib.sha1(name.encode()).hexdigest()


def _checksum(tensor):
    values = tensor.detach().cpu().contiguous().view(torch.uint8)
    return zlib.crc32(values.numpy())


def _fingerprint(encoder):
    """Identifies an encoder: its weights, their precision, window and level."""
    code = 0
    for name, tensor in sorted(encoder.state_dict().items()):
        code = zlib.crc32(f"{name} {_checksum(tensor)}".encode(), code)
    dtype = str(next(encoder.parameters()).dtype).removeprefix("torch.")
    level = "" if encoder.peak_level is None else f"-{encoder.peak_level:g}"
    return f"{dtype}-{encoder.window:g}s{level}-{code:08x}"
