"""README and docs: every command and every Python block in them runs, or says why not."""

import contextlib
import glob
import io
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile

import speechbrain_diffasr
from speechbrain_diffasr import DiffusionASR, cli, default_model
from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.recipe import read_hparams

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SAMPLES = Path(default_model()) / "samples"
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>.+?) -->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
# What may stay unrun: that needs a network, weights or a corpus that are not here.
MOST_UNRUN = 8


def blocks(page):
    return [match.groupdict() for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def commands(code):
    """The commands of a shell block, each as a list of words."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the pages speak of: real speech under their names."""
    folder = tmp_path_factory.mktemp("docs")
    names = {"speech.wav": "en_1", "a.wav": "de_1", "b.wav": "de_2", "spoken.flac": "de_1"}
    names |= {"a.mp3": "en_1", "b.mp3": "fr_1", "talk.mp3": "en_2"}
    for name, sample in names.items():
        wav = load_audio(SAMPLES / f"{sample}.wav").numpy()
        soundfile.write(folder / name, wav, 16000)
    first, second = (load_audio(SAMPLES / f"{name}.wav").numpy() for name in ("en_1", "en_2"))
    soundfile.write(folder / "meeting.wav", [*first, *[0.0] * 16000, *second], 16000)
    ends = len(first) / 16000, len(first) / 16000 + 1, (len(first) + len(second)) / 16000 + 1
    turns = (("anna", 0.0, ends[0]), ("ben", ends[1], ends[2]))
    (folder / "meeting.rttm").write_text(
        "".join(
            f"SPEAKER meeting 1 {start:.3f} {end - start:.3f} <NA> <NA> {name} <NA> <NA>\n"
            for name, start, end in turns
        )
    )
    (folder / "vad.txt").write_text(
        "".join(
            f"segment_{number:03d}  {start:.2f}  {end:.2f} SPEECH\n"
            for number, (_, start, end) in enumerate(turns, 1)
        )
    )
    rows = [
        (name, lang, (SAMPLES / f"{name}.txt").read_text(encoding="utf-8").strip())
        for name, lang in (("en_1", "en"), ("en_2", "en"), ("de_1", "de"), ("de_2", "de"))
    ]
    table = "ID,wav,lang,wrd\n" + "".join(
        f'{name},{SAMPLES / name}.wav,{lang},"{text}"\n' for name, lang, text in rows
    )
    for name in ("test.csv", "a.csv", "b.csv", "train.csv"):
        (folder / name).write_text(table, encoding="utf-8")
    (folder / "recordings").mkdir()
    shutil.copy(folder / "a.wav", folder / "recordings" / "monday.wav")
    # A model of one's own, which has no table of languages yet.
    without = shutil.ignore_patterns("samples", "language.safetensors")
    shutil.copytree(default_model(), folder / "FOLDER", ignore=without)
    return folder


@pytest.fixture(scope="module")
def loaded():
    """Models by their source: each command loads one, and few of them differ."""
    models = {}

    def load(source, device="cpu", verbose=False):
        key = str(source)
        if key not in models:
            models[key] = DiffusionASR.from_hparams(source or default_model())
        return models[key]

    return load


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page):
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    assert 2 * len(found) == len(re.findall(r"^```", text, re.M))
    for block in found:
        assert block["kind"] in ("sh", "python", "text"), block["code"]
        assert block["why"] is None or len(block["why"].split()) > 2


def test_few_blocks_are_not_run():
    unrun = [(page.name, block["why"]) for page in PAGES for block in blocks(page) if block["why"]]
    assert len(unrun) <= MOST_UNRUN, unrun


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    space = {"__name__": "docs"}
    for block in blocks(page):
        if block["kind"] != "python":
            continue
        code = compile(block["code"], page.name, "exec")
        if block["why"] is None:
            exec(code, space)


def run_diffasr(words):
    """A command of diffasr, its file names expanded as a shell does."""
    expanded = []
    for word in words[1:]:
        expanded += (sorted(glob.glob(word)) or [word]) if "*" in word else [word]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(expanded)
    return status, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page, folder, loaded, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli.common, "load_model", loaded)
    for block in blocks(page):
        if block["kind"] != "sh":
            continue
        for words in commands(block["code"]):
            if words[0] == "make":
                # What the tests are run by cannot be run by them.
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
            elif block["why"] is not None:
                check_unrun(words)
            else:
                assert words[0] == "diffasr", words
                status, out, err = run_diffasr(words)
                assert status == 0, (words, err)
                assert out or Path(words[words.index("--output") + 1]).exists(), words


def check_unrun(words):
    """Of a command that is not run: its options are there."""
    if words[0] == "diffasr":
        cli.main.__globals__["build_parser"]().parse_args(words[1:])
    elif words[0] == "cd":
        assert (ROOT / words[1]).is_dir()
        os.chdir(ROOT / words[1])
    elif "train.py" in words:
        options = words[words.index("train.yaml") + 1 :]
        named = {one[2:] for one in options if one.startswith("--")} - {"precision", "device"}
        given = dict.fromkeys(named, "x")
        read_hparams("train.yaml", given)
    else:
        assert words[0] in ("pip", "torchrun"), words


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/**/README.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in titles}
            assert anchor in slugs, target


def test_the_picture_of_the_layers_is_that_of_the_folders():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = Path(speechbrain_diffasr.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    picture = next(b["code"] for b in blocks(ROOT / "docs" / "architecture.md"))
    assert set(re.findall(r"[a-z]+", picture)) == folders
    # One line each, from the bottom.
    table = re.findall(r"^\| `(\w+)` \|", text, re.M)
    assert sorted(table) == sorted(folders)
    layers = (ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8")
    order = re.search(r"ORDER = \((.*?)\n\)", layers, re.S)[1]
    assert table == re.findall(r'"(\w+)"', order)


def test_nothing_names_a_folder_outside_of_the_project():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    endings = {".py", ".md", ".yaml", ".toml", ".ini", ".ipynb", ".txt", ".cff", ""}
    outside = re.compile(r"\.\./shared\b|\"shared\"|/home/\w+|/root/\w+|/Users/\w+")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or path.suffix not in endings or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not outside.search(text), name
