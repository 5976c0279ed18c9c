"""DiffusionASR: the pretrained interface."""

from functools import cached_property
from pathlib import Path

import torch
from speechbrain.inference.ASR import EncoderDecoderASR
from speechbrain.utils.fetching import fetch
from torch.nn.utils.rnn import pad_sequence

from speechbrain_diffasr.audio import AudioError, load_audio
from speechbrain_diffasr.file_interface import FileInterface, for_each
from speechbrain_diffasr.hub import override_yaml, save_pretrained
from speechbrain_diffasr.language_table import LANGUAGE_FILE
from speechbrain_diffasr.longform import Transcript
from speechbrain_diffasr.segments import Segment
from speechbrain_diffasr.words import WordAligner


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


class DiffusionASR(FileInterface, EncoderDecoderASR):
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
            For SpeechBrain's `from_hparams`: `savedir` collects the files,
            `download_only=True` does no more, and `run_opts={"device": "cuda"}` says where to
            run.

        Returns
        -------
        asr : DiffusionASR
            None if it only downloads.

        Raises
        ------
        ValueError
            If a file does not fit the others.
        """
        source = str(source)
        asr = super().from_hparams(
            source=source, hparams_file=hparams_file, overrides=overrides, **kwargs
        )
        if asr is None:
            return None
        # Kept for `save_pretrained`, since the objects made from it no longer tell.
        keys = ("savedir", "local_strategy", "fetch_config")
        path = fetch(hparams_file, source, **{k: kwargs[k] for k in keys if k in kwargs})
        text = Path(path).read_text(encoding="utf-8")
        asr.hyperparams = override_yaml(text, overrides) if overrides else text
        if asr.language_table is not None:
            try:
                asr.language_table.check_vocabulary(asr.mods.decoder.model.vocab_size)
            except ValueError as error:
                raise ValueError(f"{LANGUAGE_FILE}: {error}") from None
        return asr

    @property
    def languages(self):
        """Codes that can be given as `language`."""
        return list(self.mods.decoder.prompt.languages)

    @property
    def language_table(self):
        """Knows how languages are spelled, a `LanguageTable`; None if the folder has none."""
        return getattr(self.hparams.pretrainer, "language_table", None)

    @language_table.setter
    def language_table(self, table):
        self.hparams.pretrainer.language_table = table

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
        text = self.tokenizer.decode_ids(hypothesis.tokens)
        return Transcript(
            text=text,
            tokens=hypothesis.tokens,
            language=language,
            duration=seconds,
            steps=hypothesis.steps,
            segments=(Segment(0.0, seconds, text, language=language),) if text else (),
        )

    @cached_property
    def aligner(self):
        """Gives words their times and confidence, a WordAligner."""
        return WordAligner(self.mods.encoder, self.mods.decoder)

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
        languages = for_each("language", default, batch)
        audio = self.encode_batch(wavs, wav_lens)
        # Not around `encode_batch` too: entered twice, an autocast context never ends.
        with torch.no_grad(), self.inference_ctx:
            hypotheses = self.mods.decoder.search(
                audio,
                languages=languages,
                seeds=for_each("seed", seed, batch),
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


__all__ = ["AudioError", "DiffusionASR", "Transcript", "check_device", "default_model"]
