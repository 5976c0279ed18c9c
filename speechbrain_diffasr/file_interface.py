"""What `DiffusionASR` does with audio files."""

import os

from speechbrain.utils.data_utils import split_path
from speechbrain.utils.fetching import fetch
from tqdm import tqdm

from speechbrain_diffasr.audio import AudioError
from speechbrain_diffasr.file_stream import FileStream, Request
from speechbrain_diffasr.longform import as_turns
from speechbrain_diffasr.segmentation import Segmenter
from speechbrain_diffasr.windows import MAX_GAP

# Threads that read audio: two keep up with 500 times real time.
READERS = 2


class FileInterface:
    """Transcription of files of any length, the part of `DiffusionASR` that knows of paths."""

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
        >>> from pathlib import Path
        >>> from speechbrain_diffasr.inference import DiffusionASR, default_model
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
        on_window=None,
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
        on_window : callable, optional
            Called whenever a window of a long file is done, with the place of the file in
            `paths`, the seconds of it that are done, and all its seconds. Default: nothing.

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
                for_each("language", default, count),
                for_each("seed", seed, count),
                for_each("boundaries", boundaries, count),
                for_each("turns", turns, count),
                strict=True,
            )
        ]
        if max_gap is None:
            max_gap = getattr(self.hparams, "max_gap", MAX_GAP)
        segmenter = Segmenter(self.max_seconds, segmentation, self.sample_rate, max_gap)
        return FileStream(self, segmenter, batch_size, workers, steps, words, on_window)(requests)

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


def for_each(name, value, batch):
    """Repeats one value for a batch, or checks that a list has one for each utterance.

    Arguments
    ---------
    name : str
        Of the argument, for messages.
    value : object
        A list or tuple has one for each; anything else is one for all.
    batch : int

    Returns
    -------
    values : list

    Raises
    ------
    ValueError
        If a list is of another length.

    Example
    -------
    >>> for_each("seed", 3, 2), for_each("seed", [3, 4], 2)
    ([3, 3], [3, 4])
    """
    if not isinstance(value, list | tuple):
        return [value] * batch
    if len(value) != batch:
        raise ValueError(f"{name}: {len(value)} values for {batch} utterances")
    return list(value)
