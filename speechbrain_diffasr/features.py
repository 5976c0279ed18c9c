"""Frames of the frozen encoder on disk: each utterance is encoded once for all epochs and runs."""

import hashlib
import os
import zlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from speechbrain_diffasr.dataprep import replacing


class FeatureCache:
    """What a frozen Whisper encoder makes of utterances, kept in safetensors files.

    A whole window of each utterance is kept, since padding leaves traces in all frames: for
    Whisper-small in bfloat16 that is 2.3 MB an utterance, 0.66 GB an hour of LibriSpeech. Frames
    are found by the encoder's weights, its window, and path, size and time of the recording, so
    nothing stale is ever used.

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
    >>> from speechbrain_diffasr.inference import DiffusionASR, default_model
    >>> asr, folder = DiffusionASR.from_hparams(default_model()), getfixture("tmp_path")
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
            with safe_open(path, "pt") as file:
                self.places.update(dict.fromkeys(file.keys(), path))

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
        """
        self.refresh()
        keys = {_key(path): path for path in dict.fromkeys(paths)}
        missing = [(key, path) for key, path in keys.items() if key not in self.places]
        missing = missing[rank::world_size]
        self.folder.mkdir(parents=True, exist_ok=True)
        device = next(self.encoder.parameters()).device
        with tqdm(total=len(missing), unit="utt", desc="Encoding", disable=not progress) as bar:
            for start in range(0, len(missing), self.shard_size):
                shard = missing[start : start + self.shard_size]
                frames = {}
                for first in range(0, len(shard), batch_size):
                    batch = shard[first : first + batch_size]
                    wavs = [load_audio(path).to(device) for _, path in batch]
                    encoded = self._encode(wavs)
                    frames.update((key, row) for (key, _), row in zip(batch, encoded, strict=True))
                    bar.update(len(batch))
                name = hashlib.sha1(" ".join(frames).encode()).hexdigest()[:16]
                with replacing(self.folder / f"{name}.safetensors") as part:
                    save_file(frames, part)
        self.refresh()

    def _encode(self, wavs):
        """Frames of waveforms, each [frames, width] on the CPU."""
        lens = torch.tensor([len(wav) for wav in wavs])
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        with torch.no_grad():
            frames = self.encoder(padded, lens / lens.max())
        return [row.cpu().clone() for row in frames]

    def __getitem__(self, path):
        """The frames of a recording, [frames, width]."""
        key = _key(path)
        if key not in self.places:
            raise KeyError(f"{path}: not in the feature cache {self.folder}; was it changed?")
        # A file opened before a data loader's fork cannot be shared with its workers.
        place = os.getpid(), self.places[key]
        if place not in self.files:
            self.files[place] = safe_open(place[1], "pt")
        return self.files[place].get_tensor(key)

    @property
    def size(self):
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))


def _key(path):
    """Identifies a recording as it is now."""
    info = os.stat(path)
    name = f"{os.path.realpath(path)} {info.st_size} {info.st_mtime_ns}"
    return hashlib.sha1(name.encode()).hexdigest()


def _fingerprint(encoder):
    """Identifies an encoder: its weights, their precision, and the window."""
    code = 0
    for name, tensor in sorted(encoder.state_dict().items()):
        values = tensor.detach().cpu().contiguous().view(torch.uint8)
        code = zlib.crc32(values.numpy().tobytes(), zlib.crc32(name.encode(), code))
    dtype = str(next(encoder.parameters()).dtype).removeprefix("torch.")
    return f"{dtype}-{encoder.window:g}s-{code:08x}"
