"""A recognizer that loads nothing, behind the command line."""

from speechbrain_diffasr import AudioError, Segment, Transcript, Word, cli
from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.segmentation.boundaries import as_turns
from speechbrain_diffasr.utils.errors import BoundaryError


class Recognizer:
    """Hears how loud an utterance is, and remembers how it was asked."""

    languages = ("en", "hi")
    max_seconds = 2.0
    sample_rate = 16000
    language_table = object()

    def __init__(self):
        self.asked = []

    def stream_files(self, paths, options, **callbacks):
        """The last file is done first."""
        asked = options.language, options.steps, options.seed, options.batch_size
        self.asked.append((len(paths), *asked))
        self.options = options
        languages, steps = options.language, options.steps
        for index in reversed(range(len(paths))):
            try:
                if options.turns is not None:
                    as_turns(options.turns, paths[index])
                wav = load_audio(paths[index], self.sample_rate, self.max_seconds)
            except BoundaryError as error:
                yield index, AudioError.of(paths[index], error)
                continue
            except AudioError as error:
                yield index, error
                continue
            language = languages[index] if isinstance(languages, list) else languages
            text, seconds = f"स्तर  {10 * float(wav.max()):.0f}\n", len(wav) / 16000
            segment = Segment(0.0, seconds, text)
            if options.words:
                words = [Word(text.split()[0], 0.0, seconds / 2, 0.75, False)]
                words.append(Word(text.split()[1], seconds / 2, seconds, 0.5, True))
                segment = Segment.from_words(words, 0.0, seconds, None, language)
            yield (
                index,
                Transcript((segment,), seconds, language, steps=steps or 7, name=paths[index]),
            )


def transcribe(*arguments):
    return cli.main(["transcribe", *map(str, arguments)])
