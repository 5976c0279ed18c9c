"""Many files through one decoder: read ahead, cut into windows, joined again."""

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count, islice

import torch
from torch.nn.utils.rnn import pad_sequence

from speechbrain_diffasr.audio import AudioError, AudioStream, load_audio
from speechbrain_diffasr.decoders.searcher import Utterance
from speechbrain_diffasr.language import FoundLanguage, identify_language
from speechbrain_diffasr.longform import Heard, Plan, as_regions, as_turns, assemble
from speechbrain_diffasr.pauses import find_sound
from speechbrain_diffasr.scheduling import longest_first, prefetch
from speechbrain_diffasr.segmentation import MARGIN, is_silent
from speechbrain_diffasr.segments import Region
from speechbrain_diffasr.turns import flatten_turns
from speechbrain_diffasr.windows import Window, quietest_point

# Utterances that the acoustic encoder takes at once: more bring no speed but need memory.
ENCODED_TOGETHER = 16
# A window whose text does not fit the canvas is cut in two, unless it is shorter than this.
SHORTEST_CUT = 1.0  # s


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
    """

    path: object
    language: str | None = None
    seed: int | None = None
    boundaries: object = None
    turns: object = None


@dataclass(eq=False)
class _File:
    """A file on its way."""

    index: int
    request: Request
    plan: Plan
    source: object  # a waveform, or where to read the windows from
    waiting: int = 0
    done: float = 0.0  # s, as far as anything was heard
    read: bool = False
    error: AudioError | None = None
    heard: list = field(default_factory=list)


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

    Windows of all files go through one stream, so that a long file leaves no gap. In memory are
    the windows on their way, never a long file. None of this changes a transcript.

    Arguments
    ---------
    asr : DiffusionASR
    segmenter : Segmenter
    batch_size : int
        Windows that are decoded together.
    workers : int
        Threads that read files.
    steps : int, optional
        Denoising steps at most. Default: the model's own.
    words : bool
        Whether the times of words are asked for. Default: False.
    on_window : callable, optional
        Called with the place of a long file, the seconds of it that are done, and all its
        seconds. Default: nothing.
    """

    def __init__(
        self, asr, segmenter, batch_size, workers, steps=None, words=False, on_window=None
    ):
        self.asr = asr
        self.segmenter = segmenter
        self.batch_size = batch_size
        self.workers = workers
        self.steps = steps
        self.words = words
        self.on_window = on_window

    def __call__(self, requests):
        """Transcribes files.

        Arguments
        ---------
        requests : list of Request

        Yields
        ------
        result : (int, Transcript or AudioError)
            Place of the file, and its transcript or why there is none.
        """
        self._done, self._again = deque(), deque()
        parts = self._parts(requests)
        while True:
            with self.asr.inference_ctx:
                # Only the call looks at the context, and it must not be entered twice.
                found = self.asr.mods.decoder.stream(
                    self._utterances(self._halves_first(parts)), self.batch_size, self.steps
                )
            for hypothesis in found:
                self._take(hypothesis)
                while self._done:
                    yield self._done.popleft()
            while self._done:
                yield self._done.popleft()
            # Halves of the last windows come when the decoder takes no more.
            if not self._again:
                return

    def _prepare(self, index, request, only):
        """Reads a file once: whole if it is one utterance, otherwise to find its windows."""
        try:
            stream = AudioStream(request.path, self.asr.sample_rate)
            if request.turns is not None:
                turns = as_turns(request.turns, request.path, only)
                request = replace(request, turns=turns)
            regions = self._regions(request, stream)
            if self.segmenter.hears_whole(stream, regions):
                limit = self.segmenter.max_seconds
                wav = load_audio(request.path, self.asr.sample_rate, limit)
                duration = len(wav) / self.asr.sample_rate
                plan = Plan(duration, (Window(0.0, duration),))
                return _File(index, request, plan, wav)
            return _File(index, request, self.segmenter.plan(stream, regions), stream)
        except AudioError as error:
            return index, error
        except ValueError as error:  # of boundaries
            return index, AudioError(f"{request.path}: {error}")

    def _regions(self, request, stream):
        if request.boundaries is not None:
            return as_regions(request.boundaries, stream.header.samplerate)
        return flatten_turns(request.turns) if self._cuts_at_turns(request) else None

    def _cuts_at_turns(self, request):
        """Whether speakers' turns say where speech is, and not only whose it is."""
        auto = self.segmenter.segmentation == "auto"
        return auto and request.turns is not None and request.boundaries is None

    def _parts(self, requests):
        """Windows of all files with their waveforms."""
        order = longest_first([request.path for request in requests])
        files = prefetch(
            lambda index: self._prepare(index, requests[index], len(requests) == 1),
            order,
            self.workers,
            ahead=2 * self.batch_size,
        )
        for file in files:
            if isinstance(file, tuple):
                self._done.append(file)
                continue
            try:
                for window, wav in self._windows(file):
                    if file.plan.overlapping:
                        if is_silent(wav):
                            continue
                        window, wav = self._without_silence(window, wav)
                    file.waiting += 1
                    yield _Part(file, window, wav)
            except AudioError as error:
                file.error = error
            file.read = True
            self._finish(file)

    def _windows(self, file):
        """Windows of a file, those of a long one read ahead in a thread."""
        if torch.is_tensor(file.source):
            yield file.plan.windows[0], file.source
            return
        rate = self.asr.sample_rate
        wavs = file.source.pieces(window.samples(rate) for window in file.plan.windows)
        pairs = zip(file.plan.windows, wavs, strict=True)
        ahead = prefetch(lambda _: next(pairs, None), count(), 1, ahead=self.batch_size)
        while pair := next(ahead):
            yield pair

    def _without_silence(self, window, wav):
        """A window without the silence at its ends, in which models invent words."""
        rate = self.asr.sample_rate
        first, behind = find_sound(wav, rate, MARGIN)
        end = window.end if behind == len(wav) else window.start + behind / rate
        region = Region(window.start + first / rate, end, window.speaker)
        return Window(region.start, region.end, (region,)), wav[first:behind]

    def _halves_first(self, parts):
        """Windows in order, but what was cut before them: waiting halves hold audio in memory."""
        while True:
            part = self._again.popleft() if self._again else next(parts, None)
            if part is None:
                return
            yield part

    def _utterances(self, parts):
        """Encodes windows, some together."""
        size = min(self.batch_size, ENCODED_TOGETHER)
        while group := list(islice(parts, size)):
            lens = torch.tensor([len(part.wav) for part in group])
            wavs = pad_sequence([part.wav for part in group], batch_first=True)
            rows = self.asr.encode_batch(wavs, lens / lens.max())
            self._find_languages(group, rows)
            for part, row, length in zip(group, rows, lens.tolist(), strict=True):
                part.audio = row if self._needs_words(part.file) else None
                request = part.file.request
                seconds = length / self.asr.sample_rate
                yield Utterance(row, part, request.language, request.seed, seconds)

    def _find_languages(self, parts, rows):
        """Finds the languages that are not given; the prompt names none all the same."""
        table = self.asr.language_table
        asked = [place for place, part in enumerate(parts) if part.file.request.language is None]
        if table is not None and asked:
            found = identify_language(self.asr.mods.decoder, rows[asked], table)
            for place, language in zip(asked, found, strict=True):
                parts[place].language = language

    def _needs_words(self, file):
        # Seams are joined by times, and words are given to speakers by them.
        return self.words or file.plan.overlapping or file.request.turns is not None

    def _take(self, hypothesis):
        """Notes what was heard in a window."""
        part = hypothesis.key
        file = part.file
        file.waiting -= 1
        halves = self._halves(part, hypothesis)
        if halves:
            file.waiting += len(halves)
            self._again += halves
            return
        words = ()
        if self._needs_words(file):
            rows = part.audio[None], [hypothesis.tokens], [hypothesis.log_probs]
            (words,) = self.asr.aligner([part.wav], *rows)
        begin = part.window.start
        words = tuple(
            replace(word, start=begin + word.start, end=begin + word.end) for word in words
        )
        text = self.asr.tokenizer.decode_ids(hypothesis.tokens)
        file.heard.append(
            Heard(part.window, text, hypothesis.tokens, hypothesis.steps, words, part.language)
        )
        if self.on_window is not None and not torch.is_tensor(file.source):
            # Windows that end early make room for later ones: the latest is not yet all.
            file.done = max(file.done, part.window.end)
            self.on_window(file.index, file.done, file.plan.duration)
        self._finish(file)

    def _halves(self, part, hypothesis):
        """The halves of a window of a long file whose text may have been cut by its canvas."""
        full = len(hypothesis.tokens) >= self.asr.mods.decoder.sampler.canvas_length
        if not full or torch.is_tensor(part.file.source) or part.window.duration < SHORTEST_CUT:
            return []
        rate, start = self.asr.sample_rate, part.window.start
        quarter = len(part.wav) // 4
        cut = quarter + round(rate * quietest_point(part.wav[quarter:-quarter], rate))
        time = start + cut / rate
        sides = (start, time, part.wav[:cut]), (time, part.window.end, part.wav[cut:])
        return [
            _Part(part.file, Window(*times, (Region(*times, part.window.speaker),)), wav)
            for *times, wav in sides
        ]

    def _finish(self, file):
        if not file.read or file.waiting:
            return
        if file.error is not None:
            self._done.append((file.index, file.error))
            return
        request = file.request
        turns = None if self._cuts_at_turns(request) else request.turns
        transcript = assemble(file.plan, file.heard, turns, request.language)
        self._done.append((file.index, transcript))
