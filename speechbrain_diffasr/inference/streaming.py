"""Files to transcripts, in stages: read → cut → encode → search → assemble.

```
requests ─ FileReader ─ files ─ WindowCutter ─ windows ─ WindowEncoder ─ utterances ┐
                          │ those that cannot be read, or hold no speech          Queue ┐
results ──────────────────┴──────────────── Assembler ─ hypotheses ─ DiffusionSearcher ─┘
```

Windows of all files go through one queue, so that a long file leaves no gap. In memory are the
windows on their way, never a long file. None of this changes a transcript.
"""

from dataclasses import dataclass, field, replace
from itertools import count, islice

import torch
from torch.nn.utils.rnn import pad_sequence

from speechbrain_diffasr.dataio.audio import AudioStream, load_audio
from speechbrain_diffasr.dataio.channels import APART
from speechbrain_diffasr.dataio.header import file_seconds
from speechbrain_diffasr.decoders.drafts import make_guesses
from speechbrain_diffasr.decoders.language_id import FoundLanguage, identify_language
from speechbrain_diffasr.decoders.queueing import Queue, Utterance
from speechbrain_diffasr.inference.drafts import draft_of
from speechbrain_diffasr.segmentation.boundaries import as_regions, as_turns
from speechbrain_diffasr.segmentation.levels import find_sound, quietest_point
from speechbrain_diffasr.segmentation.regions import Region
from speechbrain_diffasr.segmentation.segmenter import MARGIN
from speechbrain_diffasr.segmentation.turns import flatten_turns
from speechbrain_diffasr.segmentation.windows import Window, WindowPlan
from speechbrain_diffasr.text.recordings import CHANNELS
from speechbrain_diffasr.transcripts.assembly import WindowResult, assemble, merge_channels
from speechbrain_diffasr.transcripts.types import Alternative, Transcript
from speechbrain_diffasr.utils.errors import AudioError
from speechbrain_diffasr.utils.parallel import prefetch
from speechbrain_diffasr.utils.paths import local_path, path_text

# Threads that read audio: two keep up with 500 times real time.
READERS = 2
# Files whose headers are read before the first is decoded.
SORTED_TOGETHER = 1024
# Utterances that the acoustic encoder takes at once: more bring no speed but need memory.
ENCODED_TOGETHER = 16
# A window whose text does not fit the canvas is cut in two, unless it is shorter than this.
SHORTEST_CUT = 1.0  # s


@dataclass(frozen=True)
class DecodingOptions:
    """How files are transcribed: what `DiffusionASR.stream_files` takes as keywords, as one value.

    Arguments
    ---------
    language : str or list, optional
        Code of the spoken language, for all files or for each. Default: the model's own, or else
        the prompt names none.
    steps : int, optional
        Denoising steps at most. Default: the model's own.
    seed : int or list, optional
        Of the canvas noise, for all or for each. Default: the model's own.
    batch_size : int
        Windows that are decoded together. Default: 8.
    workers : int
        Threads that read files. Default: 2.
    segmentation : str
        auto, vad, fixed or none; see `Segmenter`. Default: auto.
    boundaries, turns : list, optional
        For each file where speech is and who speaks when, as `DiffusionASR.transcribe_long` takes
        them, or None. Default: not known.
    words : bool
        Whether segments get words with times. Default: False.
    max_gap : float, optional
        Longest pause inside of a window, in seconds; see `Segmenter`. Default: the model's own,
        or 1 if it has none.
    channels : str
        Of files that have several: mix (their mean), first, separate (each is heard by itself, as
        a speaker: left and right, or channel 1 and so on), or auto: separate where two hold
        different speech and `turns` does not tell who speaks, and else mix. Default: auto.
    drafts : list, optional
        For each file what may be said, for canvases to start from, or None: a text or several, as
        `make_guesses` takes them, for a file that is heard at once, or a Transcript. Default: none.
    keywords : list of str, optional
        Words to expect. Default: none.
    n_best : int
        Texts that each segment gets as its alternatives, if it was chosen among several. Default:
        0.
    """

    language: str | list | None = None
    steps: int | None = None
    seed: int | list | None = None
    batch_size: int = 8
    workers: int = READERS
    segmentation: str = "auto"
    boundaries: list | None = None
    turns: list | None = None
    words: bool = False
    max_gap: float | None = None
    channels: str = "auto"
    drafts: list | None = None
    keywords: list | None = None
    n_best: int = 0

    def requests(self, paths):
        """What is asked for each file.

        Arguments
        ---------
        paths : list

        Returns
        -------
        requests : list of Request

        Raises
        ------
        ValueError
            If a list is of another length, or channels cannot be heard so.
        """
        if self.channels not in CHANNELS:
            raise ValueError(
                f"channels: {self.channels!r} is unknown; choose {', '.join(CHANNELS)}"
            )
        each = [
            broadcast(name, getattr(self, name), len(paths))
            for name in ("language", "seed", "boundaries", "turns", "drafts")
        ]
        requests = [Request(*parts) for parts in zip(map(local_path, paths), *each, strict=True)]
        if self.channels == "separate" and any(one.turns is not None for one in requests):
            raise ValueError("channels: separate makes each a speaker; give no turns with it")
        return requests


@dataclass(frozen=True)
class Request:
    """A file that is to be transcribed.

    Arguments
    ---------
    path : str or Path
    language : str, optional
        Default: the prompt names none.
    seed : int, optional
        Of the canvas noise. Default: the model's own.
    boundaries : torch.Tensor or list or str, optional
        Where speech is, as `as_regions` takes it. Default: it is found.
    turns : list of Region or str or Path, optional
        Who speaks when, as `as_turns` takes it. Default: not known.
    draft : str or list or Transcript, optional
        What may be said, as `DecodingOptions.drafts` has it. Default: not known.
    """

    path: object
    language: str | None = None
    seed: int | None = None
    boundaries: object = None
    turns: object = None
    draft: object = None


@dataclass(eq=False)
class _File:
    """A file on its way."""

    index: int
    request: Request
    plan: WindowPlan | None = None
    source: object = None  # a waveform, or where to read the windows from
    error: AudioError | None = None
    speakers: list | None = None  # turns that say whose words are, and not where speech is
    is_read: bool = False
    siblings: list | None = None  # the file once for each channel, if they are heard apart
    result: Transcript | AudioError | None = None
    notes: tuple = ()
    waiting: int = 0  # windows that are not decoded yet
    done: float = 0.0  # s, as far as anything was heard
    heard: list = field(default_factory=list)

    @property
    def is_whole(self):
        """Whether it is one window."""
        return torch.is_tensor(self.source)

    def needs_words(self, options):
        """Whether words need times: seams are joined by them, and speakers get words by them."""
        return options.words or self.plan.overlapping or self.request.turns is not None


@dataclass(eq=False)
class _Part:
    """A window of a file on its way."""

    file: _File
    window: Window
    wav: torch.Tensor
    audio: torch.Tensor | None = None
    language: FoundLanguage | None = None


class FileStream:
    """Transcribes files and gives each as soon as it is done.

    Arguments
    ---------
    asr : DiffusionASR
    segmenter : Segmenter
    options : DecodingOptions
    callback : callable, optional
        Is given a `Draft` after every denoising step. Default: nothing.
    on_start : callable, optional
        Called when a window is begun, with the path of its file, the window, and the seconds of
        the file. Default: nothing.
    on_window : callable, optional
        Called when a window of a long file is done, with the index of the file, the seconds of it
        that are done, and all its seconds. Default: nothing.
    """

    def __init__(self, asr, segmenter, options, callback=None, on_start=None, on_window=None):
        self.asr = asr
        self.options = options
        self.callback = callback
        self.on_start = on_start
        self.read = FileReader(segmenter, options)
        self.cut = WindowCutter(segmenter.sample_rate, options.batch_size)
        self.encode = WindowEncoder(asr, options)
        self.assembler = Assembler(asr, options, on_window)

    def __call__(self, requests):
        """Transcribes files.

        Arguments
        ---------
        requests : list of Request

        Yields
        ------
        result : (int, Transcript or AudioError)
            Index of the file, and its transcript or why there is none.
        """
        queue = Queue()
        parts = self.cut(self.read(requests))
        with self.asr.inference_ctx:
            # Only the call looks at the context, and it must not be entered twice.
            hypotheses = self.asr.mods.decoder.stream(
                queue,
                self.options.batch_size,
                self.options.steps,
                self.callback,
                None if self.on_start is None else self._announce,
            )
        while True:
            yield from self._fill(queue, parts)
            hypothesis = next(hypotheses, None)
            if hypothesis is None:
                return
            part = hypothesis.key
            halves = self.assembler.halves(part, hypothesis)
            if halves:
                queue.put_front(self.encode(halves))
            else:
                self.assembler.add(part, hypothesis)
            yield from self.assembler.finish(part.file)

    def _fill(self, queue, parts):
        """Encodes windows until a batch waits; yields files that end without being decoded."""
        size = min(self.options.batch_size, ENCODED_TOGETHER)
        while len(queue) < self.options.batch_size:
            taken = list(islice(parts, size))
            queue.put(self.encode([part for part in taken if isinstance(part, _Part)]))
            for file in taken:
                if isinstance(file, _File):
                    yield from self.assembler.finish(file)
            if len(taken) < size:
                return

    def _announce(self, utterance):
        # A canvas that was too short starts anew, and is no other window.
        if utterance.canvas_length is None:
            file = utterance.key.file
            self.on_start(file.request.path, utterance.key.window, file.plan.duration)


class FileReader:
    """The first stage: reads each file once, ahead in threads.

    A file is read whole if it is one utterance, otherwise to find its windows.

    Arguments
    ---------
    segmenter : Segmenter
    options : DecodingOptions
    """

    def __init__(self, segmenter, options):
        self.segmenter = segmenter
        self.options = options

    def __call__(self, requests):
        """Reads files.

        Arguments
        ---------
        requests : list of Request

        Yields
        ------
        file : _File
            With a plan and a source, or with an error; one for each channel, if these are heard
            apart. Longest first, where several are decoded together.
        """
        order = range(len(requests))
        if self.options.batch_size > 1:
            order = longest_first([request.path for request in requests])
        for files in prefetch(
            lambda index: self._read(index, requests[index], len(requests) == 1),
            order,
            self.options.workers,
            ahead=2 * self.options.batch_size,
        ):
            yield from files

    def _read(self, index, request, allow_other_name):
        """A file, or one for each of its channels."""
        try:
            stream = AudioStream(request.path, self.segmenter.sample_rate)
            channels, notes = self._channels(stream, request)
        except AudioError as error:
            return [_File(index, request, error=error)]
        files = [_File(index, request, notes=notes) for _ in channels]
        for file, channel in zip(files, channels, strict=True):
            file.siblings = files if len(files) > 1 else None
            self._plan(file, stream.of_channel(channel), allow_other_name)
        return files

    def _channels(self, stream, request):
        """Which channels of a file are heard, each by itself, None for all mixed; and notes."""
        how, count = self.options.channels, stream.header.channels
        if count == 1:
            return [None], ()
        if how == "first":
            return [0], ()
        if how == "separate":
            return list(range(count)), ()
        if count > 2 or not stream.compare_channels():
            return [None], ()
        if how == "auto" and request.turns is None:
            return list(range(count)), (f"{APART}: each is heard by itself",)
        return [None], (f"{APART} are mixed; channels separate hears each by itself",)

    def _plan(self, file, stream, allow_other_name):
        """Finds what is to be heard in a file."""
        request = file.request
        try:
            if request.turns is not None:
                turns = as_turns(request.turns, request.path, allow_other_name)
                file.request = request = replace(request, turns=turns)
            regions = self._regions(file, stream)
            if self.segmenter.fits_one_window(stream, regions):
                limit = self.segmenter.max_seconds
                rate = self.segmenter.sample_rate
                file.source = load_audio(request.path, rate, limit, stream.channel)
                duration = len(file.source) / self.segmenter.sample_rate
                file.plan = WindowPlan(duration, (Window(0.0, duration),))
            else:
                if not isinstance(request.draft, Transcript | None):
                    raise AudioError.of(
                        request.path,
                        "a text is no draft for audio that is heard in several windows; give a "
                        "Transcript, whose segments have times",
                    )
                file.source = stream
                file.plan = self.segmenter.plan(stream, regions)
        except AudioError as error:
            file.error = error
        except ValueError as error:  # of boundaries
            file.error = AudioError.of(request.path, error)

    def _regions(self, file, stream):
        """Where speech is, if the request tells; turns may tell it, or only who speaks."""
        request = file.request
        if request.boundaries is not None:
            file.speakers = request.turns
            return as_regions(request.boundaries, stream.header.samplerate)
        if request.turns is None:
            return None
        if self.segmenter.segmentation == "auto":
            return flatten_turns(request.turns)
        file.speakers = request.turns
        return None


class WindowCutter:
    """The second stage: the windows of files, with their waveforms.

    Arguments
    ---------
    sample_rate : int
        Samples per second.
    ahead : int
        Windows of a long file that are read ahead.
    """

    def __init__(self, sample_rate, ahead):
        self.sample_rate = sample_rate
        self.ahead = ahead

    def __call__(self, files):
        """Cuts files.

        Arguments
        ---------
        files : iterable of _File

        Yields
        ------
        part : _Part or _File
            Each window in which there is sound; behind the last one its file.
        """
        for file in files:
            if file.error is None:
                try:
                    for window, wav in self._windows(file):
                        if file.plan.overlapping:
                            if not wav.any():
                                continue
                            window, wav = self._without_silence(window, wav)
                        file.waiting += 1
                        yield _Part(file, window, wav)
                except AudioError as error:
                    file.error = error
            file.is_read = True
            yield file

    def _windows(self, file):
        """Windows of a file, those of a long one read ahead in a thread."""
        if file.is_whole:
            yield file.plan.windows[0], file.source
            return
        wavs = file.source.pieces(window.samples(self.sample_rate) for window in file.plan.windows)
        pairs = zip(file.plan.windows, wavs, strict=True)
        ahead = prefetch(lambda _: next(pairs, None), count(), 1, ahead=self.ahead)
        while pair := next(ahead):
            yield pair

    def _without_silence(self, window, wav):
        """A window without the silence at its ends, in which models invent words."""
        start, stop = find_sound(wav, self.sample_rate, MARGIN)
        end = window.end if stop == len(wav) else window.start + stop / self.sample_rate
        region = Region(window.start + start / self.sample_rate, end, window.speaker)
        return Window(region.start, region.end, (region,)), wav[start:stop]


class WindowEncoder:
    """The third stage: windows as utterances for the searcher.

    Arguments
    ---------
    asr : DiffusionASR
    options : DecodingOptions
    """

    def __init__(self, asr, options):
        self.asr = asr
        self.options = options

    def __call__(self, parts):
        """Encodes windows together, and finds the languages that are not given.

        Arguments
        ---------
        parts : list of _Part

        Returns
        -------
        utterances : list of Utterance
        """
        if not parts:
            return []
        lens = torch.tensor([len(part.wav) for part in parts])
        wavs = pad_sequence([part.wav for part in parts], batch_first=True)
        rows = self.asr.encode_batch(wavs, lens / lens.max())
        self._find_languages(parts, rows)
        utterances = []
        for part, row, length in zip(parts, rows, lens.tolist(), strict=True):
            part.audio = row if part.file.needs_words(self.options) else None
            request = part.file.request
            seconds = length / self.asr.sample_rate
            utterances.append(
                Utterance(
                    *(row, part, request.language, request.seed, seconds),
                    draft=self._draft(part),
                    keywords=self.asr.keywords(self.options.keywords, request.language),
                )
            )
        return utterances

    def _draft(self, part):
        """What may be said in a window."""
        draft = part.file.request.draft
        if draft is None:
            return None
        if isinstance(draft, Transcript):
            draft = draft_of(draft, part.window.start, part.window.end)
        return make_guesses(draft, self.asr.tokenizer)

    def _find_languages(self, parts, rows):
        """Finds the languages that are not given; the prompt names none all the same."""
        table = self.asr.language_table
        asked = [index for index, part in enumerate(parts) if part.file.request.language is None]
        if table is not None and asked:
            found = identify_language(self.asr.mods.decoder, rows[asked], table)
            for index, language in zip(asked, found, strict=True):
                parts[index].language = language


class Assembler:
    """The last stage: what was decoded of a file's windows to its transcript.

    Arguments
    ---------
    asr : DiffusionASR
    options : DecodingOptions
    on_window : callable, optional
        As for `FileStream`.
    """

    def __init__(self, asr, options, on_window=None):
        self.asr = asr
        self.options = options
        self.on_window = on_window

    def halves(self, part, hypothesis):
        """The halves of a window of a long file whose text may have been cut by its canvas.

        Arguments
        ---------
        part : _Part
        hypothesis : Hypothesis

        Returns
        -------
        halves : list of _Part
            Cut where it is quietest; none if the text fits.
        """
        full = len(hypothesis.tokens) >= self.asr.mods.decoder.sampler.canvas_length
        if not full or part.file.is_whole or part.window.duration < SHORTEST_CUT:
            return []
        rate, start = self.asr.sample_rate, part.window.start
        quarter = len(part.wav) // 4
        cut = quarter + round(rate * quietest_point(part.wav[quarter:-quarter], rate))
        time = start + cut / rate
        sides = (start, time, part.wav[:cut]), (time, part.window.end, part.wav[cut:])
        part.file.waiting += 1
        return [
            _Part(part.file, Window(*times, (Region(*times, part.window.speaker),)), wav)
            for *times, wav in sides
        ]

    def add(self, part, hypothesis):
        """Takes what was heard in a window.

        Arguments
        ---------
        part : _Part
        hypothesis : Hypothesis
        """
        file, start = part.file, part.window.start
        words = ()
        if file.needs_words(self.options):
            rows = part.audio[None], [hypothesis.tokens], [hypothesis.log_probs]
            (words,) = self.asr.aligner([part.wav], *rows)
            words = tuple(
                replace(word, start=start + word.start, end=start + word.end) for word in words
            )
        text = self.asr.tokenizer.decode_ids(hypothesis.tokens)
        file.heard.append(
            WindowResult(
                *(part.window, text, hypothesis.tokens, hypothesis.steps, words, part.language),
                alternatives=alternatives(hypothesis, self.asr.tokenizer, self.options.n_best),
            )
        )
        file.waiting -= 1
        if self.on_window is not None and not file.is_whole:
            # Windows that end early make room for later ones: the latest is not yet all.
            file.done = max(file.done, part.window.end)
            self.on_window(file.index, file.done, file.plan.duration)

    def finish(self, file):
        """Yields the index of a file and its result, if nothing of it is on its way any more."""
        if not file.is_read or file.waiting:
            return
        file.result = file.error
        if file.result is None:
            request = file.request
            name = path_text(request.path)
            result = assemble(file.plan, file.heard, file.speakers, request.language, name)
            file.result = replace(result, notes=file.notes)
        if file.siblings is None:
            yield file.index, file.result
        elif all(one.result is not None for one in file.siblings):
            results = [one.result for one in file.siblings]
            errors = [one for one in results if isinstance(one, AudioError)]
            yield file.index, errors[0] if errors else merge_channels(results)


def alternatives(hypothesis, tokenizer, number):
    """The best texts that one was chosen among.

    Arguments
    ---------
    hypothesis : Hypothesis
    tokenizer : Tokenizer
    number : int
        At most, no two alike.

    Returns
    -------
    alternatives : tuple of Alternative
        The text itself first.
    """
    found = {}
    for candidate in hypothesis.candidates if number else ():
        text = tokenizer.decode_ids(candidate.tokens)
        found.setdefault(text, Alternative(text, candidate.score))
    return tuple(found.values())[:number]


def longest_first(paths, window=SORTED_TOGETHER):
    """Sorts files by duration, so that those decoded together need canvases of one length.

    Arguments
    ---------
    paths : list
        Audio files. Those that cannot be read, and what is no file, come last.
    window : int
        Files that are sorted together, so that the first transcripts need not wait for the
        headers of all files. Default: 1024.

    Yields
    ------
    index : int
        Of the file in `paths`.

    Example
    -------
    >>> from pathlib import Path
    >>> from speechbrain_diffasr import shipped_model
    >>> samples = sorted(map(str, Path(shipped_model("diffasr-tiny")).glob("samples/*.wav")))
    >>> [index for index in longest_first(["missing.wav"])]
    [0]
    >>> sorted(longest_first(samples)) == list(range(len(samples)))
    True
    """
    for start in range(0, len(paths), window):
        part = range(start, min(start + window, len(paths)))
        durations = {index: file_seconds(paths[index]) for index in part}
        yield from sorted(part, key=lambda index: -durations[index])


def broadcast(name, value, batch):
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
    >>> broadcast("seed", 3, 2), broadcast("seed", [3, 4], 2)
    ([3, 3], [3, 4])
    """
    if not isinstance(value, list | tuple):
        return [value] * batch
    if len(value) != batch:
        raise ValueError(f"{name}: {len(value)} values for {batch} utterances")
    return list(value)
