"""The page of a decoding: what is recorded, what is written, and how a browser shows it."""

import base64
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hostile_page import HOSTILE, hostile_explanation, hostile_tokenizer
from speechbrain.decoders.ctc import ctc_greedy_decode

from speechbrain_diffasr import DiffusionASR, Segment, Transcript, cli, shipped_model
from speechbrain_diffasr.cli.common import UsageError
from speechbrain_diffasr.cli.explain import add_explain
from speechbrain_diffasr.cli.main import Parser
from speechbrain_diffasr.decoders import Draft
from speechbrain_diffasr.decoders.ctc import read_pieces
from speechbrain_diffasr.lobes import Tokenizer
from speechbrain_diffasr.lobes.output_layer import Head
from speechbrain_diffasr.transcripts.schema import format_json
from speechbrain_diffasr.visualization import Recorder, explain, write_page
from speechbrain_diffasr.visualization.page import make_page
from speechbrain_diffasr.visualization.token_texts import TokenTexts

SAMPLES = Path(shipped_model("diffasr-tiny")) / "samples"


@pytest.fixture(scope="module")
def asr():
    """That decodes as in the paper."""
    asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    asr.mods.decoder.configure("noise", 0.0, "seed", 1, "likelihood", 0)
    return asr


@pytest.fixture(scope="module")
def spoken(asr):
    """A sample that takes several steps, and how it is decoded."""
    wav = asr.load_audio(SAMPLES / "zh_1.wav")
    return wav, explain(asr, wav, language="zh")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return hostile_tokenizer(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def attack():
    return hostile_explanation()


class Elements(HTMLParser):
    """Elements of a page, as (tag, attributes, text)."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.found = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])

    def handle_data(self, data):
        if self.found:
            self.found[-1][2] += data

    def all(self, tag):
        return [element for element in self.found if element[0] == tag]

    def data(self):
        return json.loads(next(text for _, attrs, text in self.all("script") if attrs))


# What is recorded


def test_the_record_is_the_decoding_itself(asr, spoken, monkeypatch):
    wav, explanation = spoken
    drafts, read = [], []
    sampler = asr.mods.decoder.sampler
    step = sampler.step

    def spy(canvases, *args):
        read.append(canvases.canvas[0].tolist())
        return step(canvases, *args)

    monkeypatch.setattr(sampler, "step", spy)
    (transcript,) = asr.transcribe([wav], "zh", callback=drafts.append)

    assert explanation.text == transcript.text == (SAMPLES / "zh_1.txt").read_text().strip()
    assert [frame.step for frame in explanation.frames] == list(range(transcript.steps + 1))
    assert [frame.canvas for frame in explanation.frames[:-1]] == read
    assert len(drafts) > 2
    for frame, draft in zip(explanation.frames[1:], drafts, strict=True):
        assert frame.canvas == draft.canvas[0].tolist()
        assert frame.tokens == draft.tokens[0].tolist()
        assert frame.accepted == draft.accepted[0].tolist()
        assert frame.mean_entropy == pytest.approx(float(draft.entropy[0].mean()), rel=1e-4)
    assert asr.tokenizer.decode_ids(explanation.frames[-1].tokens) == explanation.text


def test_steps_and_seed_are_those_that_were_asked_for(asr, spoken):
    wav, explanation = spoken
    other = explain(asr, wav, language="zh", steps=2, seed=5)
    assert len(other.frames) == 3
    assert (other.seed, other.max_steps) == (5, 2)
    assert other.frames[0].canvas != explanation.frames[0].canvas
    with pytest.raises(ValueError, match="steps"):
        explain(asr, wav, steps=0)


def test_words_lie_in_order_within_the_audio(spoken):
    _, explanation = spoken
    assert "".join(word.text for word in explanation.words) == explanation.text
    edges = [edge for word in explanation.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= explanation.duration


def test_a_second_try_replaces_the_first():
    def draft(step, size):
        row = torch.zeros(1, size)
        tokens = row.long()
        return Draft(step, tokens, tokens, row.bool(), row, torch.tensor([False]))

    recorder = Recorder()
    for step, size in [(1, 16), (2, 16), (1, 32)]:
        recorder(draft(step, size))
    assert recorder.tries == 2
    assert [(frame.step, len(frame.canvas)) for frame in recorder.frames] == [(1, 32)]


def test_ctc_pieces_are_the_greedy_reading():
    torch.manual_seed(0)
    head = Head(torch.randn(6, 8), softcap=3.0)
    audio = torch.randn(150, 8)
    pieces = read_pieces(audio, head, blank=0, frame=0.08, duration=10.03)
    logits = 3.0 * torch.tanh(audio[:126] @ head.weight.T / 3.0)  # 126 frames begin before 10.03 s
    assert [piece.token for piece in pieces] == ctc_greedy_decode(logits[None], torch.ones(1), 0)[0]
    best = logits.softmax(-1).max(-1).values
    for piece in pieces:
        first, last = round(piece.start / 0.08), round(piece.end / 0.08 + 0.3)
        assert piece.probability == pytest.approx(float(best[first:last].max()), rel=1e-4)
    assert pieces[-1].end <= 10.03


# Where it started from, and what became of that


@pytest.fixture
def decoding(asr):
    """Changes how the model decodes until the end of a test."""
    before = asr.mods.decoder.settings()
    yield asr.mods.decoder.configure
    asr.mods.decoder.configure(**before)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"start": "ctc"}, {}),
        ({"noise": "audio"}, {}),
        ({"start": "ctc", "noise": "audio", "ctc_weight": 1.0}, {}),
        ({}, {"draft": "这是怎么"}),
        ({"start": "ctc"}, {"draft": [[("这", 0.9), ("是", 0.1), ("什", 0.8)]]}),
        ({"ctc_weight": 2.0}, {"keywords": ["回事"]}),
    ],
)
def test_the_first_frame_is_what_the_first_step_reads(
    asr, spoken, decoding, monkeypatch, settings, expected
):
    wav, noise = spoken
    decoding(**settings)
    read = []
    sampler = asr.mods.decoder.sampler
    step = sampler.step

    def spy(canvases, *args):
        read.append(canvases.canvas[0].tolist())
        return step(canvases, *args)

    monkeypatch.setattr(sampler, "step", spy)
    drafts = [expected["draft"]] if "draft" in expected else None
    (transcript,) = asr.transcribe(
        [wav], "zh", drafts=drafts, keywords=expected.get("keywords"), steps=3
    )
    monkeypatch.undo()
    explanation = explain(asr, wav, "zh", steps=3, **expected)
    assert explanation.text == transcript.text
    assert [frame.canvas for frame in explanation.frames[:-1]] == read
    assert (read[0] == noise.frames[0].canvas) == (list(settings) == ["ctc_weight"])
    assert asr.mods.decoder.sampler is sampler


def test_noise_has_no_marks(asr, spoken):
    _, explanation = spoken
    assert not any(explanation.frames[0].given) and explanation.fates == []
    page = make_page(explanation, asr.tokenizer, "tiny", "x.wav")
    assert "How a canvas of noise became this text" in page
    assert "Pale:" not in page and 'class="cell stayed"' not in page
    data = Elements(page).data()
    assert (data["fates"], data["origin"]) == ([], "noise")


def test_what_the_denoiser_made_of_a_draft_is_marked(asr):
    """Of a draft with an unsure word and a wrong one, the page tells these from the others."""
    wav = asr.load_audio(SAMPLES / "de_2.wav")
    draft = [[("das", 0.9), ("war", 0.9), ("nicht", 0.1), ("gut", 0.9)]]
    explanation = explain(asr, wav, "de", draft=draft)
    assert explanation.text == "das ist nicht gut"
    first, end = explanation.frames[0], asr.tokenizer.eos_id
    assert first.given[:4] == [True, True, False, True] and all(first.given[4:])
    assert explanation.fates == ["stayed", "changed", "filled"] + ["stayed"] * 45
    assert set(first.canvas[4:]) == {end}
    page = make_page(explanation, asr.tokenizer, "tiny", "x.wav")
    elements = Elements(page)
    data = elements.data()
    assert data["origin"] == "the draft"
    assert data["given"] == "1101" + "1" * 44
    assert data["fates"] == ["stayed", "changed", "filled", "stayed"] + [""] * 44
    assert data["frames"][0]["text"] == "das war gut"
    said = [text.strip() for _, _, text in elements.all("dd")]
    assert "the draft (tokens: 2 stayed, 1 changed, 1 noise)" in said
    legend = "".join(text for _, attrs, text in elements.found)
    assert "of the draft, and the same at the end" in legend
    assert "How a draft became this text" in page and "Pale: given by the draft." in page


def test_a_start_from_ctc_is_marked(asr, decoding):
    wav = asr.load_audio(SAMPLES / "en_1.wav")
    decoding(start="ctc", ctc_weight=2.0)
    explanation = explain(asr, wav, "en", keywords=["want"])
    assert explanation.origin == "ctc"
    first, last = explanation.frames[0], explanation.frames[-1]
    for fate, given, start, token in zip(
        explanation.fates, first.given, first.canvas, last.tokens, strict=True
    ):
        assert fate == ("filled" if not given else "stayed" if start == token else "changed")
    elements = Elements(make_page(explanation, asr.tokenizer, "tiny", "x.wav"))
    said = [text.strip() for _, _, text in elements.all("dd")]
    assert said[5].startswith("CTC (tokens: ") and said[6:] == ["2 at every step", "1"]


def test_of_several_candidates_the_first_canvas_is_shown(asr, decoding):
    wav = asr.load_audio(SAMPLES / "fr_2.wav")
    shown = []
    for seed in range(8):
        alone = explain(asr, wav, "fr", steps=1, seed=seed)
        decoding(candidates=3)
        (transcript,) = asr.transcribe([wav], "fr", steps=1, seed=seed)
        explanation = explain(asr, wav, "fr", steps=1, seed=seed)
        decoding(candidates=1)
        assert explanation.text == transcript.text
        assert explanation.frames == alone.frames and explanation.tries == 1
        page = make_page(explanation, asr.tokenizer, "tiny", "x.wav")
        assert f">{explanation.text or 'nothing was heard'}</h1>" in page
        (line,) = [text for _, _, text in Elements(page).all("dd") if "canvases" in text]
        which = "its text" if explanation.text == alone.text else "another text"
        assert line.strip() == f"3 canvases; the first canvas is shown, and {which} was chosen"
        shown.append(which)
    assert len(set(shown)) == 2  # else this could not fail


def test_readings_among_which_it_was_chosen_are_told(asr, decoding):
    wav = asr.load_audio(SAMPLES / "en_2.wav")
    decoding(readings=4)
    page = make_page(explain(asr, wav, "en"), asr.tokenizer, "tiny", "x.wav")
    told = "the canvas and up to 4 readings of CTC; the canvas is shown, and its text was chosen"
    assert told in page


def test_a_canvas_that_was_too_short_is_tried_again_among_candidates(asr, decoding, monkeypatch):
    monkeypatch.setattr(asr.mods.decoder, "tokens_per_second", 0.1)
    wav = asr.load_audio(SAMPLES / "es_1.wav").repeat(4)[: 6 * 16000]
    draft = " ".join(["no"] * 20)
    decoding(candidates=2)
    explanation = explain(asr, wav, "es", draft=draft, steps=1)
    assert explanation.tries == 2
    assert [frame.step for frame in explanation.frames] == [0, 1]
    sizes = {len(frame.canvas) for frame in explanation.frames}
    assert sizes == {32}


# What is written


def test_the_page_holds_the_record(asr, spoken):
    wav, explanation = spoken
    elements = Elements(make_page(explanation, asr.tokenizer, "tiny", "a/b/zh_1.wav"))
    data = elements.data()
    assert len(data["frames"]) == len(explanation.frames)
    for written, frame in zip(data["frames"], explanation.frames, strict=True):
        assert written["canvas"] == frame.canvas
        assert written["accepted"] == "".join(str(int(kept)) for kept in frame.accepted)
        assert written["entropy"] == pytest.approx(frame.entropy, abs=5e-5)
    assert [word["text"] for word in data["words"]] == [word.text for word in explanation.words]
    assert data["ctc"] == explanation.ctc_text
    source = elements.all("audio")[0][1]["src"].removeprefix("data:audio/wav;base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source)))
    assert rate == 16000
    assert samples == pytest.approx(wav.numpy(), abs=2**-15)


def test_the_header_says_how_it_was_made(asr, spoken):
    _, explanation = spoken
    page = make_page(explanation, asr.tokenizer, "org/a model", "a/b/zh_1.wav", 2.5, {"zh": "中文"})
    said = [text.strip() for _, _, text in Elements(page).all("dd")]
    steps = f"{explanation.frames[-1].step} of at most 8"
    seconds = f"zh_1.wav from 2.5 s on, {explanation.duration:.2f} s"
    assert said == [seconds, "org/a model", "中文 (zh)", steps, str(explanation.seed)]
    assert all(f"{name} " in page for name in ("speechbrain_diffasr", "torch", "transformers"))


def test_the_page_asks_for_nothing(asr, spoken):
    page = make_page(spoken[1], asr.tokenizer, "tiny", "zh_1.wav")
    assert "default-src 'none'" in page
    links = [
        value
        for _, attrs, _ in Elements(page).found
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "action")
    ]
    assert links and all(link.startswith("data:") for link in links)
    assert "@import" not in page and "url(" not in page


def test_the_same_decoding_gives_the_same_page(asr, spoken):
    wav, explanation = spoken
    again = explain(asr, wav, language="zh")
    pages = [make_page(each, asr.tokenizer, "tiny", "x.wav") for each in (explanation, again)]
    assert pages[0] == pages[1]


def test_six_seconds_stay_under_a_megabyte(asr, tmp_path):
    wav = asr.load_audio(SAMPLES / "de_1.wav").repeat(10)[: 6 * 16000]
    write_page(tmp_path / "page.html", explain(asr, wav), asr.tokenizer, model="m", name="six.wav")
    assert 6 * 32000 < (tmp_path / "page.html").stat().st_size < 1_000_000


def test_nothing_in_a_token_can_leave_its_place(attack, hostile):
    page = make_page(attack, hostile, model=HOSTILE[0], name=HOSTILE[1].replace("/", ""))
    elements = Elements(page)
    assert len(elements.all("script")) == 2
    assert not elements.all("img")
    data = elements.data()
    assert data["words"][0]["text"] == HOSTILE[0]
    shown = [text for text, _, _ in data["tokens"].values()]
    assert shown[3:7] == HOSTILE[:4]
    assert not any(ord(c) < 32 or c in "\u2028\u2029\u202e\ufeff" for c in "".join(shown))
    assert "\u2028" not in page and "\x1b" not in page


def test_names_and_texts_of_any_bytes_can_be_written(attack, hostile, tmp_path):
    path = tmp_path / "page.html"
    broken = replace(attack, text="half \ud800 of a pair")
    write_page(path, broken, hostile, model="m", name=os.fsdecode(b"caf\xe9.wav"))
    assert "caf\\udce9.wav" in path.read_text(encoding="utf-8")


def test_tokens_are_told_apart():
    tokenizer = Tokenizer()
    tokenizer.load(Path(shipped_model("diffasr-tiny")) / "tokenizer.json")
    texts = TokenTexts(tokenizer)
    vocabulary = tokenizer.backend.get_vocab()
    assert texts(vocabulary["▁he"]).text == "he" and texts(vocabulary["▁he"]).space
    assert texts(vocabulary["<0xE7>"]).kind == "byte"
    assert texts(vocabulary["<|audio|>"]).kind == "special"
    assert texts(vocabulary["ी"]).text == "\u25ccी"
    assert len({texts(token) for token in vocabulary.values()}) == len(vocabulary)


# The command


@pytest.fixture
def command(asr, monkeypatch, tmp_path):
    monkeypatch.setattr(cli.common, "load_model", lambda source, device, verbose: asr)
    monkeypatch.chdir(tmp_path)
    parser = Parser(prog="diffasr")
    add_explain(parser.add_subparsers())

    def run(*arguments):
        model = "--model", shipped_model("diffasr-tiny")
        args = parser.parse_args(["explain", *map(str, arguments), *model])
        return args.run(args)

    return run


def test_the_command_writes_the_page(command, capfd):
    assert command(SAMPLES / "en_1.wav", "--output", "page.html", "--language", "en") == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert '<h1 dir="auto" lang="en">do you want it</h1>' in page
    assert "diffasr-tiny" in page and str(SAMPLES) not in page
    assert re.fullmatch(r"page\.html: 4 words in \d+ denoising steps\n", capfd.readouterr().out)
    assert os.listdir() == ["page.html"]


def test_a_part_of_a_long_recording(command):
    wav, rate = soundfile.read(SAMPLES / "en_1.wav")
    silence = np.zeros(10 * rate)
    soundfile.write("long.wav", np.r_[silence, wav, silence], rate)
    end = 10 + len(wav) / rate
    status = command("long.wav", "--start", 10, "--end", end, "--output", "p.html")
    assert status == 0
    assert ">do you want it</h1>" in Path("p.html").read_text(encoding="utf-8")


def test_the_command_takes_the_options_of_decoding(command, decoding, capfd):
    Path("words.txt").write_text("want\n")
    options = ["--start-from", "ctc", "--ctc-weight", "2", "--keywords", "words.txt"]
    assert command(SAMPLES / "en_1.wav", "--output", "page.html", *options) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "How what CTC read became this text" in page
    assert "<dd>2 at every step</dd>" in page


def test_the_command_takes_a_draft(command, capfd):
    Path("draft.txt").write_text("Do you want… at?\n")
    options = "--output", "page.html", "--draft", "draft.txt"
    assert command(SAMPLES / "en_1.wav", *options) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "How a draft became this text" in page
    assert Elements(page).data()["frames"][0]["text"] == "do you want at"


def test_of_the_draft_of_a_recording_the_part_is_taken(command, asr):
    wav, rate = soundfile.read(SAMPLES / "en_1.wav")
    soundfile.write("long.wav", np.r_[np.zeros(10 * rate), wav, np.zeros(10 * rate)], rate)
    end = 10 + len(wav) / rate
    segments = Segment(0.0, 9.0, "not this"), Segment(10.0, end, "do you want at")
    transcript = Transcript((*segments, Segment(15, 20, "nor this")), 21.0, name="long.wav")
    Path("draft.json").write_text(format_json(transcript))
    part = "--start", 10, "--end", end, "--draft", "draft.json"
    assert command("long.wav", *part, "--output", "p.html") == 0
    data = Elements(Path("p.html").read_text(encoding="utf-8")).data()
    assert data["frames"][0]["text"] == "do you want at"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--draft", "no.txt"], "--draft: no.txt: no such file; give a text file, or what"),
        (["--draft", "other.json"], "nothing of {audio}; give the transcript of that"),
        (["--keywords", "no.txt"], "--keywords: no.txt: no such file; give"),
        (["--choose", "consensus", "--readings", "2"], "--choose: consensus is of canvases"),
        (["--start-from", "silence"], "--start-from: invalid choice: 'silence'"),
    ],
)
def test_decoding_that_cannot_be_is_refused(command, decoding, options, reason):
    Path("other.json").write_text(format_json(Transcript((), 1.0, name="other.wav")))
    audio = SAMPLES / "en_1.wav"
    with pytest.raises(UsageError, match=re.escape(reason.format(audio=audio))) as caught:
        command(audio, "--output", "page.html", *options)
    assert len(str(caught.value).splitlines()) == 1
    assert not Path("page.html").exists()


@pytest.mark.parametrize(
    ("audio", "options", "reason"),
    [
        ("missing.wav", [], "missing.wav: no such file"),
        ("long.wav", [], "9.0 s of audio, but this model hears 6 s at once; choose a part with"),
        ("long.wav", ["--start", "1", "--end", "8"], "7.0 s of audio, but this model hears 6 s"),
        ("long.wav", ["--start", "9"], "9.00 s long; --start 9 is behind its end"),
        ("long.wav", ["--start", "6"], "from 6 to 9 s: all samples are zero"),
        ("text.wav", [], "not audio"),
    ],
)
def test_audio_that_cannot_be_transcribed_gets_one_line(command, capfd, audio, options, reason):
    samples = np.r_[np.full(16000 * 6, 0.1), np.zeros(16000 * 3)]
    soundfile.write("long.wav", samples, 16000)
    Path("text.wav").write_text("not a sound")
    Path("page.html").write_text("old")
    assert command(audio, "--output", "page.html", *options) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert reason in line
    assert Path("page.html").read_text() == "old"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--output", "no/such/page.html"], "--output: there is no folder"),
        (["--output", "p.html", "--start", "3", "--end", "2"], "--end: 2 s is not behind --start"),
        (["--output", "p.html", "--start", "nan"], "not a number of seconds"),
        (["--output", "p.html", "--language", "xx"], "unknown language 'xx'"),
        ([], "required: --output"),
    ],
)
def test_wrong_usage_is_refused(command, options, reason):
    with pytest.raises(UsageError, match=re.escape(reason)):
        command(SAMPLES / "en_1.wav", *options)


def test_a_full_disk_leaves_the_old_page(command, monkeypatch):
    Path("page.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match=r"cannot write 'page.html': No space left"):
        command(SAMPLES / "en_1.wav", "--output", "page.html")
    assert Path("page.html").read_text() == "old"
    assert os.listdir() == ["page.html"]


def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit):
        command("--help")
    assert "diffasr explain speech.wav --output page.html" in capsys.readouterr().out
