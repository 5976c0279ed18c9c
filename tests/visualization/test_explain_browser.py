"""The page of a decoding in headless Chromium, on a desktop and on a phone."""

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hostile_page import HOSTILE, hostile_explanation, hostile_tokenizer

from speechbrain_diffasr import DiffusionASR, Word, shipped_model
from speechbrain_diffasr.decoders.ctc import Piece
from speechbrain_diffasr.visualization import explain, write_page
from speechbrain_diffasr.visualization.token_texts import TokenTexts
from speechbrain_diffasr.visualization.trace import Explanation, Frame

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DESKTOP, PHONE = (1280, 800), (360, 740)
# WCAG 2.2, success criterion 1.4.3.
MIN_CONTRAST = 4.5


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs a browser: apt-get install chromium, or CHROMIUM=/path/to/it")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def asr():
    """By the paper's sampler: joined with CTC, a canvas of this sample is sure at once."""
    asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    asr.mods.decoder.configure(start="noise", ctc_weight=0.0, readings=0)
    return asr


@pytest.fixture(scope="module")
def recorded(asr, tmp_path_factory):
    """A Hindi sample: how it was decoded, and its page."""
    wav = asr.load_audio(Path(shipped_model("diffasr-tiny")) / "samples" / "hi_1.wav")
    explanation = explain(asr, wav, language="hi")
    path = tmp_path_factory.mktemp("pages") / "hi.html"
    write_page(path, explanation, asr.tokenizer, model="diffasr-tiny", name="hi_1.wav")
    return explanation, path


@pytest.fixture(scope="module")
def long(asr, tmp_path_factory):
    """The page of an utterance as long as the full-size model hears: 30 s, 192 tokens, 48 steps."""
    size, steps = 192, 48
    dice = torch.Generator().manual_seed(0)
    noise = torch.randint(300, 3000, (steps + 1, size), generator=dice)
    kept = torch.rand(steps + 1, size, generator=dice) < torch.linspace(0, 1, steps + 1)[:, None]
    final = torch.randint(300, 3000, (size,), generator=dice)
    frames = [
        Frame(
            step=step,
            canvas=torch.where(kept[step], final, noise[step]).tolist(),
            accepted=kept[step].tolist(),
            entropy=(8 * torch.rand(size, generator=dice)).tolist() if step else [],
            tokens=final.tolist() if step else [],
        )
        for step in range(steps + 1)
    ]
    text = asr.tokenizer.decode_ids(final)
    texts = text.split()
    share = 30 / len(texts)
    explanation = Explanation(
        wav=torch.randn(30 * 16000, generator=dice) / 10,
        sample_rate=16000,
        language=None,
        seed=0,
        max_steps=steps,
        frames=frames,
        tries=1,
        text=text,
        words=[Word(each, i * share, (i + 1) * share, 0.9, True) for i, each in enumerate(texts)],
        pieces=[Piece(int(token), i / 7, (i + 1) / 7, 0.5) for i, token in enumerate(final)],
        ctc_text=text,
    )
    path = tmp_path_factory.mktemp("pages") / "long.html"
    write_page(path, explanation, asr.tokenizer, model="x" * 90, name="y" * 90 + ".wav")
    return path


@pytest.fixture
def show(browser):
    """Opens a page without network, and finds in the end that it complained of nothing."""
    complaints, contexts = [], []

    def open_page(path, size=DESKTOP, scheme="light", clock=False):
        context = browser.new_context(
            viewport=dict(zip(("width", "height"), size, strict=True)),
            color_scheme=scheme,
            offline=True,
            has_touch=size == PHONE,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        if clock:
            page.clock.install()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append("dialog"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or complaints.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def cells(page):
    """Class, text and bar height of each position as the page shows them."""
    return page.evaluate(
        """[...document.querySelectorAll("#canvas > li")].map((cell) => [
            cell.classList.contains("accepted"), cell.classList.contains("noise"),
            cell.querySelector(".token").textContent,
            cell.querySelector(".bar").getBoundingClientRect().height])"""
    )


def step_of(page):
    return int(page.get_by_role("slider", name="Denoising step").input_value())


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_step_is_shown_as_it_was(asr, recorded, show, size, scheme, tmp_path):
    explanation, path = recorded
    page = show(path, size, scheme)
    texts = TokenTexts(asr.tokenizer)
    for frame in explanation.frames:
        shown = cells(page)
        for place, (accepted, noise, text, height) in enumerate(shown):
            token = texts(frame.canvas[place])
            assert accepted == frame.accepted[place] and noise != accepted
            assert text == ("·" if token.kind == "end" else token.text)
            assert bool(frame.entropy) == (height > 0)
        if frame.step:
            surest_first = sorted(zip(frame.entropy, (cell[3] for cell in shown), strict=True))
            # Heights are written with a tenth of a pixel.
            assert all(a[1] <= b[1] + 0.2 for a, b in pairwise(surest_first))
            count = f"{sum(frame.accepted)} of {len(frame.accepted)} accepted"
            assert count in page.locator("#step-note").inner_text()
            reading = asr.tokenizer.decode_ids(frame.tokens)
            assert page.locator("#reading").inner_text() == reading
        name = tmp_path / f"{scheme}_{size[0]}_{frame.step}.png"
        page.screenshot(path=name, full_page=True)
        assert name.stat().st_size > 10_000
        page.keyboard.press("ArrowRight")
    assert page.locator("h1").inner_text() == explanation.text
    assert page.locator("#ctc").inner_text() == explanation.ctc_text


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(recorded, long, show, size, tmp_path):
    for path in (recorded[1], long):
        page = show(path, size)
        page.keyboard.press("End")
        page.screenshot(path=tmp_path / f"{path.stem}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        outside = page.evaluate(
            """[...document.querySelectorAll("main *")].filter((element) => {
                const box = element.getBoundingClientRect();
                return box.width && (box.left < 0 || box.right > innerWidth + 0.5);
            }).map((element) => element.outerHTML.slice(0, 80))"""
        )
        assert outside == []
        tops = page.evaluate(
            """new Set([...document.querySelectorAll("#canvas > li")].map(
                (cell) => cell.getBoundingClientRect().top)).size"""
        )
        assert tops > 1


def test_no_word_hides_another(long, show):
    for size in (DESKTOP, PHONE):
        page = show(long, size)
        boxes = page.evaluate(
            """[...document.querySelectorAll(".word")].map((word) => {
                const box = word.getBoundingClientRect();
                return [box.left, box.right, box.top, box.bottom];
            })"""
        )
        assert len(boxes) > 50
        for i, (left, right, top, bottom) in enumerate(boxes):
            for other in boxes[i + 1 :]:
                apart = right <= other[0] or other[1] <= left or bottom <= other[2]
                assert apart or other[3] <= top


def test_the_keyboard_goes_through_the_steps(recorded, show):
    explanation, path = recorded
    last = len(explanation.frames) - 1
    page = show(path)
    slider = page.get_by_role("slider", name="Denoising step")
    for focus in (page.locator("body"), slider, page.get_by_role("button", name="Listen")):
        focus.focus()
        page.keyboard.press("Home")
        for key, step in [
            ("ArrowLeft", 0),
            ("ArrowRight", 1),
            ("ArrowRight", 2),
            ("ArrowLeft", 1),
            ("End", last),
            ("ArrowRight", last),
        ]:
            page.keyboard.press(key)
            assert step_of(page) == step
    assert f"Step {last} of {last}" in slider.get_attribute("aria-valuetext")
    assert explanation.text in slider.get_attribute("aria-valuetext")


def test_space_and_button_play_the_steps(recorded, show):
    explanation, path = recorded
    last = len(explanation.frames) - 1
    page = show(path, PHONE, clock=True)
    page.keyboard.press("Space")
    page.clock.run_for(801)
    assert step_of(page) == 1
    page.keyboard.press("Space")
    page.clock.run_for(10_000)
    assert step_of(page) == 1
    page.get_by_role("button", name="Play the steps").tap()
    page.clock.run_for(10_000)
    assert step_of(page) == last
    button = page.get_by_role("button", name="Play the steps")
    assert button.get_attribute("aria-pressed") == "false"
    button.focus()
    page.keyboard.press("Space")  # from the beginning again, and once: the key is the button's
    assert step_of(page) == 0
    page.clock.run_for(801)
    assert step_of(page) == 1
    assert page.get_by_role("button", name="Pause the steps").count() == 1


def test_the_slider_is_dragged(recorded, show):
    explanation, path = recorded
    page = show(path)
    slider = page.get_by_role("slider", name="Denoising step")
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 10, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, y)
    page.mouse.up()
    assert step_of(page) == len(explanation.frames) - 1
    page.locator(".step-row").nth(1).click()
    assert step_of(page) == 1
    assert [accepted for accepted, *_ in cells(page)] == explanation.frames[1].accepted


def test_the_sound_plays_and_words_follow(recorded, show, tmp_path):
    explanation, path = recorded
    page = show(path)
    # The page's policy lets nobody evaluate strings in it, so that waiting is for elements.
    page.evaluate(
        """new Promise((done) => {
            const audio = document.getElementById("audio");
            if (audio.readyState >= 2) done();
            audio.addEventListener("loadeddata", done);
        })"""
    )
    duration = page.evaluate("document.getElementById('audio').duration")
    assert duration == pytest.approx(explanation.duration, abs=0.01)
    page.get_by_role("button", name="Listen").click()
    page.locator(".word.now").wait_for()
    page.locator("#listen[aria-pressed=false]").wait_for()
    assert page.evaluate("document.getElementById('audio').ended")

    second = explanation.words[1]
    page.evaluate("document.getElementById('audio').playbackRate = 0.1")
    button = page.get_by_role("button", name=f"{second.text}, {second.start:.2f} s").first
    button.click()
    page.locator(".word.now").wait_for()
    page.screenshot(path=tmp_path / "playing.png")
    assert page.locator(".word.now").inner_text() == second.text
    assert page.evaluate("document.getElementById('audio').currentTime") >= second.start
    assert f"confidence {second.confidence:.0%}".replace("%", " %") in (
        page.locator("#word-note").inner_text()
    )
    page.get_by_role("button", name="Pause", exact=True).click()
    assert page.evaluate("document.getElementById('audio').paused")

    wave = page.locator("#timeline svg").first.bounding_box()
    page.mouse.click(wave["x"] + wave["width"] * 0.75, wave["y"] + 20)
    time = page.evaluate("document.getElementById('audio').currentTime")
    assert time == pytest.approx(0.75 * explanation.duration, abs=0.01)


def test_hostile_tokens_are_shown_and_do_nothing(show, tmp_path):
    tokenizer = hostile_tokenizer(tmp_path)
    path = tmp_path / "page.html"
    write_page(path, hostile_explanation(), tokenizer, model=HOSTILE[0], name="a.wav")
    page = show(path)
    page.keyboard.press("End")
    assert HOSTILE[0] in page.locator("h1").inner_text()
    assert [text for _, _, text, _ in cells(page)][3:7] == HOSTILE[:4]
    for button in page.locator(".word").all():
        button.click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


def test_a_page_in_a_hidden_frame_waits_for_its_width(recorded, show, tmp_path):
    explanation, path = recorded
    outer = tmp_path / "outer.html"
    source = path.as_uri()
    outer.write_text(f'<iframe src="{source}" style="display: none; width: 100%"></iframe>')
    page = show(outer)
    words = page.frame_locator("iframe").locator(".word")
    assert words.count() == 0
    page.evaluate("document.querySelector('iframe').style.display = 'block'")
    words.first.wait_for()
    assert words.all_inner_texts() == [word.text for word in explanation.words]


def test_the_words_move_when_the_window_does(recorded, long, show):
    for path in (recorded[1], long):
        page = show(path)
        rows = page.locator("#timeline .row").count()
        focused = page.locator(".word").nth(1)
        focused.focus()
        page.set_viewport_size({"width": 360, "height": 740})
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        page.locator(".word:focus").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert (page.locator("#timeline .row").count() > rows) == (path == long)


def test_it_can_be_read_without_colour(recorded, show):
    _, path = recorded
    for scheme in ("light", "dark"):
        page = show(path, scheme=scheme)
        page.keyboard.press("ArrowRight")
        styles = {
            kind: page.evaluate(
                """(kind) => {
                    const style = getComputedStyle(document.querySelector(`#canvas .${kind}`));
                    return [
                        Number(style.fontWeight), style.borderBottomStyle, style.backgroundImage];
                }""",
                kind,
            )
            for kind in ("accepted", "noise")
        }
        assert styles["accepted"][0] >= styles["noise"][0] + 300
        assert styles["accepted"][1] == "solid" and styles["noise"][1] == "dashed"
        assert styles["accepted"][2] == "none" and "gradient" in styles["noise"][2]
        for ink, ground in [
            ("ink", "paper"),
            ("ink", "card"),
            ("ink", "kept-fill"),
            ("soft", "paper"),
            ("soft", "card"),
            ("noise", "paper"),
            ("noise", "hatch"),
        ]:
            assert contrast(*(colour(page, name) for name in (ink, ground))) >= MIN_CONTRAST


def colour(page, name):
    value = page.evaluate(
        "(name) => getComputedStyle(document.documentElement).getPropertyValue(name)", f"--{name}"
    ).strip()
    return [int(value[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def contrast(one, other):
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
