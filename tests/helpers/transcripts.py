"""Random transcripts."""

import random

from speechbrain_diffasr import Segment, Transcript, Word

NASTY = ["-->", "&", "&amp;", "<b>", "</v>", "a<b", '"no"', '"', "''", ";;", "#", "{\\an8}", "42"]


PLAIN = [
    "it",
    "was",
    "the",
    "best",
    "of",
    "times,",
    "Yes.",
    "Grüße",
    "नमस्ते",
    "我",
    "你好。",
    "donaudampfschiff",
]


SPEAKERS = [None, "anna", "ben", 'O"Neil & <Co>', "spk 1"]


def random_transcript(seed, nasty=True, overlap=False, timed=True, speakers=SPEAKERS):
    """Segments of words, in ms, some of no length, with pauses and speakers."""
    generator = random.Random(seed)
    segments, now = [], generator.choice([0, 0, 1234, 3_600_000])
    for _ in range(generator.choice([0, 1, 5, 20])):
        words, begin = [], now
        for place in range(generator.choice([1, 3, 12, 60])):
            end = now + generator.choice([0, 1, 80, 160, 333, 700])
            text = generator.choice(PLAIN + (NASTY if nasty else []))
            sure = round(generator.random(), 4)
            space = place > 0 and generator.random() < 0.9
            words.append(Word(text, now / 1000, end / 1000, sure, space))
            now = end + generator.choice([0, 0, 40, 400, 2500])
        now = max(now, begin + 10)
        segment = Segment.from_words(
            words, begin / 1000, now / 1000, generator.choice(speakers), "en"
        )
        if not timed:
            segment = Segment(segment.start, segment.end, segment.text, (), segment.speaker, "en")
        segments.append(segment)
        now += generator.choice([0, 100, 5000])
        if overlap:
            now = max(begin, now - generator.choice([0, 500, 3000]))
    ends = [segment.end for segment in segments]
    return Transcript(segments, max(ends, default=0.5) + 0.25, "en", 0.75, name="calls/day 1.wav")
