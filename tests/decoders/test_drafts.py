"""Drafts by others: how they are spelled, what the canvas starts from, and where they come from."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_diffasr import AudioError, DiffusionASR, Segment, Transcript, Word, shipped_model
from speechbrain_diffasr.decoders.canvas import Guess, start_canvases
from speechbrain_diffasr.decoders.drafts import Speller, make_guesses
from speechbrain_diffasr.inference.drafts import draft_of, read_drafts
from speechbrain_diffasr.transcripts.schema import format_json, format_json_list
from speechbrain_diffasr.visualization.trace import watch_starts

SAMPLES = sorted((Path(shipped_model("diffasr-tiny")) / "samples").glob("*.wav"))
TEXTS = {path.stem: path.with_suffix(".txt").read_text("utf-8").strip() for path in SAMPLES}
RATE = 16000


@pytest.fixture(scope="module")
def asr():
    """That decodes as in the paper, unless a draft is given."""
    asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    asr.mods.decoder.configure("noise", 0.0, "seed", 1, "likelihood", 0)
    return asr


@pytest.fixture(scope="module")
def tokenizer(asr):
    return asr.tokenizer


# Spelling


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("Do you WANT it?", "do you want it"),
        ("It’s, isn't it…", "it's isn't it"),
        ("  a\n\tlot   of space ", "a lot of space"),
        ("the well-known — and the other", "the well known and the other"),
        ("¿Por qué? ¡No!", "por qué no"),
        ("„Straße“ ÄÖÜ", "straße äöü"),
        ("这是怎么回事？", "这是怎么回事"),
        ("यह सही है।", "यह सही है"),
        ("?!", ""),
    ],
)
def test_a_draft_is_spelled_as_the_model_spells(tokenizer, text, spelled):
    assert Speller(tokenizer)(text) == spelled
    (guess,) = make_guesses(text, tokenizer)
    assert guess.tokens == tokenizer.encode_text(spelled)
    assert tokenizer.decode_ids(guess.tokens) == spelled


def test_a_model_that_writes_capitals_and_punctuation_keeps_them():
    class Backend:
        all_special_ids = (0,)

        def convert_ids_to_tokens(self, ids):
            return [["<eos>", "▁A", "B", "c", ",", "’", "-", "<0x41>"][index] for index in ids]

    class WithCapitals:
        backend = Backend()

        def __len__(self):
            return 8

    spell = Speller(WithCapitals())
    assert spell("AB’c-c, (A)!") == "AB’c-c, A"


def test_texts_of_the_samples_are_spelled_already(tokenizer):
    spell = Speller(tokenizer)
    assert len(TEXTS) == 14
    assert {name: spell(text) for name, text in TEXTS.items()} == TEXTS


# Confidences of words


def words_of_tokens(tokens, words, tokenizer):
    """The word that each token is of: of all splits, the one whose parts read as the words."""
    owners, begin = [], 0
    for index, word in enumerate(words):
        for end in range(begin + 1, len(tokens) + 1):
            read = tokenizer.decode_ids(tokens[begin:end]).strip()
            rest = tokenizer.decode_ids(tokens[end:]).strip()
            if read == word and rest.replace(" ", "") == "".join(words[index + 1 :]):
                owners += [index] * (end - begin)
                begin = end
                break
        else:
            raise AssertionError(f"{words} cannot be divided at {word!r}")
    return owners


@pytest.mark.parametrize("name", [name for name in TEXTS if not name.startswith("zh")])
def test_each_token_is_as_sure_as_its_word(tokenizer, name):
    words = TEXTS[name].split()
    sure = [(index + 1) / 10 for index in range(len(words))]
    (guess,) = make_guesses([list(zip(words, sure, strict=True))], tokenizer)
    assert tokenizer.decode_ids(guess.tokens) == TEXTS[name]
    owners = words_of_tokens(guess.tokens, words, tokenizer)
    assert guess.confidences == [sure[owner] for owner in owners]


def test_words_of_several_tokens_share_one_confidence(tokenizer):
    words = ["unbelievable", "xylophones", "are", "zigzagging"]
    sure = [0.1, 0.7, 0.3, 0.9]
    (guess,) = make_guesses([list(zip(words, sure, strict=True))], tokenizer)
    owners = words_of_tokens(guess.tokens, words, tokenizer)
    assert len(guess.tokens) > 8 and owners.count(0) > 1 < owners.count(3)
    assert guess.confidences == [sure[owner] for owner in owners]


@pytest.mark.parametrize("name", ["zh_1", "zh_2"])
def test_no_spaces_come_between_words_of_a_script_without(tokenizer, name):
    sure = [round(0.1 * index, 1) for index in range(len(TEXTS[name]))]
    (guess,) = make_guesses([list(zip(TEXTS[name], sure, strict=True))], tokenizer)
    assert tokenizer.decode_ids(guess.tokens) == TEXTS[name]
    assert guess.tokens == tokenizer.encode_text(TEXTS[name])
    read = "".join(map(str, guess.confidences))
    assert guess.confidences == sorted(guess.confidences), read
    assert set(guess.confidences) <= set(sure)


def test_words_that_are_spelled_away_are_left_out(tokenizer):
    (guess,) = make_guesses([[("Oh,", 0.9), ("—", 0.2), ("there!", 0.4)]], tokenizer)
    assert tokenizer.decode_ids(guess.tokens) == "oh there"
    assert guess.confidences == [0.9, 0.4]


def test_several_drafts_are_as_many_guesses(tokenizer):
    guesses = make_guesses(["So it is", [("so", 0.5)], ""], tokenizer)
    assert [tokenizer.decode_ids(one.tokens) for one in guesses] == ["so it is", "so", ""]
    assert [one.confidences for one in guesses] == [None, [0.5], None]


@pytest.mark.parametrize("draft", [[3], [["so", "it"]], [[("so", "sure")]], [None]])
def test_what_is_no_draft_is_refused_in_one_line(tokenizer, draft):
    with pytest.raises(ValueError, match=r"^draft: .* is no text, and no words") as caught:
        make_guesses(draft, tokenizer)
    assert len(str(caught.value).splitlines()) == 1


# On the canvas


def test_unsure_words_are_noise_on_the_canvas(tokenizer):
    dice = random.Random(0)
    words = [(word, dice.random()) for text in TEXTS.values() for word in text.split()][:40]
    (guess,) = make_guesses([words], tokenizer)
    width, eos = len(guess.tokens) + 8, tokenizer.eos_id
    noise = torch.full((2, width), 77)
    canvas = start_canvases([guess, None], noise, [0.5, 0.5], eos)
    expected = [
        token if sure >= 0.5 else 77
        for token, sure in zip(guess.tokens, guess.confidences, strict=True)
    ]
    assert canvas.tolist() == [expected + [eos] * 8, [77] * width]
    assert 5 < expected.count(77) < width - 5


def test_of_a_draft_that_is_too_long_the_beginning_is_taken(tokenizer):
    guess = Guess([5, 6, 7, 8], [0.9, 0.1, 0.8, 0.9])
    assert start_canvases([guess], torch.full((1, 3), 77), [0.5], 1).tolist() == [[5, 77, 7]]


def test_the_canvas_of_an_utterance_starts_from_its_draft(asr, tokenizer):
    wav = asr.load_audio(SAMPLES[0])
    seen = []
    with watch_starts(asr.mods.decoder, lambda *start: seen.append(start)):
        asr.transcribe([wav, wav], drafts=[[[("so", 0.4), ("ist", 0.6)]], None], steps=1)
    ((canvases, given),) = seen
    tokens = tokenizer.encode_text("so ist")
    assert len(tokens) == 2
    assert canvases.canvas[0, 1] == tokens[1] and canvases.canvas[0, 0] != tokens[0]
    assert set(canvases.canvas[0, 2:].tolist()) == {tokenizer.eos_id}
    assert given[0].tolist() == [False] + [True] * (given.shape[1] - 1)
    assert not given[1].any()


def test_further_candidates_keep_less_of_their_drafts(asr):
    wav = asr.load_audio(SAMPLES[0])
    draft = [[("so", 0.6), ("ist", 0.8), ("es", 0.95)]] * 3
    seen = []
    decoder = asr.mods.decoder
    decoder.configure(candidates=3)
    try:
        with watch_starts(decoder, lambda canvases, given: seen.extend(given[:, :3].tolist())):
            asr.transcribe([wav], drafts=[draft], steps=1)
    finally:
        decoder.configure(candidates=1)
    assert [sum(row) for row in seen] == [3, 2, 1]


def test_a_perfect_draft_brings_the_text_in_one_step(asr):
    """The denoiser alone, in one step: more texts are right from a draft than from noise."""
    wavs = [asr.load_audio(path) for path in SAMPLES]
    texts = list(TEXTS.values())
    right = {}
    for name, drafts in [("draft", texts), ("noise", None)]:
        found = [asr.transcribe(wavs, steps=1, seed=seed, drafts=drafts) for seed in (0, 2)]
        right[name] = [
            sum(one.text == text for one, text in zip(row, texts, strict=True)) for row in found
        ]
    assert min(right["draft"]) == len(texts)
    assert sum(right["draft"]) > sum(right["noise"])


# Of recordings


def two_sentences():
    words = [Word("do", 0.1, 0.3, 0.9, False), Word("you", 0.3, 0.5, 0.2, True)]
    later = [Word("你", 7.0, 7.2, 0.8, False), Word("好", 7.2, 7.6, 0.7, False)]
    segments = Segment.from_words(words, 0.0, 1.0), Segment.from_words(later, 6.9, 8.0)
    return Transcript((*segments, Segment(9.0, 10.0, "so it is")), 10.0, name="a.wav")


def test_of_a_transcript_a_window_gets_what_lies_in_it():
    transcript = two_sentences()
    assert draft_of(transcript, 0, 5) == [[("do", 0.9), ("you", 0.2)]]
    assert draft_of(transcript, 0.35, 5) == [[("you", 0.2)]]
    assert draft_of(transcript, 8.5, 10) == "so it is"
    assert draft_of(transcript, 5, 10) == [[("你", 0.8), ("好", 0.7), ("so it is", 1.0)]]
    assert draft_of(transcript, 1, 5) == ""


def test_no_word_is_in_two_windows():
    transcript = two_sentences()
    edges = [0, 0.2, 0.3, 0.4, 7.1, 7.4, 9.5, float("inf")]
    parts = [draft_of(transcript, *edge) for edge in pairwise(edges)]
    said = [part if isinstance(part, str) else part[0] for part in parts if part]
    count = sum(1 if isinstance(part, str) else len(part) for part in said)
    assert count == 5


def long_recording(path):
    """Two samples with a long pause between, and where each lies."""
    wavs = [soundfile.read(sample)[0] for sample in (SAMPLES[1], SAMPLES[4])]
    pause = np.zeros(6 * RATE)
    soundfile.write(path, np.concatenate([wavs[0], pause, wavs[1], pause]), RATE)
    first, second = (len(wav) / RATE for wav in wavs)
    return [(0.0, first), (first + 6, first + 6 + second)]


def test_a_transcript_of_a_long_file_is_divided_among_its_windows(asr, tmp_path):
    path = tmp_path / "long.wav"
    times = long_recording(path)
    texts = "das war recht gut", "do you wanted at"
    segments = [Segment(*time, text) for time, text in zip(times, texts, strict=True)]
    transcript = Transcript(tuple(segments), times[1][1] + 6)
    seen = []

    def see(canvases, given):
        for row, held in zip(canvases.canvas, given, strict=True):
            seen.append(asr.tokenizer.decode_ids(row[held].tolist()))

    with watch_starts(asr.mods.decoder, see):
        result = asr.transcribe_long(path, boundaries=times, draft=transcript, max_gap=0)
    assert sorted(seen) == sorted(texts)
    assert result.text == f"{TEXTS['de_2']} {TEXTS[SAMPLES[4].stem]}"


@pytest.mark.parametrize("draft", ["do you want it", [[("do", 0.9)]]])
def test_a_text_is_no_draft_of_several_windows(asr, tmp_path, draft):
    path = tmp_path / "long.wav"
    times = long_recording(path)
    with pytest.raises(AudioError, match=r"a text is no draft for audio .* give a Trans") as caught:
        asr.transcribe_long(path, boundaries=times, draft=draft)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value).splitlines()) == 1


# Files


def test_a_text_file_is_the_draft_of_one_recording(tmp_path):
    path = tmp_path / "draft.txt"
    path.write_bytes("\ufeffSo it\nis. \n".encode())
    assert read_drafts(path, ["speech.wav"]) == ["So it is."]
    with pytest.raises(ValueError, match="is a text, and of one recording; for several give"):
        read_drafts(path, ["speech.wav", "other.wav"])


def test_transcripts_are_found_by_path_and_by_name(tmp_path):
    path = tmp_path / "draft.json"
    one, two = two_sentences(), Transcript((Segment(0, 1, "b"),), 1.0, name="talks/b.wav")
    path.write_text(format_json_list([one, two]))
    assert read_drafts(path, ["talks/b.wav", "a.wav", "c.wav"]) == [two, one, None]
    assert read_drafts(path, ["elsewhere/b.flac", tmp_path / "a.mp3"]) == [two, one]
    path.write_text(format_json(one))
    assert read_drafts(path, ["a.wav"]) == [one]
    assert read_drafts(path, []) == []


def test_recordings_that_are_called_alike_are_told_apart_by_their_paths(tmp_path):
    path = tmp_path / "draft.json"
    pair = [
        Transcript((Segment(0, 1, day),), 1.0, name=f"{day}/1.wav") for day in ("monday", "friday")
    ]
    path.write_text(format_json_list(pair))
    assert read_drafts(path, ["friday/1.wav", "monday/1.wav"]) == pair[::-1]
    assert read_drafts(path, ["sunday/1.wav", "monday/1.wav"]) == [None, pair[0]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file; give a text file, or what diffasr transcribe --format json writes"),
        (b"", "nothing is in it; give a text file"),
        (b" \n\n", "nothing is in it; give a text file"),
        (b"caf\xe9", "not text in UTF-8; give a text file"),
        (b'{"half": ', "not JSON"),
        (b"[]", "has no recording, and nothing of a.wav; give the transcript of that"),
        (b'{"text": "so"}', "not a transcript by diffasr"),
        (b"[3]", "not a transcript by diffasr"),
    ],
)
def test_what_is_no_file_of_drafts_is_refused_in_one_line(tmp_path, content, reason):
    path = tmp_path / "draft\nof two lines"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^draft: ") as caught:
        read_drafts(path, ["a.wav"])
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_transcripts_of_other_recordings_are_refused(tmp_path):
    path = tmp_path / "draft.json"
    others = [Transcript((), 1.0, name=f"{name}.wav") for name in "abcd"]
    path.write_text(format_json_list(others))
    with pytest.raises(ValueError, match=r"has a, b, c …, and nothing of e.wav; give the"):
        read_drafts(path, ["e.wav"])
