"""Words of transcripts: split from tokens, with times and confidence."""

import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.text.spacing import join_words, split_text
from speechbrain_diffasr.transcripts import WordAligner
from speechbrain_diffasr.transcripts.alignment import split_words, word_confidence

SAMPLES = sorted((Path(shipped_model("diffasr-tiny")) / "samples").glob("*.wav"))
REFERENCES = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in SAMPLES]
# Characters that the tokenizer spells as bytes, scripts in one line, punctuation.
HARD = [
    "ça 🙂 va",
    "🙂🙂",
    "龘 你好 abc 3.5",
    "我用iphone看《书》，好吗？",
    "ภาษาไทย かな 한국어",
    "l'été d'à côté — voilà!",
    "ज़्यादा क्या",
    "a",
    "",
]


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(shipped_model("diffasr-tiny"), run_opts={"device": "cpu"})


@pytest.fixture(scope="module")
def heard(asr):
    """Waveforms of the samples, their projected audio, and what was heard in them."""
    wavs = [asr.load_audio(path) for path in SAMPLES]
    lens = torch.tensor([len(wav) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    audio = asr.encode_batch(padded, lens / lens.max())
    return wavs, audio, asr.mods.decoder.search(audio)


@pytest.fixture(scope="module")
def aligner(asr):
    return WordAligner(asr.mods.encoder, asr.mods.decoder)


def align(aligner, heard, rows=slice(None)):
    wavs, audio, hypotheses = heard
    tokens = [hypothesis.tokens for hypothesis in hypotheses[rows]]
    log_probs = [hypothesis.log_probs for hypothesis in hypotheses[rows]]
    return aligner(wavs[rows], audio[rows], tokens, log_probs)


@pytest.mark.parametrize("text", REFERENCES + HARD)
def test_words_of_tokens_join_to_the_text(asr, text):
    tokens = asr.tokenizer.encode(text)
    words = split_words(tokens, asr.tokenizer.decode_ids)
    assert join_words(words) == asr.tokenizer.decode_ids(tokens)
    assert [word.text for word in words] == [text[a:b] for a, b in split_text(text)]


@pytest.mark.parametrize("seed", range(40))
def test_any_tokens_can_be_split(asr, seed):
    """What a denoiser may leave: special tokens, torn bytes, pieces without a beginning."""
    rng = random.Random(seed)
    first = rng.choice([0, 0, 9, 265])  # special tokens, bytes, pieces
    tokens = [rng.randrange(first, rng.choice([265, len(asr.tokenizer)]) + 1) for _ in range(30)]
    tokens = [min(token, len(asr.tokenizer) - 1) for token in tokens]
    text = asr.tokenizer.decode_ids(tokens)
    words = split_words(tokens, asr.tokenizer.decode_ids)
    assert join_words(words) == text
    places = [(word.first, word.start_share, word.last, word.end_share) for word in words]
    for first, start_share, last, end_share in places:
        assert (first, start_share) < (last, end_share)
        assert 0 <= start_share < 1 and 0 < end_share <= 1
    for (_, _, last, end_share), (first, start_share, _, _) in pairwise(places):
        assert first > last or (first == last and start_share == end_share)


def test_a_word_has_all_the_tokens_that_spell_it(asr):
    text = "龘 " + "und 🙂"
    tokens = asr.tokenizer.encode(text)
    words = split_words(tokens, asr.tokenizer.decode_ids)
    assert [word.text for word in words] == ["龘", "und", "🙂"]
    assert words[0].first == 0 and words[-1].last == len(tokens) - 1
    for word, following in pairwise(words):
        assert following.first == word.last + 1
    assert words[-1].last - words[-1].first >= 3  # four bytes, and the space before them


def test_special_tokens_are_part_of_no_word(asr):
    slot = asr.tokenizer.token_id("<|audio|>")
    ja, nein = asr.tokenizer.encode("ja"), asr.tokenizer.encode("nein")
    words = split_words([slot, *ja, slot, slot, *nein, slot], asr.tokenizer.decode_ids)
    assert [(word.text, word.first) for word in words] == [("ja", 1), ("nein", 3 + len(ja))]
    assert words[1].last == 2 + len(ja) + len(nein)


def test_words_of_the_samples(aligner, heard):
    wavs, _, _ = heard
    for words, wav, path, text in zip(
        align(aligner, heard), wavs, SAMPLES, REFERENCES, strict=True
    ):
        assert join_words(words) == text, path.name
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times), path.name
        assert all(word.start < word.end and 0 < word.confidence <= 1 for word in words)
        assert times[0] >= 0 and times[-1] <= len(wav) / 16000
        # They are cut from one recording of speech: it starts and ends with a word.
        sound = wav.abs().gt(0.005).nonzero()[:, 0] / 16000
        assert times[0] == pytest.approx(sound[0].item(), abs=0.1), path.name
        assert times[-1] == pytest.approx(sound[-1].item(), abs=0.1), path.name


def test_words_do_not_depend_on_the_batch(aligner, heard):
    together = align(aligner, heard)
    for place, words in enumerate(together):
        (alone,) = align(aligner, heard, slice(place, place + 1))
        assert [(word.text, word.start, word.end) for word in alone] == [
            (word.text, word.start, word.end) for word in words
        ]
        assert [word.confidence for word in alone] == pytest.approx(
            [word.confidence for word in words], abs=1e-4
        )


def test_silence_in_front_moves_the_words(asr, aligner):
    """Half a second of it, and between two utterances it belongs to no word."""
    path = SAMPLES[[path.stem for path in SAMPLES].index("de_1")]
    tokens = asr.tokenizer.encode(path.with_suffix(".txt").read_text(encoding="utf-8").strip())
    wav, silence = asr.load_audio(path), torch.zeros(8000)
    wavs = [wav, torch.cat([silence, wav]), torch.cat([wav, silence, wav])]
    lens = torch.tensor([len(wav) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    audio = asr.encode_batch(padded, lens / lens.max())
    plain, late, twice = aligner(wavs, audio, [tokens, tokens, tokens * 2])
    assert [word.start for word in late] == pytest.approx(
        [word.start + 0.5 for word in plain], abs=0.1
    )
    behind = 0.5 + len(wav) / 16000
    assert [word.start for word in twice[len(plain) :]] == pytest.approx(
        [behind + word.start for word in plain], abs=0.1
    )
    assert twice[len(plain) - 1].end == pytest.approx(plain[-1].end, abs=0.05)


def test_a_wrong_text_is_less_sure_than_the_right_one(asr, aligner, heard):
    wavs, audio, _ = heard
    tokens = [asr.tokenizer.encode(text) for text in REFERENCES]
    right = [word.confidence for words in aligner(wavs, audio, tokens) for word in words]
    wrong = [
        word.confidence for words in aligner(wavs, audio, tokens[5:] + tokens[:5]) for word in words
    ]
    assert sum(right) / len(right) > 0.7 > 0.2 > sum(wrong) / len(wrong)


def test_confidence_is_that_of_the_least_sure_token(asr, heard):
    wavs, audio, _ = heard
    tokens = [asr.tokenizer.encode("ja nein")]
    settings = {"acoustic_share": 0.0, "temperature": 2.0}
    denoiser = WordAligner(asr.mods.encoder, asr.mods.decoder, **settings)
    log_probs = [torch.tensor([0.25, 0.81]).log()]  # of two tokens
    (words,) = denoiser(wavs[:1], audio[:1], tokens, log_probs)
    assert [word.confidence for word in words] == pytest.approx([0.5, 0.9])
    (one,) = denoiser(wavs[:1], audio[:1], [tokens[0] * 24], [log_probs[0].repeat(24)])
    assert len(one) == 48  # more tokens than CTC can place in this audio
    assert {round(word.confidence, 6) for word in one} == {0.5, 0.9}
    assert all(word.start < word.end for word in one)


def test_nothing_heard_gives_no_words(aligner, heard):
    wavs, audio, _ = heard
    slot = aligner.blank
    assert aligner(wavs[:2], audio[:2], [[], [slot]], [torch.zeros(48)] * 2) == [[], []]


@pytest.mark.parametrize(
    ("prob", "settings", "confidence"),
    [
        (0.64, {}, 0.64),
        (0.64, {"temperature": 2.0}, 0.8),  # its root
        (0.64, {"calibration": (1.0, 1.0, 0.0)}, 0.64),
        (0.8, {"calibration": (0.5, 0.5, 0.0)}, 2 / 3),  # odds of 4, the root of which is 2
        (0.8, {"calibration": (0.5, 0.5, math.log(1.5))}, 0.75),  # then odds of 3
        (0.25, {"calibration": (0.5, 0.0, 0.0)}, 1 / 3),  # odds of 1/2, the root of 1/4
        (0.75, {"calibration": (0.0, 0.5, math.log(0.5))}, 0.5),  # 2, and half of it
        (0.75, {"calibration": (1.0, 2.0, math.log(1 / 3))}, 0.8),  # 3/4 by 1/16, and a third
        (1.0, {"calibration": (0.5, 0.5, -3.0)}, 1.0),
        (0.64, {"temperature": 2.0, "calibration": (1.0, 1.0, 0.0)}, 0.64),
    ],
)
def test_confidence_is_calibrated(prob, settings, confidence):
    found = word_confidence([0.0, math.log(prob)], **settings)
    assert found == pytest.approx(confidence, rel=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 2.7},
        *({"calibration": numbers} for numbers in ((0.1, 0.9, -1.2), (0.5, 0.7, 0.7), (3, 1, -5))),
    ],
    ids=str,
)
def test_calibration_keeps_the_order_of_words(settings):
    """From a probability that is 0 as a float to one of which 1 is barely short."""
    logs = [-math.inf, -800.0, -90.0, *(-(1.5**power) for power in range(8, -80, -1)), 0.0, 1e-7]
    found = [word_confidence([value], **settings) for value in logs]
    assert found == sorted(found)
    assert found[0] < 1e-25 and found[-1] == 1 and all(0 <= value <= 1 for value in found)
    distinct = [value for value in found if 1e-30 < value < 1 - 1e-12]
    assert len(set(distinct)) == len(distinct) > 30


def test_a_recognizer_takes_the_calibration_of_its_folder(asr, monkeypatch):
    def settings():
        fresh = type(asr).aligner.func(asr)
        return fresh.temperature, fresh.calibration

    for name in ("word_temperature", "word_calibration"):
        monkeypatch.delattr(asr.hparams, name, raising=False)
    assert settings() == (1.0, {})
    monkeypatch.setattr(asr.hparams, "word_temperature", 2.7, raising=False)
    assert settings() == (2.7, {})
    numbers = {"joint": [0.1, 0.9, -1.2]}
    monkeypatch.setattr(asr.hparams, "word_calibration", numbers, raising=False)
    assert settings() == (2.7, numbers)


def test_calibration_is_that_of_what_gave_probabilities(asr, heard):
    wavs, audio, _ = heard
    tokens, log_probs = [asr.tokenizer.encode("ja")], [torch.tensor([0.25]).log()]
    odds = {"ranked": 9.0, "joint": 12.0}  # that a third is multiplied with
    calibration = {source: [1.0, 1.0, math.log(value)] for source, value in odds.items()}
    parts, decoder = (asr.mods.encoder, asr.mods.decoder), asr.mods.decoder
    aligner = WordAligner(*parts, acoustic_share=0.0, temperature=2.0, calibration=calibration)
    usual = decoder.settings()
    expected = [
        ({"readings": 0, "candidates": 1, "ctc_weight": 0.0}, 0.5),  # by the temperature
        ({"readings": 0, "candidates": 1, "ctc_weight": 1.0}, 0.8),
        ({"readings": 2, "candidates": 1, "ctc_weight": 1.0}, 0.75),
        ({"readings": 0, "candidates": 2, "ctc_weight": 0.0, "choose": "likelihood"}, 0.75),
        ({"readings": 0, "candidates": 2, "ctc_weight": 0.0, "choose": "consensus"}, 0.5),
    ]
    try:
        for settings, confidence in expected:
            decoder.configure(**settings)
            (words,) = aligner(wavs[:1], audio[:1], tokens, log_probs)
            assert words[0].confidence == pytest.approx(confidence), settings
    finally:
        decoder.configure(**usual)


@pytest.mark.parametrize(
    "calibration",
    [{"rankt": [1, 1, 0]}, {"joint": [1, 1]}, {"joint": [-0.1, 1, 0]}, [1, 1, 0]],
    ids=str,
)
def test_a_wrong_calibration_gets_one_line(asr, calibration):
    with pytest.raises(ValueError, match=r"word_calibration: .*expected"):
        WordAligner(asr.mods.encoder, asr.mods.decoder, calibration=calibration)
