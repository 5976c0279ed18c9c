"""Words to expect: where CTC hears them, and what is made of its evidence."""

import itertools
import math
import random
from pathlib import Path

import pytest
import torch

from speechbrain_diffasr import shipped_model
from speechbrain_diffasr.decoders import keywords as keywords_module
from speechbrain_diffasr.decoders.keywords import Keywords, read_keywords
from speechbrain_diffasr.lobes.tokenizer import Tokenizer
from speechbrain_diffasr.utils.errors import DiffASRError

VOCAB, BLANK = 5, 4  # the blank's log probabilities come apart
COLUMNS = [0, 1, 2, 3]
# 0 and 2 begin with a space, 1 and 3 go on.
STARTS_WORD = torch.tensor([True, False, True, False])
EPS = 1e-4


def random_evidence(seed, frames=5):
    generator = torch.Generator().manual_seed(seed)
    log_probs = (2 * torch.randn(frames, VOCAB, generator=generator)).log_softmax(dim=1)
    return log_probs[:, :BLANK].contiguous(), log_probs[:, BLANK].contiguous()


def evidence(*frames):
    """Frames in which some tokens have given probabilities and the others share the rest."""
    rows = torch.full((len(frames), VOCAB), -1.0)
    for row, frame in zip(rows, frames, strict=True):
        for token, probability in frame.items():
            row[token] = probability
        rest = row < 0
        row[rest] = (1 - sum(frame.values())) / rest.sum()
    return rows[:, :BLANK].log(), rows[:, BLANK].log()


def greedy(log_probs, blanks):
    best = torch.cat([log_probs, blanks[:, None]], dim=1).argmax(dim=1).tolist()
    return [token for token, _ in itertools.groupby(best) if token != BLANK]


def all_paths(log_probs, blanks, tokens, bonus, floor):
    """Every path of a word over every stretch of frames, by enumeration: (score, start, path)."""
    both = torch.cat([log_probs, blanks[:, None]], dim=1)
    best = both.argmax(dim=1).tolist()
    relative = both - both.amax(dim=1, keepdim=True)
    for start in range(len(both)):
        for end in range(start + 1, len(both) + 1):
            behind = [token for token in best[end:] if token != BLANK]
            if behind and not STARTS_WORD[behind[0]]:
                continue
            before = [token for token in best[:start] if token != BLANK]
            if before and not STARTS_WORD[tokens[0]]:
                continue
            for path in itertools.product({*tokens, BLANK}, repeat=end - start):
                runs = [
                    list(group)
                    for _, group in itertools.groupby(range(len(path)), path.__getitem__)
                ]
                heard = [run for run in runs if path[run[0]] != BLANK]
                if path[0] == BLANK or [path[run[0]] for run in heard] != tokens:
                    continue
                mean = sum(
                    max(float(both[start + place, path[place]]) for place in run) for run in heard
                ) / len(tokens)
                score = bonus * len(tokens) + sum(
                    float(relative[start + place, token]) for place, token in enumerate(path)
                )
                if score > 0 and mean >= floor:
                    yield score, start, path


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tokens", [[0], [0, 1], [0, 1, 1], [2, 0], [1, 3], [0, 3, 1]])
def test_the_best_hit_is_the_best_of_all_paths(seed, tokens):
    log_probs, blanks = random_evidence(seed)
    keywords = Keywords(["word"], [tokens], STARTS_WORD, bonus=2.0, floor=-math.inf)
    hits = keywords.spot(log_probs, COLUMNS, blanks)
    paths = list(all_paths(log_probs, blanks, tokens, 2.0, -math.inf))
    assert bool(hits) == bool(paths)
    if paths:
        best = max(hits, key=lambda hit: hit.score)
        assert best.score == pytest.approx(max(score for score, *_ in paths), abs=EPS)
    for hit in hits:
        path = tuple(BLANK if token is None else token for token in hit.path)
        (score,) = (score for score, start, one in paths if (start, one) == (hit.start, path))
        assert hit.score == pytest.approx(score, abs=EPS) and hit.end == hit.start + len(path)


@pytest.mark.parametrize("seed", range(12))
def test_the_floor_holds_for_the_mean_of_the_best_frames_of_the_tokens(seed):
    log_probs, blanks = random_evidence(seed)
    for floor in (-0.5, -1.5, -2.5):
        keywords = Keywords(["word"], [[0, 1]], STARTS_WORD, bonus=4.0, floor=floor)
        paths = {
            (start, path): score
            for score, start, path in all_paths(log_probs, blanks, [0, 1], 4.0, floor)
        }
        for hit in keywords.spot(log_probs, COLUMNS, blanks):
            path = tuple(BLANK if token is None else token for token in hit.path)
            assert (hit.start, path) in paths


def test_a_word_is_read_where_another_was_a_little_more_probable():
    frames = {0: 0.9}, {BLANK: 0.9}, {1: 0.3, 3: 0.5}, {BLANK: 0.9}
    log_probs, blanks = evidence(*frames)
    assert greedy(log_probs, blanks) == [0, 3]
    keywords = Keywords(["word"], [[0, 1]], STARTS_WORD, bonus=1.0)
    (hit,) = keywords.spot(log_probs, COLUMNS, blanks)
    assert (hit.word, hit.start, hit.end, hit.path) == ("word", 0, 3, (0, None, 1))
    assert hit.score == pytest.approx(2.0 + math.log(0.3 / 0.5), abs=EPS)
    assert greedy(*keywords.boost(log_probs, COLUMNS, blanks)) == [0, 1]
    # Too much worse than what was heard for a smaller bonus.
    assert not Keywords(["word"], [[0, 1]], STARTS_WORD, bonus=0.2).spot(log_probs, COLUMNS, blanks)


def test_each_place_where_a_word_is_said_is_found():
    word = {0: 0.9}, {1: 0.4, 3: 0.5}
    log_probs, blanks = evidence(*word, {2: 0.9}, *word)
    hits = Keywords(["word"], [[0, 1]], STARTS_WORD).spot(log_probs, COLUMNS, blanks)
    assert [(hit.start, hit.end) for hit in hits] == [(0, 2), (3, 5)]


def test_of_hits_that_share_frames_the_better_one_stays():
    log_probs, blanks = evidence({0: 0.9}, {1: 0.5, 3: 0.4}, {BLANK: 0.9})
    words, tokens = ["good", "other"], [[0, 1], [0, 3]]
    (hit,) = Keywords(words, tokens, STARTS_WORD).spot(log_probs, COLUMNS, blanks)
    assert hit.word == "good"


def test_a_word_with_more_tokens_wins_over_its_own_beginning():
    log_probs, blanks = evidence({0: 0.9}, {2: 0.9}, {BLANK: 0.9})
    hits = Keywords(["new", "new york"], [[0], [0, 2]], STARTS_WORD).spot(
        log_probs, COLUMNS, blanks
    )
    assert [hit.word for hit in hits] == ["new york"]


def test_the_beginning_of_another_word_is_no_hit():
    log_probs, blanks = evidence({0: 0.9}, {1: 0.9}, {2: 0.9})
    keywords = Keywords(["art"], [[0]], STARTS_WORD)
    assert keywords.spot(log_probs, COLUMNS, blanks) == []
    # The same tokens of a script without spaces may stand anywhere.
    (hit,) = Keywords(["京"], [[0]], STARTS_WORD).spot(log_probs, COLUMNS, blanks)
    assert (hit.start, hit.end) == (0, 1)


def test_a_spelling_without_a_space_is_for_the_beginning_of_a_text():
    keywords = Keywords(["word", "word"], [[1], [0]], STARTS_WORD)
    first = evidence({BLANK: 0.9}, {1: 0.9}, {BLANK: 0.9})
    later = evidence({2: 0.9}, {1: 0.9}, {BLANK: 0.9})
    assert [hit.path for hit in keywords.spot(first[0], COLUMNS, first[1])] == [(1,)]
    assert keywords.spot(later[0], COLUMNS, later[1]) == []


def test_a_short_word_needs_evidence_however_high_the_bonus():
    log_probs, blanks = evidence(*[{BLANK: 0.99}] * 4)  # each token 0.0025, -6 nats
    word = ["word"], [[0]], STARTS_WORD
    assert Keywords(*word, bonus=20.0, floor=-8.0).spot(log_probs, COLUMNS, blanks)
    assert Keywords(*word, bonus=20.0, floor=-5.0).spot(log_probs, COLUMNS, blanks) == []


def test_where_no_word_is_heard_the_very_same_evidence_comes_back():
    log_probs, blanks = evidence({2: 0.99}, {BLANK: 0.99}, {3: 0.99})
    for keywords in (
        Keywords(["word"], [[0, 1]], STARTS_WORD, bonus=1.0),
        Keywords([], [], STARTS_WORD),
    ):
        boosted = keywords.boost(log_probs, COLUMNS, blanks)
        assert boosted[0] is log_probs and boosted[1] is blanks


@pytest.mark.parametrize("seed", range(8))
def test_boosting_changes_only_the_frames_of_hits(seed):
    log_probs, blanks = random_evidence(seed, frames=8)
    before = log_probs.clone(), blanks.clone()
    keywords = Keywords(["word"], [[0, 1]], STARTS_WORD, bonus=3.0, floor=-9.0, lift=1.5)
    hits = keywords.spot(log_probs, COLUMNS, blanks)
    boosted, boosted_blanks = keywords.boost(log_probs, COLUMNS, blanks)
    assert torch.equal(log_probs, before[0]) and torch.equal(blanks, before[1])
    both = torch.cat([boosted, boosted_blanks[:, None]], dim=1)
    old = torch.cat([log_probs, blanks[:, None]], dim=1)
    told = {
        hit.start + place: BLANK if token is None else token
        for hit in hits
        for place, token in enumerate(hit.path)
    }
    for frame, (row, was) in enumerate(zip(both, old, strict=True)):
        if frame not in told:
            assert torch.equal(row, was)
            continue
        token = told[frame]
        others = [other for other in range(VOCAB) if other != token]
        assert row[token] - row[others].max() >= 1.5 - EPS
        assert float(row.exp().sum()) == pytest.approx(1.0, abs=EPS)
        # The others keep their odds.
        assert torch.allclose(row[others] - row[others[0]], was[others] - was[others[0]], atol=EPS)


def test_probability_without_a_column_counts_when_a_frame_is_made_to_sum_to_one():
    log_probs, blanks = torch.tensor([[0.1, 0.2]]).log(), torch.tensor([0.3]).log()  # 0.4 elsewhere
    keywords = Keywords(["word"], [[0]], STARTS_WORD, bonus=3.0, lift=math.log(2.0))
    boosted, boosted_blanks = keywords.boost(log_probs, [0, 1], blanks)
    # The token gets 2 * 0.3, of 0.9 + 0.6.
    assert torch.allclose(boosted.exp(), torch.tensor([[0.6, 0.2]]) / 1.5)
    assert torch.allclose(boosted_blanks.exp(), torch.tensor([0.2]))


def test_tokens_that_must_not_be_read_are_not():
    log_probs, blanks = random_evidence(0)
    log_probs[:, 1] = -torch.inf
    keywords = Keywords(["word", "other"], [[0, 1], [0]], STARTS_WORD, bonus=9.0, floor=-20.0)
    assert {hit.word for hit in keywords.spot(log_probs, COLUMNS, blanks)} <= {"other"}
    boosted, boosted_blanks = keywords.boost(log_probs, COLUMNS, blanks)
    assert not boosted.isnan().any() and not boosted_blanks.isnan().any()


def test_the_order_of_keywords_and_of_columns_changes_nothing():
    words = [f"word {number}" for number in range(6)]
    tokens = [[0], [0, 1], [0, 3], [2, 0], [2, 1, 3], [2, 3, 3]]
    for seed in range(10):
        log_probs, blanks = random_evidence(seed, frames=9)
        hits = Keywords(words, tokens, STARTS_WORD).spot(log_probs, COLUMNS, blanks)
        order = random.Random(seed).sample(range(6), 6)
        mixed = [words[place] for place in order], [tokens[place] for place in order]
        columns = random.Random(seed).sample(COLUMNS, 4)
        other = Keywords(*mixed, STARTS_WORD).spot(log_probs[:, columns], columns, blanks)
        assert other == hits


def test_without_a_bonus_nothing_is_spotted():
    log_probs, blanks = evidence({0: 0.9}, {1: 0.9})
    keywords = Keywords(["word"], [[0, 1]], STARTS_WORD, bonus=0.0)
    assert keywords.spot(log_probs, COLUMNS, blanks) == []


def test_columns_may_be_a_range_or_a_tensor():
    log_probs, blanks = evidence({0: 0.9}, {1: 0.3, 3: 0.5})
    keywords = Keywords(["word"], [[0, 1]], STARTS_WORD)
    for columns in (range(4), torch.tensor(COLUMNS)):
        assert greedy(*keywords.boost(log_probs, columns, blanks)) == [0, 1]


def test_no_frames_are_no_hits():
    keywords = Keywords(["word"], [[0, 1]], STARTS_WORD)
    assert keywords.spot(torch.zeros(0, 4), COLUMNS, torch.zeros(0)) == []


def test_a_word_that_is_longer_than_the_audio_is_no_hit():
    log_probs, blanks = random_evidence(0, frames=2)
    keywords = Keywords(["word"], [[0, 1, 3]], STARTS_WORD, bonus=50.0, floor=-99.0)
    assert keywords.spot(log_probs, COLUMNS, blanks) == []


def test_half_precision_stays():
    log_probs, blanks = evidence({0: 0.9}, {1: 0.3, 3: 0.5}, {BLANK: 0.9})
    keywords = Keywords(["word"], [[0, 1]], STARTS_WORD)
    boosted, boosted_blanks = keywords.boost(log_probs.bfloat16(), COLUMNS, blanks.bfloat16())
    assert boosted.dtype == boosted_blanks.dtype == torch.bfloat16
    assert greedy(boosted, boosted_blanks) == [0, 1]


def test_a_token_without_a_column_is_refused():
    log_probs, blanks = random_evidence(0)
    keywords = Keywords(["word"], [[0, 3]], STARTS_WORD)
    assert keywords.ids() == [0, 3]
    with pytest.raises(ValueError, match="token 3 of a keyword"):
        keywords.spot(log_probs[:, :3], COLUMNS[:3], blanks)


@pytest.mark.parametrize("numbers", [{"bonus": -1.0}, {"floor": 1.0}, {"lift": -1.0}])
def test_numbers_out_of_their_range_are_refused(numbers):
    with pytest.raises(ValueError, match=f"{next(iter(numbers))} {next(iter(numbers.values()))}"):
        Keywords(["word"], [[0]], STARTS_WORD, **numbers)


def test_a_word_without_tokens_is_refused():
    with pytest.raises(ValueError, match="'word' has no tokens"):
        Keywords(["word"], [[]], STARTS_WORD)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer()
    tokenizer.load(Path(shipped_model("diffasr-base")) / "tokenizer.json")
    return tokenizer


def test_words_are_spelled_as_the_model_writes_them(tokenizer):
    words = ["Sheriff", " sheriff! ", "", "…", "Jean-Paul", "MU\u0308NCHEN"]
    keywords = Keywords.from_words(
        words, tokenizer, len(tokenizer), bonus=1.5, floor=-4.0, lift=3.0
    )
    assert keywords.words == ["sheriff", "jean paul", "münchen"]
    assert [tokenizer.decode_ids(row) for row in keywords.tokens] == keywords.words
    assert (keywords.bonus, keywords.floor, keywords.lift) == (1.5, -4.0, 3.0)
    apostrophe = Keywords.from_words(["geht's"], tokenizer, len(tokenizer), language="de")
    assert apostrophe.words == ["gehts"]


def test_a_chinese_word_is_spelled_with_and_without_the_space_before_a_text(tokenizer):
    keywords = Keywords.from_words(["北京"], tokenizer, len(tokenizer))
    pieces = [tokenizer.backend.convert_ids_to_tokens(row) for row in keywords.tokens]
    assert sorted(pieces) == [["▁", "北", "京"], ["北", "京"]]


def test_a_letter_that_the_tokenizer_does_not_know_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"keyword 'łódź': .* letter 'ł'; spell the word with"):
        Keywords.from_words(["berlin", "Łódź"], tokenizer, len(tokenizer))


def test_too_many_words_are_refused(monkeypatch):
    monkeypatch.setattr(keywords_module, "MOST_KEYWORDS", 2)
    with pytest.raises(ValueError, match="3 keywords"):
        Keywords(["a", "b", "c"], [[0]] * 3, STARTS_WORD)


def test_words_are_read_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeff# names\r\n\r\n  Siobhán \r\nNew  York\r\n # more\r\n".encode())
    assert read_keywords(path) == ["Siobhán", "New York"]


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"caf\xe9\n", r"not UTF-8 text \(byte 3\); save it as text in UTF-8"),
        (b"a\0b\n", "not text; save it as"),
        (b"# nothing\n\n", "no keywords in it; write a word"),
        (b"a\nb\nc\n", "3 keywords; keep the 2"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(keywords_module, "MOST_KEYWORDS", 2)
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DiffASRError, match=rf"names.txt: {message}"):
        read_keywords(path)


def test_a_folder_is_no_file_of_words(tmp_path):
    with pytest.raises(DiffASRError, match="cannot be read"):
        read_keywords(tmp_path)
