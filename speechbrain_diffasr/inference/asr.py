"""DiffusionASR: the pretrained interface."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from speechbrain.inference.ASR import EncoderDecoderASR
from speechbrain.utils.data_utils import split_path
from speechbrain.utils.fetching import FetchSource, fetch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from speechbrain_diffasr.dataio.audio import check_batch, check_waveform, load_audio
from speechbrain_diffasr.decoders.drafts import make_guesses
from speechbrain_diffasr.decoders.keywords import Keywords
from speechbrain_diffasr.decoders.language_id import LANGUAGE_FILE, LanguageTable
from speechbrain_diffasr.inference.pretrained import (
    SavedirRecord,
    check_source,
    override_yaml,
    save_pretrained,
)
from speechbrain_diffasr.inference.streaming import (
    READERS,
    DecodingOptions,
    FileStream,
    alternatives,
    broadcast,
)
from speechbrain_diffasr.segmentation.boundaries import as_turns
from speechbrain_diffasr.segmentation.segmenter import Segmenter
from speechbrain_diffasr.segmentation.windows import MAX_GAP
from speechbrain_diffasr.transcripts.alignment import WordAligner
from speechbrain_diffasr.transcripts.types import Segment, Transcript
from speechbrain_diffasr.utils.environment import check_device
from speechbrain_diffasr.utils.errors import AudioError
from speechbrain_diffasr.utils.parallel import OneAtATime
from speechbrain_diffasr.utils.paths import local_path

logger = logging.getLogger(__name__)

# SpeechBrain wraps whole modules for these, whose methods could then not be called.
_UNUSED_OPTIONS = ("jit", "jit_module_keys", "data_parallel_backend", "data_parallel_count")


class DiffusionASR(EncoderDecoderASR):
    """A ready-to-use recognizer that decodes by discrete diffusion.

    It is SpeechBrain's `EncoderDecoderASR` with what diffusion makes possible: denoising steps
    and a seed per call, a language in the prompt or none, and every draft of the canvas. The
    folders it loads also load in `EncoderDecoderASR` itself, with the same text.

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(source=shipped_model("diffasr-tiny"))
    >>> sample = Path(shipped_model("diffasr-tiny")) / "samples" / "en_1.wav"
    >>> asr.transcribe_file(sample) == sample.with_suffix(".txt").read_text().strip()
    True
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Buffers and contexts are those of the recognizer, so threads take turns.
        self._lock = OneAtATime()
        self._keyword_words, self._keywords = (), {}

    @classmethod
    def from_hparams(
        cls,
        source: str | Path,
        hparams_file: str = "hyperparams.yaml",
        overrides: dict = {},
        **kwargs,
    ) -> "DiffusionASR | None":
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
        FileNotFoundError
            If there is no such folder, or it lacks a part.
        ValueError
            If there is no such device, a file does not fit the others, or `savedir` has the files
            of another model.
        """
        if isinstance(kwargs.get("run_opts"), dict):
            kwargs["run_opts"] = _usable(kwargs["run_opts"])
            check_device(kwargs["run_opts"].get("device", "cpu"))
        if not isinstance(source, FetchSource):
            source = str(local_path(source))
            if "://" not in source:
                check_source(source, hparams_file)
        record = None
        if kwargs.get("savedir") is not None and not isinstance(source, FetchSource):
            revision = getattr(kwargs.get("fetch_config"), "revision", None)
            record = SavedirRecord(kwargs["savedir"], source, hparams_file, revision)
            record.check()
        asr = super().from_hparams(
            source=source, hparams_file=hparams_file, overrides=overrides, **kwargs
        )
        if record is not None:
            record.write()  # only now: a source that does not load is no reason to refuse another
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
    def languages(self) -> list[str]:
        """Codes that can be given as `language`."""
        return list(self.mods.decoder.prompt.languages)

    @property
    def language_table(self) -> LanguageTable | None:
        """Knows how languages are spelled, a `LanguageTable`; None if the folder has none."""
        return getattr(self.hparams.pretrainer, "language_table", None)

    @language_table.setter
    def language_table(self, table):
        self.hparams.pretrainer.language_table = table

    @property
    def decoding(self) -> dict:
        """How canvases start, what is joined and what is chosen among: `mods.decoder.configure`."""
        return self.mods.decoder.settings()

    @property
    def max_seconds(self) -> float:
        """Seconds of audio that are heard at once."""
        return float(self.hparams.window)

    @property
    def sample_rate(self) -> int:
        """Samples per second that the model takes."""
        return self.audio_normalizer.sample_rate

    def load_audio(self, path: str | Path, savedir: str | None = None) -> torch.Tensor:
        """Loads a file as this model wants it.

        Arguments
        ---------
        path : str or Path
            Any format that soundfile reads, any rate, any number of channels (they are averaged);
            a URL or a file of a Hub repository too.
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
        path = local_path(path)
        if "://" in str(path):
            return super().load_audio(str(path), savedir=savedir)
        wav = load_audio(path, self.sample_rate, self.max_seconds)
        return wav.to(self.device)

    def transcribe_file(
        self,
        path: str | Path,
        language: str | None = None,
        steps: int | None = None,
        seed: int | None = None,
        savedir: str | None = None,
        **options,
    ) -> str:
        """Transcribes an audio file of any length.

        Arguments
        ---------
        path : str or Path
            The file, in any format that soundfile reads; a URL or a file of a Hub repository
            too.
        language : str, optional
            Code of the spoken language. Default: the model's own, or else the
            prompt names none.
        steps : int, optional
            Denoising steps at most. Default: the model's own.
        seed : int, optional
            Of the canvas noise. Default: the model's own.
        savedir : str, optional
            Where a remote file is kept.
        **options : dict
            `draft`, `keywords`, `segmentation`, `boundaries`, `turns`, `max_gap`, `channels` and
            `batch_size` of `transcribe_long`.

        Returns
        -------
        text : str

        Raises
        ------
        AudioError
            If the file cannot be transcribed; the message names the file and the reason.
        """
        path = self._local(path, savedir)
        return self.transcribe_long(path, language, steps, seed, words=False, **options).text

    def transcribe_long(
        self,
        path: str | Path,
        language: str | None = None,
        steps: int | None = None,
        seed: int | None = None,
        words: bool = True,
        **options,
    ) -> Transcript:
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
        channels : str
            Of a file that has several: mix, first, separate (each is heard by itself, as a speaker
            such as "left"), or auto: separate where two hold different speech and `turns` does
            not tell who speaks, and else mix. Default: auto.
        draft : str or list or Transcript, optional
            What may be said, by another recognizer say, for canvases to start from instead of
            noise: a text, or several, the best first, one for each of the `candidates`; of audio
            that is longer than the model hears at once a Transcript, whose segments have times.
            Default: none.
        keywords : list of str, optional
            Words to expect, such as names; they are heard sooner. Default: none.
        n_best : int
            Texts that each segment gets as its `alternatives`, where it was chosen among several:
            with `candidates` or `readings`. Default: 0.
        batch_size : int
            Windows that are decoded together. Default: 8.

        Returns
        -------
        transcript : Transcript
            With `text`, `segments`, `words` and `speakers`; empty if nobody speaks.

        Raises
        ------
        AudioError
            If the file cannot be transcribed.
        BoundaryError
            If boundaries or turns cannot be used.

        Example
        -------
        >>> from pathlib import Path
        >>> from speechbrain_diffasr import DiffusionASR, shipped_model
        >>> asr = DiffusionASR.from_hparams(source=shipped_model("diffasr-tiny"))
        >>> sample = Path(shipped_model("diffasr-tiny")) / "samples" / "de_1.wav"
        >>> transcript = asr.transcribe_long(sample, boundaries=[(0.1, 1.5)])
        >>> [word.text for word in transcript.words]
        ['ich', 'weiß', 'es', 'nicht', 'mehr']
        """
        boundaries, turns = options.pop("boundaries", None), options.pop("turns", None)
        draft = options.pop("draft", None)
        decoding = DecodingOptions(
            language=language,
            steps=steps,
            seed=seed,
            words=words,
            boundaries=[boundaries],
            turns=None if turns is None else [as_turns(turns, path)],
            drafts=[draft],
            **options,
        )
        ((_, result),) = self.stream_files([path], options=decoding)
        if isinstance(result, AudioError):
            raise result
        _tell(result)
        return result

    def transcribe_files(
        self,
        paths: Iterable[str | Path],
        language: str | list | None = None,
        steps: int | None = None,
        seed: int | list | None = None,
        batch_size: int = 8,
        progress: bool = False,
        **options,
    ) -> list[str]:
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
        paths = list(paths)
        texts = [""] * len(paths)
        results = self.stream_files(paths, language, steps, seed, batch_size, **options)
        for index, result in tqdm(results, total=len(paths), unit="file", disable=not progress):
            if isinstance(result, AudioError):
                raise result
            _tell(result)
            texts[index] = result.text
        return texts

    def stream_files(
        self,
        paths: Iterable[str | Path],
        language: str | list | None = None,
        steps: int | None = None,
        seed: int | list | None = None,
        batch_size: int = 8,
        workers: int = READERS,
        segmentation: str = "auto",
        boundaries: list | None = None,
        turns: list | None = None,
        words: bool = False,
        max_gap: float | None = None,
        channels: str = "auto",
        drafts: list | None = None,
        keywords: list[str] | None = None,
        n_best: int = 0,
        on_window: Callable | None = None,
        callback: Callable | None = None,
        on_start: Callable | None = None,
        options: DecodingOptions | None = None,
    ) -> Iterator[tuple[int, Transcript | AudioError]]:
        """Transcribes many files of any length and gives each as soon as it is done.

        Files are read ahead in threads and, where several are decoded together, longest first; a
        window that ends makes room for the next, of whatever file. None of this changes a
        transcript.

        Arguments
        ---------
        paths : list
            The files.
        language, steps, seed, batch_size, workers, segmentation, boundaries, turns, words
            As `DecodingOptions` says.
        max_gap, channels, drafts, keywords, n_best
            As `DecodingOptions` says.
        on_window : callable, optional
            Called whenever a window of a long file is done, with the index of the file in
            `paths`, the seconds of it that are done, and all its seconds. Default: nothing.
        callback : callable, optional
            Is given a `Draft` of all that is decoded together after every denoising step.
            Default: nothing.
        on_start : callable, optional
            Called whenever a window is begun, with the path of its file, the `Window`, and the
            seconds of the file; with a batch of one, the drafts that follow are of it. Default:
            nothing.
        options : DecodingOptions, optional
            In place of the keywords that it holds.

        Returns
        -------
        results : iterator of (int, Transcript or AudioError)
            Index of the file in `paths`, and its transcript or why there is none.

        Raises
        ------
        ValueError
            If an argument is wrong.
        """
        if options is None:
            options = DecodingOptions(
                language=language,
                steps=steps,
                seed=seed,
                batch_size=batch_size,
                workers=workers,
                segmentation=segmentation,
                boundaries=boundaries,
                turns=turns,
                words=words,
                max_gap=max_gap,
                channels=channels,
                drafts=drafts,
                keywords=keywords,
                n_best=n_best,
            )
        if options.language is None:
            options = replace(options, language=self.mods.decoder.language)
        self.mods.decoder.sampler.check_steps(options.steps)
        requests = options.requests(list(paths))
        max_gap = options.max_gap
        if max_gap is None:
            max_gap = getattr(self.hparams, "max_gap", MAX_GAP)
        segmenter = Segmenter(self.max_seconds, options.segmentation, self.sample_rate, max_gap)
        stream = FileStream(self, segmenter, options, callback, on_start, on_window)
        return self._locked(stream, requests)

    def _locked(self, stream, requests):
        """Runs a stream while no other thread decodes."""
        with self._lock:
            for result in stream(requests):
                yield result
                # Web servers take each result in another thread of a pool.
                self._lock.adopt()

    def _local(self, path, savedir):
        """The path of a file that may have to be fetched."""
        path = local_path(path)
        if "://" not in str(path):
            return path
        source, name = split_path(str(path))
        return os.fspath(fetch(name, source=source, savedir=savedir))

    def transcribe(
        self,
        wavs: list[torch.Tensor],
        language: str | list | None = None,
        steps: int | None = None,
        seed: int | list | None = None,
        callback: Callable | None = None,
        drafts: list | None = None,
        keywords: list[str] | None = None,
        n_best: int = 0,
    ) -> list[Transcript]:
        """Transcribes a list of waveforms as one batch.

        Arguments
        ---------
        wavs : list of torch.Tensor
            Waveforms [T] at the model's sample rate.
        language : str or list, optional
            Code of the spoken language, for all or for each. Default: the model's own, or else the
            prompt names none.
        steps : int, optional
            Denoising steps at most. Default: the model's own.
        seed : int or list, optional
            Of the canvas noise, for all or for each. Default: the model's own.
        callback : callable, optional
            Is given a `Draft` after every denoising step.
        drafts : list, optional
            What may be said in each, a text or several as `make_guesses` takes them, or None.
            Default: none.
        keywords : list of str, optional
            Words to expect. Default: none.
        n_best : int
            Texts that each gets as the `alternatives` of its segment. Default: 0.

        Returns
        -------
        transcripts : list of Transcript

        Raises
        ------
        AudioError
            If a waveform is empty, longer than the model hears, not floating-point, all zeros, or
            not finite.
        """
        if not len(wavs):
            return []
        for index, wav in enumerate(wavs):
            check_waveform(wav, f"wavs[{index}]", self.max_seconds, self.sample_rate)
        lens = torch.tensor([len(wav) for wav in wavs])
        padded = pad_sequence(list(wavs), batch_first=True)
        seconds = [int(length) / self.sample_rate for length in lens]
        hypotheses, languages = self._search(
            *(padded, lens / lens.max(), language, steps, seed, callback, seconds),
            drafts=drafts,
            keywords=keywords,
        )
        parts = zip(hypotheses, languages, seconds, strict=True)
        return [self._transcript(*part, n_best) for part in parts]

    def _transcript(self, hypothesis, language, seconds, n_best):
        text = self.tokenizer.decode_ids(hypothesis.tokens)
        others = alternatives(hypothesis, self.tokenizer, n_best)
        segment = Segment(0.0, seconds, text, language=language, alternatives=others)
        return Transcript(
            segments=(segment,) if text else (),
            duration=seconds,
            language=language,
            steps=hypothesis.steps,
            tokens=tuple(hypothesis.tokens),
        )

    def keywords(self, words: list[str] | None, language: str | None = None) -> Keywords | None:
        """Words to expect, as the decoder takes them.

        Arguments
        ---------
        words : list of str
            None, and none, for none.
        language : str, optional
            In which they are spelled as texts of that language are. Default: not known.

        Returns
        -------
        keywords : Keywords

        Raises
        ------
        ValueError
            If the model cannot write one of them, or CTC has no say in its texts.
        """
        if not words:
            return None
        decoder = self.mods.decoder
        if not (decoder.ctc_weight or decoder.readings or decoder.start == "ctc"):
            raise ValueError(
                "keywords: they are heard by CTC, which has no say here; set ctc_weight or "
                "readings above 0, or start to ctc"
            )
        words = tuple(words)
        if words != self._keyword_words:
            self._keyword_words, self._keywords = words, {}
        if language not in self._keywords:
            self._keywords[language] = Keywords.from_words(
                words,
                self.tokenizer,
                decoder.model.vocab_size,
                language=language,
                **decoder.keyword_options,
            )
        return self._keywords[language]

    @cached_property
    def aligner(self) -> WordAligner:
        """Gives words their times and confidence, a WordAligner."""
        return WordAligner(
            self.mods.encoder,
            self.mods.decoder,
            temperature=getattr(self.hparams, "word_temperature", 1.0),
            calibration=getattr(self.hparams, "word_calibration", None),
        )

    def transcribe_batch(
        self,
        wavs: torch.Tensor,
        wav_lens: torch.Tensor,
        language: str | list | None = None,
        steps: int | None = None,
        seed: int | list | None = None,
        callback: Callable | None = None,
    ) -> tuple[list[str], list[list[int]]]:
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

        Raises
        ------
        AudioError
            As `transcribe`.
        """
        if not len(wavs):
            return [], []
        check_batch(wavs, wav_lens, self.max_seconds, self.sample_rate)
        hypotheses, _ = self._search(wavs, wav_lens, language, steps, seed, callback)
        tokens = [hypothesis.tokens for hypothesis in hypotheses]
        return [self.tokenizer.decode_ids(row) for row in tokens], tokens

    def forward(
        self, wavs: torch.Tensor, wav_lens: torch.Tensor, **kwargs
    ) -> tuple[list[str], list[list[int]]]:
        """Transcribes a padded batch; see `transcribe_batch`."""
        return self.transcribe_batch(wavs, wav_lens, **kwargs)

    def encode_batch(self, wavs: torch.Tensor, wav_lens: torch.Tensor) -> torch.Tensor:
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
            Projected audio, [B, num_frames, D].
        """
        with self._lock, torch.no_grad(), self.inference_ctx:
            return super().encode_batch(wavs, wav_lens)

    def _search(
        self,
        wavs,
        wav_lens,
        language,
        steps,
        seed,
        callback,
        seconds=None,
        drafts=None,
        keywords=None,
    ):
        """Encodes and decodes a batch; also returns the language of each utterance."""
        batch = len(wavs)
        default = self.mods.decoder.language if language is None else language
        languages = broadcast("language", default, batch)
        drafts = [
            None if draft is None else make_guesses(draft, self.tokenizer)
            for draft in broadcast("drafts", drafts, batch)
        ]
        expected = {
            "drafts": drafts,
            "keywords": [self.keywords(keywords, one) for one in languages],
        }
        with self._lock:
            return self._decode(
                wavs, wav_lens, languages, steps, seed, callback, seconds, **expected
            )

    def _decode(self, wavs, wav_lens, languages, steps, seed, callback, seconds, **expected):
        batch = len(wavs)
        audio = self.encode_batch(wavs, wav_lens)
        # Not around `encode_batch` too: entered twice, an autocast context never ends.
        with torch.no_grad(), self.inference_ctx:
            hypotheses = self.mods.decoder.search(
                audio,
                languages=languages,
                seeds=broadcast("seed", seed, batch),
                steps=steps,
                callback=callback,
                seconds=seconds,
                **expected,
            )
        return hypotheses, languages

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes a folder that `from_hparams` loads again.

        Arguments
        ---------
        folder : str or Path
            Made if needed.
        dtype : torch.dtype, optional
            To store the weights in; torch.int8 rounds matrices to 8 bits, which takes half the room
            of float16, and they are float again when they are loaded. Default: as they are.
        """
        save_pretrained(self.hparams.pretrainer, self.hyperparams, folder, dtype)


def _tell(transcript):
    """Logs what the reader of a text should know."""
    for note in transcript.notes:
        logger.warning("%s: %s", transcript.name, note)


def _usable(run_opts):
    """Options of SpeechBrain that can be followed here, the device by its name."""
    unused = [name for name in _UNUSED_OPTIONS if run_opts.get(name)]
    if unused:
        logger.warning("run_opts: %s: not used by this recognizer", ", ".join(unused))
    kept = {name: value for name, value in run_opts.items() if name not in _UNUSED_OPTIONS}
    if kept.get("device") is not None:
        kept["device"] = str(kept["device"])
    return kept
