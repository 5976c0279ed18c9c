"""Batches of speech and of torn drafts: what is in them is what was put in."""

import csv

import numpy as np
import pytest
import soundfile
import torch
from miniature import noise

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.pretraining import DraftStore, WaveformAugmenter, WaveformStore
from speechbrain_diffasr.pretraining.waveforms import Fold, pack

PLAIN = WaveformAugmenter(max_stretch=0.0, tilt=0.0, noise=0.0)
TEXTS = ["guten tag", "hello there", "how are you", "ja"]


@pytest.fixture(scope="module")
def tokenizer():
    return DiffusionASR.from_hparams(shipped_model("diffasr-tiny")).tokenizer


@pytest.fixture
def corpus(tmp_path):
    """Eight utterances of four voices, half a second to four seconds long."""
    folder = tmp_path / "speech"
    folder.mkdir()
    with open(folder / "train.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "duration", "wav", "lang", "wrd", "spk_id"])
        for number in range(8):
            seconds = 0.5 * (number + 1)
            path = folder / f"{number}.wav"
            soundfile.write(path, noise(seconds, number).numpy(), 16000)
            voice = f"voice{number % 4}"
            text = TEXTS[number % 4]
            writer.writerow([number, seconds, f"$data_root/{number}.wav", "en", text, voice])
    return folder


def make(corpus, tokenizer, **settings):
    settings = {"batch_size": 6, "window": 5.0, "num_frames": 50, "max_tokens": 48} | settings
    return WaveformStore([corpus], tokenizer, "cpu", augment=PLAIN, **settings)


def test_a_pack_holds_what_the_files_hold(corpus, tokenizer):
    files = make(corpus, tokenizer)
    pack(corpus)
    for path in corpus.glob("*.wav"):
        path.unlink()
    packed = make(corpus, tokenizer)
    assert torch.equal(files.audio, packed.audio)
    assert np.array_equal(files.lens, packed.lens)
    assert torch.equal(files.batch().sig[0], packed.batch().sig[0])


def test_folds_share_no_voice_and_miss_none(corpus, tokenizer):
    voices = [f"voice{number}" for number in range(4)]
    heard = {voice: [] for voice in voices}
    for number in range(3):
        for voice in voices:
            assert Fold(number, 3, True).has(voice) != Fold(number, 3, False).has(voice)
            heard[voice] += [number] * Fold(number, 3, True).has(voice)
    assert all(len(folds) == 1 for folds in heard.values())
    fold = Fold(heard["voice0"][0], 3, True)
    assert {row["spk_id"] for row in make(corpus, tokenizer, fold=fold).rows} == {
        voice for voice in voices if fold.has(voice)
    }


def test_windows_hold_as_much_audio_and_cut_nothing(corpus, tokenizer):
    """A batch of 2.5 s windows has twice the utterances, none longer, each of them whole."""
    store = make(corpus, tokenizer, windows=[[2.5, 0.5], [5.0, 0.5]], join=0.0, max_lead=0.0)
    shapes = set()
    for _ in range(8):
        batch = store.batch()
        wavs = batch.sig[0]
        shapes.add(tuple(wavs.shape))
        assert (batch.filled is None) == (wavs.shape[1] == 80000)
        for row, name in enumerate(batch.id):
            start, length = store.starts[int(name)], store.lens[int(name)]
            energy = (store.audio[start : start + length].float() / 32768).square().sum()
            torch.testing.assert_close(wavs[row].square().sum(), energy, rtol=1e-4, atol=1e-6)
            if batch.filled is not None:  # 0.1 s a slot; the lead is 0.05 s at least
                assert 0 <= batch.filled[row] - length / 1600 <= 2
    assert shapes == {(12, 40000), (6, 80000)}


def test_joined_utterances_have_joined_texts(corpus, tokenizer):
    store = make(corpus, tokenizer, join=1.0)
    pairs = [
        pair
        for batch in (store.batch() for _ in range(5))
        for pair in zip(batch.tokens, batch.wrd, strict=True)
    ]
    assert any(text not in TEXTS for _, text in pairs)
    for tokens, text in pairs:
        assert "".join(tokenizer.decode_ids(tokens).split()) == "".join(text.split())


def test_a_window_that_is_longer_than_the_model_hears_is_refused(corpus, tokenizer):
    with pytest.raises(ValueError, match=r"windows: 9 s, but the whole window is 5\.0 s"):
        make(corpus, tokenizer, windows=[[2.5, 0.5], [9, 0.5]])


def test_another_sample_rate_is_refused_by_name(corpus, tokenizer):
    soundfile.write(corpus / "3.wav", np.zeros(8000), 8000)
    with pytest.raises(ValueError, match=r"3\.wav: 8000 Hz, 1 channels; expected 16000 Hz"):
        make(corpus, tokenizer)


@pytest.mark.parametrize("shares", [None, [[0.5, 1.0]]])
def test_a_draft_without_errors_reads_as_its_text(tokenizer, tmp_path, shares):
    """Collapsed as CTC is: repeats merged, blanks dropped."""
    path = tmp_path / "text.csv"
    path.write_text("lang,wrd\n" + "".join(f"en,{text}\n" for text in TEXTS), encoding="utf-8")
    blank = tokenizer.token_id("<|audio|>")
    store = DraftStore(
        path,
        tokenizer,
        60,
        blank,
        48,
        16,
        join=0.3,
        max_wrong=0.0,
        pace=(1.5, 4.0),
        repeated=0.2,
        shares=shares,
    )
    languages, tokens, draft, filled, most = store.batch()
    assert set(languages) == {"en"}
    assert len(tokens) == (16 if shares is None else 32)
    assert draft.shape == (len(tokens), 60)
    assert most == (60 if shares is None else 30)
    for row, expected in zip(draft, tokens, strict=True):
        changes = row[np.append(True, row[1:] != row[:-1])]
        merged = [a for a, b in zip(expected, [None, *expected], strict=False) if a != b]
        if merged == expected:
            assert [token for token in changes if token != blank] == expected
    if shares is None:
        assert filled is None
    else:
        assert max(filled) <= 30 and (draft[:, 30:] == blank).all()


def test_a_draft_at_pace_one_is_its_text(tokenizer, tmp_path):
    """As a prompt of text is, which a language model that never heard anything can read."""
    path = tmp_path / "text.csv"
    path.write_text("lang,wrd\n" + "".join(f"en,{text}\n" for text in TEXTS), encoding="utf-8")
    blank = tokenizer.token_id("<|audio|>")
    store = DraftStore(
        path, tokenizer, 60, blank, 48, 16, join=0.0, max_wrong=0.0, pace=(1, 1), repeated=0.0
    )
    _, tokens, draft, *_ = store.batch()
    for row, expected in zip(draft.tolist(), tokens, strict=True):
        start = next(place for place, token in enumerate(row) if token != blank)
        assert row[start : start + len(expected)] == expected
        assert set(row[:start] + row[start + len(expected) :]) <= {blank}


@pytest.mark.parametrize("pace", [(0.5, 4.0), (3.0, 2.0)])
def test_a_pace_that_would_lose_pieces_is_refused(tokenizer, tmp_path, pace):
    path = tmp_path / "text.csv"
    path.write_text("lang,wrd\nen,hello\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"pace: .* are not fewest and most frames, 1 or more"):
        DraftStore(path, tokenizer, 60, 0, 48, 4, join=0, max_wrong=0, pace=pace, repeated=0)
