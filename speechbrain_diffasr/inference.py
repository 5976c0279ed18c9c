"""DiffusionASR: the pretrained interface."""

import os
from functools import cached_property
from pathlib import Path

import torch
from speechbrain.inference.ASR import EncoderDecoderASR
from speechbrain.utils.data_utils import split_path
from speechbrain.utils.fetching import fetch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from speechbrain_diffasr.audio import AudioError, load_audio
from speechbrain_diffasr.file_stream import FileStream, Request
from speechbrain_diffasr.hub import override_yaml, save_pretrained
from speechbrain_diffasr.language import LANGUAGE_FILE, LanguageTable
from speechbrain_diffasr.longform import Transcript, as_turns
from speechbrain_diffasr.segmentation import Segmenter
from speechbrain_diffasr.segments import Segment
from speechbrain_diffasr.windows import MAX_GAP
from speechbrain_diffasr.words import WordAligner

# Threads that read audio: two keep up with 500 times real time.
READERS = 2


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

    # Knows how languages are spelled, if the model's folder has it.
    language_table = None

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
        table = Path(path).parent / LANGUAGE_FILE
        if not table.is_file():
            table = Path(source) / LANGUAGE_FILE
        if table.is_file():
            asr.language_table = LanguageTable.load(table)
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

    def transcribe_file(self, path, language=None, steps=None, seed=None, savedir=None, **options):
        """Transcribes an audio file of any length.

        Arguments
        ---------
        path : str or Path
            The file, in any format that soundfile reads; a URL or a file of a Hub repository
            too.
        language : str, optional
            Code of the spoken language. Default: the prompt names none.
        steps : int, optional
            Denoising steps at most. Default: the model's own.
        seed : int, optional
            Of the canvas noise. Default: the model's own.
        savedir : str, optional
            Where a remote file is kept.
        **options : dict
            `segmentation`, `boundaries`, `turns`, `max_gap` and `batch_size` of `transcribe_long`.

        Returns
        -------
        text : str

        Raises
        ------
        AudioError
            If the file cannot be transcribed; the message names the file and the reason.
        """
        path = self._local(path, savedir)
        return self._transcribe_one(path, language, steps, seed, **options).text

    def transcribe_long(self, path, language=None, steps=None, seed=None, words=True, **options):
        """Transcribes an audio file of any length, with times and speakers.

        The file is read in blocks; memory does not grow with it. Speech is cut into windows that
        the model hears at once, never inside of what a detector found unless that is longer.

        Arguments
        ---------
        path : str or Path
            The file.
        language, steps, seed
            As for `transcribe_file`.
        words : bool
            Whether words get times and confidence. Default: True.
        segmentation : str
            auto, vad, fixed or none; see `Segmenter`. Default: auto.
        boundaries : torch.Tensor or list or str or Path, optional
            Where speech is: the tensor of SpeechBrain's `VAD.get_speech_segments`, its saved
            file, or pairs of seconds. What lies outside is not heard, but for a margin of 0.1 s.
            Default: it is found.
        turns : str or Path or list of Region, optional
            Who speaks when: an RTTM file, or what `read_rttm` made of it. Of overlapping turns
            each moment goes to one, see `flatten_turns`. Alone they are the boundaries as well;
            with boundaries, or another segmentation than auto, each word goes to the speaker in
            whose turn it lies. Default: not known.
        max_gap : float, optional
            Longest pause inside of a window, in seconds; see `Segmenter`. Default: the model's
            own, or 1 if it has none.
        batch_size : int
            Windows that are decoded together. Default: 8.

        Returns
        -------
        transcript : LongTranscript
            With `text`, `segments`, `words` and `speakers`; empty if nobody speaks.

        Raises
        ------
        AudioError
            If the file cannot be transcribed.
        BoundaryError
            If boundaries or turns cannot be used.

        Example
        -------
        >>> asr = DiffusionASR.from_hparams(source=default_model())
        >>> sample = Path(default_model()) / "samples" / "de_1.wav"
        >>> transcript = asr.transcribe_long(sample, boundaries=[(0.1, 1.5)])
        >>> [word.text for word in transcript.words]
        ['ich', 'weiß', 'es', 'nicht', 'mehr']
        """
        transcript = self._transcribe_one(path, language, steps, seed, words=words, **options)
        return transcript.named(path)

    def transcribe_files(
        self, paths, language=None, steps=None, seed=None, batch_size=8, progress=False, **options
    ):
        """Transcribes many files of any length, `batch_size` at a time.

        Arguments
        ---------
        paths : list
            The files.
        language, steps, seed
            As for `transcribe_file`.
        batch_size : int
            Windows that are decoded together. Default: 8.
        progress : bool
            Whether to show a progress bar. Default: False.
        **options : dict
            For `stream_files`.

        Returns
        -------
        texts : list of str
            In the order of `paths`.
        """
        texts = [None] * len(paths)
        results = self.stream_files(paths, language, steps, seed, batch_size, **options)
        for index, result in tqdm(results, total=len(paths), unit="file", disable=not progress):
            if isinstance(result, AudioError):
                raise result
            texts[index] = result.text
        return texts

    def stream_files(
        self,
        paths,
        language=None,
        steps=None,
        seed=None,
        batch_size=8,
        workers=READERS,
        segmentation="auto",
        boundaries=None,
        turns=None,
        words=False,
        max_gap=None,
    ):
        """Transcribes many files of any length and gives each as soon as it is done.

        Files are read ahead in threads and decoded longest first; a window that ends makes room
        for the next, of whatever file. None of this changes a transcript.

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
            Windows that are decoded together. Default: 8.
        workers : int
            Threads that read files. Default: 2.
        segmentation : str
            For all; see `Segmenter`. Default: auto.
        boundaries, turns : list, optional
            For each file what `transcribe_long` takes, or None. Default: not known.
        words : bool
            Whether segments get words with times. Default: False.
        max_gap : float, optional
            Longest pause inside of a window, in seconds; see `Segmenter`. Default: the model's
            own, or 1 if it has none.

        Returns
        -------
        results : iterator of (int, Transcript or AudioError)
            Place of the file in `paths`, and its transcript or why there is none.

        Raises
        ------
        ValueError
            If an argument is wrong.
        """
        paths = list(paths)
        count = len(paths)
        default = self.mods.decoder.language if language is None else language
        self.mods.decoder.sampler.check_steps(steps)
        requests = [
            Request(*parts)
            for parts in zip(
                paths,
                _for_each("language", default, count),
                _for_each("seed", seed, count),
                _for_each("boundaries", boundaries, count),
                _for_each("turns", turns, count),
                strict=True,
            )
        ]
        if max_gap is None:
            max_gap = getattr(self.hparams, "max_gap", MAX_GAP)
        segmenter = Segmenter(self.max_seconds, segmentation, self.sample_rate, max_gap)
        return FileStream(self, segmenter, batch_size, workers, steps, words)(requests)

    def _transcribe_one(
        self, path, language, steps, seed, boundaries=None, turns=None, batch_size=8, **options
    ):
        """The transcript of one file."""
        turns = None if turns is None else as_turns(turns, path)
        results = self.stream_files(
            [path],
            language,
            steps,
            seed,
            batch_size,
            boundaries=[boundaries],
            turns=[turns],
            **options,
        )
        ((_, result),) = results
        if isinstance(result, AudioError):
            raise result
        return result

    def _local(self, path, savedir):
        """The path of a file that may have to be fetched."""
        if "://" not in str(path):
            return path
        source, name = split_path(str(path))
        return os.fspath(fetch(name, source=source, savedir=savedir))

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
        if self.language_table is not None:
            self.language_table.save(Path(folder) / LANGUAGE_FILE)


def _for_each(name, value, batch):
    """Repeats one value for a batch, or checks that a list has one for each utterance."""
    if not isinstance(value, list | tuple):
        return [value] * batch
    if len(value) != batch:
        raise ValueError(f"{name}: {len(value)} values for {batch} utterances")
    return list(value)


__all__ = ["AudioError", "DiffusionASR", "Transcript", "check_device", "default_model"]
