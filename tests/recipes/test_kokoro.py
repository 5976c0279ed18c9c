"""Speech by Kokoro: what its model is given to read, without the model."""

import random
import shutil

import pytest
from miniature import load_recipe

phonemes = load_recipe("SyntheticSpeech", "phonemes.py")
# Those of Kokoro-82M, version 1.0.
SYMBOLS = set(
    ';:,.!?—…"()“” \u0303ʣʥʦʨᵝꭧAIOQSTWYᵊabcdefhijklmnopqrstuvwxyzɑɐɒæβɔɕçɖðʤəɚɛɜɟɡɥɨɪʝɯɰŋɳ'
)
SYMBOLS |= set("ɲɴøɸθœɹɾɻʁɽʂʃʈʧʊʋʌɣɤχʎʒʔˈˌːʰʲ↓→↗↘ᵻ")
needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="needs espeak-ng")


@needs_espeak
@pytest.mark.parametrize(
    ("text", "lang", "voice", "expected"),
    [
        ("Hello world!", "en", "en-us", "həlˈO wˈɜɹld!"),
        ("Hello.", "en", "en-gb", "həlˈQ."),
        ("La casa.", "es", "es", "la kˈasa."),
        ("Schön, ich.", "de", "de", "ʃˈøːn, ˈɪç."),
    ],
)
def test_sounds_are_written_as_kokoro_learned_them(text, lang, voice, expected):
    assert phonemes.phonemize(text, lang, voice, SYMBOLS) == expected


@needs_espeak
@pytest.mark.parametrize("lang", ["en", "es", "fr", "de", "hi", "it"])
def test_nothing_is_left_that_the_model_does_not_know(lang):
    texts = {"hi": "यह एक वाक्य है।", "fr": "Où est-ce que le garçon mange un œuf ?"}
    text = texts.get(lang, "Über “my” garçon, señor: perché no? One—two…")
    voice = phonemes.ESPEAK_VOICES[lang][0]
    found = phonemes.phonemize(text, lang, voice, SYMBOLS)
    assert len(found) > 8 and set(found) <= SYMBOLS
    assert "^" not in found and "  " not in found


def test_mixed_voices_add_up_and_are_mostly_native(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "phonemes", phonemes)
    kokoro = load_recipe("SyntheticSpeech", "prepare_kokoro.py")
    names = [f"{letter}f_{number}" for letter in "abefhijpz" for number in range(4)]
    rng, native, kinds = random.Random(0), 0, set()
    for _ in range(500):
        mix = kokoro.mix_voices(names, "h", 0.6, rng)
        assert sum(mix.values()) == pytest.approx(1.0) and 1 <= len(mix) <= 3
        native += max(mix, key=mix.get).startswith("h")
        kinds.add(len(mix))
    assert 280 < native < 400 and kinds == {1, 2, 3}


def test_a_folder_without_the_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "phonemes", phonemes)
    kokoro = load_recipe("SyntheticSpeech", "prepare_kokoro.py")
    with pytest.raises(FileNotFoundError, match=r"kokoro_folder: .*config\.json is not there"):
        kokoro.Kokoro(tmp_path)
