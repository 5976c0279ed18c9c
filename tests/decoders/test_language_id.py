"""The language found from audio: on the samples, in batches, without speech, and its benchmark."""

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from speechbrain_diffasr import DiffusionASR, shipped_model
from speechbrain_diffasr.dataio.tables import read_texts
from speechbrain_diffasr.decoders import LanguageTable, identify_language
from speechbrain_diffasr.decoders.language_id import LANGUAGE_FILE, count_languages

FOLDER = Path(shipped_model("diffasr-tiny"))
SAMPLES = sorted((FOLDER / "samples").glob("*.wav"))
SPOKEN = [path.stem.split("_")[0].replace("digits", "en") for path in SAMPLES]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def asr():
    return DiffusionASR.from_hparams(FOLDER, run_opts={"device": "cpu"})


@pytest.fixture(scope="module")
def table():
    return LanguageTable.load(FOLDER / LANGUAGE_FILE)


@pytest.fixture(scope="module")
def audio(asr):
    wavs = [asr.load_audio(path) for path in SAMPLES]
    lens = torch.tensor([len(wav) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    return asr.encode_batch(padded, lens / lens.max())


@pytest.fixture(scope="module")
def found(asr, audio, table):
    return identify_language(asr.mods.decoder, audio, table)


def test_the_language_of_every_sample(found):
    assert [one.code for one in found] == SPOKEN


def test_probabilities_sum_to_one(found, asr):
    for one in found:
        assert set(one.probabilities) == set(asr.languages)
        assert sum(one.probabilities.values()) == pytest.approx(1.0)
        assert one.probability == one.probabilities[one.code] == max(one.probabilities.values())
        code, probability, probabilities = one
        assert (code, probability, probabilities) == (one.code, one.probability, one.probabilities)


def test_alone_as_in_a_batch(asr, audio, table, found):
    alone = [identify_language(asr.mods.decoder, row[None], table)[0] for row in audio]
    assert alone == found
    assert identify_language(asr.mods.decoder, audio.flip(0), table) == found[::-1]


def test_encoded_alone_as_in_a_batch(asr, table, found):
    for path, together in zip(SAMPLES, found, strict=True):
        audio = asr.encode_batch(asr.load_audio(path)[None], torch.ones(1))
        (alone,) = identify_language(asr.mods.decoder, audio, table)
        assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-3)


def test_chunks_change_nothing(asr, audio, table, found):
    for size in (1, 7):
        chunked = identify_language(asr.mods.decoder, audio[:4], table, chunk_size=size)
        for one, whole in zip(chunked, found, strict=False):
            assert one.probabilities == pytest.approx(whole.probabilities, abs=1e-4)


def test_of_some_languages_only(asr, audio, table, found):
    some = identify_language(asr.mods.decoder, audio, table, languages=["hi", "de"])
    for one, spoken in zip(some, SPOKEN, strict=True):
        assert list(one.probabilities) == ["hi", "de"]
        assert one.code == spoken or spoken not in ("hi", "de")
    (only,) = identify_language(asr.mods.decoder, audio[:1], table, languages=["zh"])
    assert only == ("zh", 1.0, {"zh": 1.0})


def test_a_temperature_changes_how_sure_it_is_and_nothing_else(asr, audio, table, found):
    cold, hot = (
        identify_language(asr.mods.decoder, audio, table, temperature=value) for value in (0.3, 30)
    )
    assert [one.code for one in cold] == [one.code for one in hot] == SPOKEN
    for one, middle, other in zip(cold, found, hot, strict=True):
        assert one.probability >= middle.probability > other.probability


def test_a_table_brings_the_temperature_of_its_model(asr, audio, table, tmp_path):
    hot = LanguageTable(table.counts, table.languages, temperature=30.0)
    hot.save(tmp_path / LANGUAGE_FILE)
    loaded = LanguageTable.load(tmp_path / LANGUAGE_FILE)
    assert loaded.temperature == 30.0
    expected = identify_language(asr.mods.decoder, audio, table, temperature=30.0)
    assert identify_language(asr.mods.decoder, audio, loaded) == expected
    grown = count_languages({"it": ["buongiorno"]}, asr.tokenizer, table.counts.shape[1], hot)
    assert grown.temperature == 30.0


@pytest.mark.parametrize("seconds", [0.3, 3.0, 6.0])
def test_silence_gives_no_sure_answer(asr, table, seconds):
    silence = torch.zeros(1, int(seconds * asr.sample_rate))
    (one,) = identify_language(asr.mods.decoder, asr.encode_batch(silence, torch.ones(1)), table)
    assert one.probability < 0.4


def test_blanks_alone_leave_all_languages_as_probable(asr, audio, table):
    decoder = asr.mods.decoder
    blank = decoder.prompt.tokenizer.token_id(decoder.prompt.slot_token)
    frames = audio.flatten(0, 1)
    surest = decoder.model.logits(frames).softmax(dim=-1)[:, blank].argmax()
    many = frames[surest].expand(1, 20, -1)
    (one,) = identify_language(decoder, many, table)
    assert list(one.probabilities.values()) == pytest.approx([1 / 6] * 6, abs=0.02)


def test_expected_tokens_against_a_sum_by_hand(asr, audio, table):
    """The formula, frame by frame and token by token, for two languages."""
    decoder = asr.mods.decoder
    blank = decoder.prompt.tokenizer.token_id(decoder.prompt.slot_token)
    counts = table.counts[:2].tolist()
    totals = [sum(row) for row in counts]
    chances = decoder.model.logits(audio[0]).softmax(dim=-1).detach().double()
    expected = chances.sum(dim=0).tolist()
    difference = 0.0
    for token, number in enumerate(expected):
        shares = [row[token] / total for row, total in zip(counts, totals, strict=True)]
        if token != blank and sum(shares):
            mean = sum(shares) / 2
            first, second = (0.8 * share + 0.2 * mean for share in shares)
            difference += number * math.log(first / second)
    (one,) = identify_language(
        decoder, audio[:1], table, table.languages[:2], temperature=2.0, smoothing=0.2
    )
    assert one.probabilities[table.languages[0]] == pytest.approx(
        1 / (1 + math.exp(-difference / 2.0)), abs=1e-4
    )


def test_more_text_gives_a_language_no_advantage(asr):
    texts = {"en": ["the house"], "de": ["das haus"] * 50}
    few = count_languages({**texts, "en": ["the house"] * 50}, asr.tokenizer, 3072)
    many = count_languages(texts, asr.tokenizer, 3072)
    torch.testing.assert_close(few.weights(), many.weights())


def test_a_token_that_no_language_has_says_nothing(table):
    never = table.counts.sum(dim=0) == 0
    weights = table.weights()
    assert never.any() and (weights[never] == 0).all()
    assert weights.isfinite().all()
    spread = table.weights(0.1).max(dim=1).values - table.weights(0.1).min(dim=1).values
    assert spread.max() <= math.log(6 * 0.9 / 0.1 + 1) + 1e-4  # from none of it to all of it
    assert table.weights(1.0).abs().max() < 1e-5


def test_a_table_from_csvs_is_saved_and_loaded(asr, tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text(
        "ID,wav,lang,wrd\na,a.wav,de,ich weiß\nb,b.wav,en,i know\nc,c.wav,de,\n",
        encoding="utf-8-sig",
    )
    second.write_text("wrd,ID,wav,lang\nwe know,d,d.wav,en\n")
    texts = read_texts([first, second])
    assert texts == {"de": ["ich weiß", ""], "en": ["i know", "we know"]}
    table = count_languages(texts, asr.tokenizer, 3072)
    assert table.languages == ["de", "en"]
    for language, row in zip(table.languages, table.counts, strict=True):
        tokens = [token for token, count in enumerate(row.tolist()) for _ in range(count)]
        assert tokens == sorted(t for text in texts[language] for t in asr.tokenizer.encode(text))
    for _ in range(2):  # over itself, too
        table.save(tmp_path / LANGUAGE_FILE)
        again = LanguageTable.load(tmp_path / LANGUAGE_FILE)
        assert again.languages == table.languages and torch.equal(again.counts, table.counts)
        table = again
    assert (tmp_path / LANGUAGE_FILE).stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "first.csv", LANGUAGE_FILE, "second.csv"
    ]  # fmt: skip


def test_languages_are_added_to_a_table_and_the_old_ones_stay(asr, table):
    texts = {"de": ["nur dies"], "it": ["lo so", "non lo so"], "xx": ["", " "]}
    more = count_languages(texts, asr.tokenizer, 3072, table)
    assert more.languages == [*table.languages, "it"]
    assert torch.equal(more.counts[:-1], table.counts)
    assert more.counts[-1].sum() == sum(len(asr.tokenizer.encode(text)) for text in texts["it"])
    same = count_languages({"de": ["nur dies"]}, asr.tokenizer, 3072, table)
    assert same.languages == table.languages and torch.equal(same.counts, table.counts)


def test_one_language_alone_makes_no_table(asr):
    assert count_languages({"it": ["lo so"], "de": [""]}, asr.tokenizer, 3072) is None
    assert count_languages({}, asr.tokenizer, 3072) is None


def test_without_a_table_the_remedy_is_named(asr, audio):
    with pytest.raises(ValueError, match=r"no table of languages .*name the language, or make"):
        identify_language(asr.mods.decoder, audio[:1], None)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"languages": ["en", "it"]}, "'it' cannot be told from audio by this model; choose from"),
        ({"languages": []}, "none is given; choose from en, de"),
        ({"temperature": 0.0}, "temperature: 0.0 is not over 0"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"temperature": float("inf")}, "temperature: inf"),
        ({"smoothing": 0.0}, "smoothing: 0.0 is not over 0"),
        ({"smoothing": 1.5}, "smoothing: 1.5"),
        ({"chunk_size": 0}, "chunk_size: 0 is not 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(asr, audio, table, settings, reason):
    with pytest.raises(ValueError, match=reason):
        identify_language(asr.mods.decoder, audio[:1], table, **settings)


def test_a_table_of_another_vocabulary_is_refused(asr, audio, table):
    other = LanguageTable(table.counts[:, :100] + 1, table.languages)
    for ask in (
        lambda: identify_language(asr.mods.decoder, audio[:1], other),
        lambda: count_languages({"it": ["lo so"]}, asr.tokenizer, 3072, other),
    ):
        with pytest.raises(ValueError, match="the table counts 100 tokens, the model has 3072"):
            ask()


@pytest.mark.parametrize(
    ("counts", "languages", "reason"),
    [
        ([[1, 2]], ["en"], "two or more"),
        ([[1, 2], [3, 4]], ["en", "en"], "two or more different"),
        ([[1, 2], [3, 4], [5, 6]], ["en", "de"], "not those of 2 languages"),
        ([[1, 2], [0, 0]], ["en", "de"], "'de' has no text"),
        ([[1, 2], [-1, 3]], ["en", "de"], "'de' has no text"),
    ],
)
def test_odd_tables_are_refused(counts, languages, reason):
    with pytest.raises(ValueError, match=reason):
        LanguageTable(torch.tensor(counts), languages)


def test_files_that_are_no_table_are_named(tmp_path):
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(b"no table")
    for path in (odd, FOLDER / "projector.safetensors"):
        with pytest.raises(ValueError, match=f"{path.name}: not a table of languages"):
            LanguageTable.load(path)
    with pytest.raises(FileNotFoundError):
        LanguageTable.load(tmp_path / "missing.safetensors")
    path = tmp_path / "train.csv"
    for text, reason in (
        ("ID,wav,wrd\na,a.wav,hello\n", "line 2 has no lang; write the code"),
        ("ID,wav,wrd,lang\na,a.wav,hello,en\nb,b.wav,hello,\n", "line 3 has no lang"),
        ("lang,wrd\nen,hello\n", "no column ID"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"train\.csv: {reason}"):
            read_texts([path])


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    import language

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for each other
    yield language
    torch.set_num_threads(threads)


def test_the_temperature_of_overconfident_scores_is_found(benchmark):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3)) * 2
    chances = benchmark.probabilities(scores, 1.0)
    truth = np.array([rng.choice(3, p=row) for row in chances])
    assert benchmark.fit_temperature(scores, truth) == pytest.approx(1.0, rel=0.1)
    assert benchmark.fit_temperature(5 * scores, truth) == pytest.approx(5.0, rel=0.1)
    seconds = rng.uniform(0, 2, 4000)
    good, bad = (
        benchmark.summarize(5 * scores, truth, temperature, ["a", "b", "c"], seconds)
        for temperature in (5.0, 1.0)
    )
    assert good["calibration_error"] < 0.04 < 0.1 < bad["calibration_error"]
    assert good["accuracy"] == bad["accuracy"]
    confusion = np.array(list(good["confusion"].values()))
    assert confusion.sum() == sum(row["utterances"] for row in good["by_seconds"]) == 4000
    assert np.trace(confusion) == round(4000 * good["accuracy"])
    assert sum(row["utterances"] for row in good["bins"]) == 4000


def test_figures_of_the_samples(benchmark, tmp_path, capsys):
    path = tmp_path / "test.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "wav", "lang", "wrd"])
        writer.writerows(
            [wav.stem, wav, lang, "text"]
            for wav, lang in zip(SAMPLES, SPOKEN, strict=True)
            if not wav.stem.startswith("digits")
        )
    output = tmp_path / "new" / "figures.json"
    options = ["--valid", str(path), "--test", str(path), "--prompts", "1"]
    benchmark.main([*options, "--output", str(output)])
    result = json.loads(output.read_text())
    (report,) = result["reports"]
    assert report["frames"]["accuracy"] == report["default"]["accuracy"] == 1.0
    assert report["frames"]["utterances"] == 12 and report["prompt CTC"]["utterances"] == 6
    for row, language in enumerate(result["languages"]):
        assert report["frames"]["confusion"][language][row] == 2
    assert report["ms"]["identify"] < report["ms"]["prompts"]
    assert [row["sound"] for row in result["sounds"]] == list(benchmark.SOUNDS)
    assert "| test | frames | 12 | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ("ID,wav,wrd\na,a.wav,hello\n", [], "no utterance has a language of"),
        ("ID,wav,lang,wrd\na,nowhere.wav,en,hello\n", [], "nowhere.wav"),
        ("ID,wav,lang,wrd\na,a.wav,en,hello\n", ["--prompts", "0"], "--prompts: 0 is not 1"),
    ],
)
def test_bad_input_gets_one_line(benchmark, tmp_path, content, options, reason, capsys):
    path = tmp_path / "test.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit):
        benchmark.main(["--valid", str(path), "--test", str(path), *options])
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_model_without_a_table_gets_one_line(benchmark, random_model, tmp_path, capsys):
    options = ["--valid", "a.csv", "--test", "a.csv", "--model", str(random_model)]
    with pytest.raises(SystemExit):
        benchmark.main(options)
    assert "no table of languages" in capsys.readouterr().err.splitlines()[-1]
