"""DiffusionASR: the pretrained interface."""

from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from speechbrain.inference.ASR import EncoderDecoderASR
from speechbrain.utils.fetching import fetch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from speechbrain_diffasr.audio import AudioError, load_audio
from speechbrain_diffasr.decoders.searcher import Utterance
from speechbrain_diffasr.hub import override_yaml, save_pretrained
from speechbrain_diffasr.scheduling import longest_first, prefetch

# Threads that read audio: two keep up with 500 times real time.
READERS = 2
# Utterances that the acoustic encoder takes at once: more bring no speed but need memory.
ENCODED_TOGETHER = 16


@dataclass(frozen=True)
class Transcript:
    """What was heard in one utterance.

    Arguments
    ---------
    text : str
        The transcript.
    tokens : list of int
        Its tokens.
    language : str or None
        The language that the prompt named.
    duration : float
        Of the audio, in seconds.
    steps : int
        Denoising steps that were taken.
    """

    text: str
    tokens: list
    language: str | None
    duration: float
    steps: int


def default_model():
    """The model that ships beside the source code.

    Returns
    -------
    folder : str
        `pretrained/diffasr-tiny` of the checkout, for `DiffusionASR.from_hparams`.

    Example
    -------
    >>> Path(default_model()).name
    'diffasr-tiny'
    """
    return str(Path(__file__).resolve().parents[1] / "pretrained" / "diffasr-tiny")


def check_device(name):
    """Sees whether a device is there, before anything is loaded.

    Arguments
    ---------
    name : str or torch.device

    Raises
    ------
    ValueError
        If it is not.

    Example
    -------
    >>> check_device("cpu")
    >>> check_device("abacus")
    Traceback (most recent call last):
    ValueError: 'abacus' is not a device of this machine; try cpu
    """
    try:
        # Only a round trip shows whether the device is there and computes.
        torch.ones(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"{str(name)!r} is not a device of this machine; try cpu") from None


class DiffusionASR(EncoderDecoderASR):
    """A ready-to-use recognizer that decodes by discrete diffusion.

    It is SpeechBrain's `EncoderDecoderASR` with what diffusion makes possible: denoising steps
    and a seed per call, a language in the prompt or none, and every draft of the canvas. The
    folders it loads also load in `EncoderDecoderASR` itself, with the same text.

    Example
    -------
    >>> asr = DiffusionASR.from_hparams(source=default_model())
    >>> sample = Path(default_model()) / "samples" / "en_1.wav"
    >>> asr.transcribe_file(sample) == sample.with_suffix(".txt").read_text().strip()
    True
    """

    @classmethod
    def from_hparams(cls, source, hparams_file="hyperparams.yaml", overrides={}, **kwargs):
        """Loads a pretrained folder or Hub repository.

        Arguments
        ---------
        source : str or Path
            A folder, or the name of a Hub repository.
        hparams_file : str
            The YAML file in it. Default: "hyperparams.yaml".
        overrides : dict
            Values of the YAML file to change, such as `{"denoising_steps": 16}`.
        **kwargs : dict
            For SpeechBrain's `from_hparams`: `savedir` collects the files, and
            `run_opts={"device": "cuda"}` says where to run.

        Returns
        -------
        asr : DiffusionASR
        """
        source = str(source)
        asr = super().from_hparams(
            source=source, hparams_file=hparams_file, overrides=overrides, **kwargs
        )
        # Kept for `save_pretrained`, since the objects made from it no longer tell.
        keys = ("savedir", "local_strategy", "fetch_config")
        path = fetch(hparams_file, source, **{k: kwargs[k] for k in keys if k in kwargs})
        text = Path(path).read_text(encoding="utf-8")
        asr.hyperparams = override_yaml(text, overrides) if overrides else text
        return asr

    @property
    def languages(self):
        """Codes that can be given as `language`."""
        return list(self.mods.decoder.prompt.languages)

    @property
    def max_seconds(self):
        """Seconds of audio that are heard at once."""
        return float(self.hparams.window)

    @property
    def sample_rate(self):
        """Samples per second that the model takes."""
        return self.audio_normalizer.sample_rate

    def load_audio(self, path, savedir=None):
        """Loads a file as this model wants it.

        Arguments
        ---------
        path : str or Path
            Any format that soundfile reads, any rate, any number of channels; a URL or a file
            of a Hub repository too.
        savedir : str, optional
            Where a remote file is kept.

        Returns
        -------
        wav : torch.Tensor
            [T], at the model's sample rate.

        Raises
        ------
        AudioError
            If the file cannot be transcribed; the message names the file and the reason.
        """
        if "://" in str(path):
            return super().load_audio(str(path), savedir=savedir)
        wav = load_audio(path, self.sample_rate, self.max_seconds)
        return wav.to(self.device)

    def transcribe(self, wavs, language=None, steps=None, seed=None, callback=None):
        """Transcribes a list of waveforms as one batch.

        Arguments
        ---------
        wavs : list of torch.Tensor
            Waveforms [T] at the model's sample rate.
        language : str or list, optional
            Code of the spoken language, for all or for each. Default: the prompt names none.
        steps : int, optional
            Denoising steps at most. Default: the model's own.
        seed : int or list, optional
            Of the canvas noise, for all or for each. Default: the model's own.
        callback : callable, optional
            Is given a `Draft` after every denoising step.

        Returns
        -------
        transcripts : list of Transcript
        """
        if not wavs:
            return []
        lens = torch.tensor([len(wav) for wav in wavs])
        padded = pad_sequence(list(wavs), batch_first=True)
        seconds = [int(length) / self.sample_rate for length in lens]
        hypotheses, languages = self._search(
            padded, lens / lens.max(), language, steps, seed, callback, seconds
        )
        parts = zip(hypotheses, languages, seconds, strict=True)
        return [self._transcript(*part) for part in parts]

    def _transcript(self, hypothesis, language, seconds):
        return Transcript(
            text=self.tokenizer.decode_ids(hypothesis.tokens),
            tokens=hypothesis.tokens,
            language=language,
            duration=seconds,
            steps=hypothesis.steps,
        )

    def transcribe_file(self, path, language=None, steps=None, seed=None, **kwargs):
        """Transcribes an audio file.

        Arguments
        ---------
        path : str or Path
            The file.
        language : str, optional
            Code of the spoken language. Default: the prompt names none.
        steps : int, optional
            Denoising steps at most. Default: the model's own.
        seed : int, optional
            Of the canvas noise. Default: the model's own.
        **kwargs : dict
            For `load_audio`.

        Returns
        -------
        text : str
        """
        wav = self.load_audio(path, **kwargs)
        return self.transcribe([wav], language, steps, seed)[0].text

    def transcribe_files(
        self, paths, language=None, steps=None, seed=None, batch_size=8, progress=False
    ):
        """Transcribes many files, `batch_size` at a time.

        Arguments
        ---------
        paths : list
            The files.
        language, steps, seed
            As for `transcribe_file`.
        batch_size : int
            Files that are decoded together. Default: 8.
        progress : bool
            Whether to show a progress bar. Default: False.

        Returns
        -------
        texts : list of str
            In the order of `paths`.
        """
        texts = [None] * len(paths)
        results = self.stream_files(paths, language, steps, seed, batch_size)
        for index, result in tqdm(results, total=len(paths), unit="file", disable=not progress):
            if isinstance(result, AudioError):
                raise result
            texts[index] = result.text
        return texts

    def stream_files(
        self, paths, language=None, steps=None, seed=None, batch_size=8, workers=READERS
    ):
        """Transcribes many files and gives each as soon as it is done.

        Files are read ahead in threads and decoded longest first; an utterance that ends makes
        room for the next. None of this changes a transcript.

        Arguments
        ---------
        paths : list
            The files.
        language : str or list, optional
            Code of the spoken language, for all or for each. Default: the prompt names none.
        steps : int, optional
            Denoising steps at most. Default: the model's own.
        seed : int or list, optional
            Of the canvas noise, for all or for each. Default: the model's own.
        batch_size : int
            Files that are decoded together. Default: 8.
        workers : int
            Threads that read files. Default: 2.

        Returns
        -------
        results : iterator of (int, Transcript or AudioError)
            Place of the file in `paths`, and its transcript or why there is none.
        """
        default = self.mods.decoder.language if language is None else language
        languages = _for_each("language", default, len(paths))
        seeds = _for_each("seed", seed, len(paths))
        failed = deque()

        def read(index):
            try:
                return index, load_audio(paths[index], self.sample_rate, self.max_seconds)
            except AudioError as error:
                return index, error

        def utterances():
            ahead = prefetch(read, longest_first(paths), workers, ahead=2 * batch_size)
            while part := list(islice(ahead, min(batch_size, ENCODED_TOGETHER))):
                failed.extend(both for both in part if isinstance(both[1], AudioError))
                part = [both for both in part if not isinstance(both[1], AudioError)]
                if not part:
                    continue
                indices, wavs = zip(*part, strict=True)
                lens = torch.tensor([len(wav) for wav in wavs])
                audio = self.encode_batch(pad_sequence(wavs, batch_first=True), lens / lens.max())
                for index, row, length in zip(indices, audio, lens.tolist(), strict=True):
                    seconds = length / self.sample_rate
                    key = index, seconds
                    yield Utterance(row, key, languages[index], seeds[index], seconds)

        def results(hypotheses):
            for hypothesis in hypotheses:
                while failed:
                    yield failed.popleft()
                index, seconds = hypothesis.key
                yield index, self._transcript(hypothesis, languages[index], seconds)
            yield from failed

        with self.inference_ctx:
            return results(self.mods.decoder.stream(utterances(), batch_size, steps))

    def transcribe_batch(self, wavs, wav_lens, language=None, steps=None, seed=None, callback=None):
        """Transcribes a padded batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms at the model's sample rate, [B, T].
        wav_lens : torch.Tensor
            Lengths relative to the longest, [B].
        language, steps, seed, callback
            As for `transcribe`.

        Returns
        -------
        texts : list of str
        tokens : list of list of int
        """
        hypotheses, _ = self._search(wavs, wav_lens, language, steps, seed, callback)
        tokens = [hypothesis.tokens for hypothesis in hypotheses]
        return [self.tokenizer.decode_ids(row) for row in tokens], tokens

    def forward(self, wavs, wav_lens, **kwargs):
        """Transcribes a padded batch; see `transcribe_batch`."""
        return self.transcribe_batch(wavs, wav_lens, **kwargs)

    def encode_batch(self, wavs, wav_lens):
        """Encodes waveforms into audio embeddings.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms at the model's sample rate, [B, T].
        wav_lens : torch.Tensor
            Lengths relative to the longest, [B].

        Returns
        -------
        audio : torch.Tensor
            Projected audio for the slots of the prompt, [B, num_slots, D].
        """
        with torch.no_grad(), self.inference_ctx:
            return super().encode_batch(wavs, wav_lens)

    def _search(self, wavs, wav_lens, language, steps, seed, callback, seconds=None):
        """Encodes and decodes a batch; also returns the language of each utterance."""
        batch = len(wavs)
        default = self.mods.decoder.language if language is None else language
        languages = _for_each("language", default, batch)
        audio = self.encode_batch(wavs, wav_lens)
        # Not around `encode_batch` too: entered twice, an autocast context never ends.
        with torch.no_grad(), self.inference_ctx:
            hypotheses = self.mods.decoder.search(
                audio,
                languages=languages,
                seeds=_for_each("seed", seed, batch),
                steps=steps,
                callback=callback,
                seconds=seconds,
            )
        return hypotheses, languages

    def save_pretrained(self, folder, dtype=None):
        """Writes a folder that `from_hparams` loads again.

        Arguments
        ---------
        folder : str or Path
            Made if needed.
        dtype : torch.dtype, optional
            To store the weights in. Default: as they are.
        """
        save_pretrained(self.hparams.pretrainer, self.hyperparams, folder, dtype)


def _for_each(name, value, batch):
    """Repeats one value for a batch, or checks that a list has one for each utterance."""
    if not isinstance(value, list | tuple):
        return [value] * batch
    if len(value) != batch:
        raise ValueError(f"{name}: {len(value)} values for {batch} utterances")
    return list(value)


__all__ = ["AudioError", "DiffusionASR", "Transcript", "check_device", "default_model"]
