"""README and docs: every command and every Python block in them runs, or says why not."""

import argparse
import ast
import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import speechbrain

import speechbrain_diffasr
from speechbrain_diffasr import DiffusionASR, cli, shipped_model
from speechbrain_diffasr.dataio import load_audio
from speechbrain_diffasr.recipe import read_hparams

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SAMPLES = Path(shipped_model("diffasr-tiny")) / "samples"
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>.+?) -->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
# All that stays unrun, since it needs a network, weights or a corpus that are not here.
UNRUN = [
    ("README.md", "installs packages, which needs a network"),
    ("README.md", "trains for hours on recordings that you have"),
    ("full_size.md", "needs the 26B weights and an adapter"),
    ("installing.md", "installs packages, which needs a network"),
    ("long_audio.md", "fetches SpeechBrain's detector from the Hub"),
    ("training.md", "trains for hours on a corpus that you have"),
    ("training.md", "trains for hours on a corpus that you have"),
    ("training.md", "trains"),
]


def blocks(page):
    return [match.groupdict() for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def outside_blocks(page):
    """The text of a page without its blocks, whose comments are no headings."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


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
    longest = max(len(first), len(second))
    call = [np.pad(wav, (0, longest - len(wav))) for wav in (first, second)]
    soundfile.write(folder / "call.wav", np.stack(call, axis=1), 16000)
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
    (folder / "draft.txt").write_text("oh there he is")
    (folder / "names.txt").write_text("# people\nanna\n")
    (folder / "recordings").mkdir()
    shutil.copy(folder / "a.wav", folder / "recordings" / "monday.wav")
    # A model of one's own, which has no table of languages yet.
    without = shutil.ignore_patterns("samples", "language.safetensors")
    shutil.copytree(shipped_model("diffasr-tiny"), folder / "FOLDER", ignore=without)
    return folder


@pytest.fixture(scope="module")
def loaded():
    """Models by their source: each command loads one, and few of them differ."""
    models = {}

    def load(source, device="cpu", verbose=False):
        key = str(source)
        if key not in models:
            model = DiffusionASR.from_hparams(source or shipped_model("diffasr-tiny"))
            models[key] = model, model.decoding
        model, decoding = models[key]
        model.mods.decoder.configure(**decoding)  # which the options of a command have changed
        return model

    return load


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page):
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    # None is indented or left open, and no reason stands before something else.
    assert 2 * len(found) == len(re.findall(r"^\s*(?:```|~~~)", text, re.M))
    assert sum(block["why"] is not None for block in found) == text.count("<!-- not run")
    for block in found:
        assert block["kind"] in ("sh", "python", "text"), block["code"]


def test_few_blocks_are_not_run():
    whys = [(page.name, block["why"]) for page in PAGES for block in blocks(page) if block["why"]]
    # Behind the semicolon stands which test runs something like it.
    assert [(name, why.partition(";")[0]) for name, why in whys] == UNRUN
    for folder in re.findall(r"tests/[\w/.]+", " ".join(why for _, why in whys)):
        assert (ROOT / folder).exists(), folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    space = {"__name__": "docs"}
    for block in blocks(page):
        if block["kind"] != "python":
            continue
        if block["why"] is None:
            exec(compile(block["code"], page.name, "exec"), space)
        else:
            check_imports(block["code"])


def check_imports(code):
    """Of Python that is not run: it can be read, and what it takes from a package is there."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), node.module


def put_in_path(folder, script):
    """The environment of a shell whose `diffasr` is this script."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "diffasr").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "diffasr").chmod(0o755)
    return os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}


def bash(code, folder, env):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (code, done.stderr)
    return done.stdout


def read_by_bash(line, folder):
    """The arguments that bash gives `diffasr`, which need not start Python to be told them."""
    words = bash(line, folder, put_in_path(folder, "printf '%s\\0' \"$@\"")).split("\0")
    assert words.pop() == "", line
    return words


def run_diffasr(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(arguments)
    assert status == 0, (arguments, err.getvalue())
    assert out.getvalue() or "--output" in arguments, arguments


def outputs(lines):
    """What commands write."""
    return [Path(words[words.index("--output") + 1]) for words in lines if "--output" in words]


def remove(paths):
    """Takes away what another page has written: a batch that is done would not be done again."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page, folder, loaded, monkeypatch):
    monkeypatch.setattr(cli.common, "load_model", loaded)
    for block in blocks(page):
        if block["kind"] != "sh":
            continue
        # A block that changes its folder changes that of no other.
        monkeypatch.chdir(folder)
        lines = commands(block["code"])
        if block["why"] is not None:
            for words in lines:
                check_unrun(words)
            continue
        made = [words for words in lines if words[0] == "make"]
        for words in made:
            check_target(words)
        if made:
            assert made == lines, "what is made and what is run are blocks of their own"
            continue
        remove(outputs(lines))
        for line in block["code"].replace("\\\n", " ").splitlines():
            if commands(line):
                assert commands(line)[0][0] == "diffasr", line
                run_diffasr(read_by_bash(line, folder))
        assert all(path.exists() for path in outputs(lines))


def test_the_first_command_runs_in_a_shell(folder):
    """The others of all pages are read by bash too, but run in this process."""
    code = next(b["code"] for b in blocks(ROOT / "README.md") if b["code"].startswith("diffasr "))
    env = put_in_path(folder, f'exec {shlex.quote(sys.executable)} -m speechbrain_diffasr "$@"')
    paths = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    out = bash(code.splitlines()[0], folder, env | {"PYTHONPATH": paths})
    assert out.strip() == (SAMPLES / "en_1.txt").read_text(encoding="utf-8").strip()


def check_target(words):
    """Of `make`, by which tests cannot run themselves: there is such a target."""
    assert re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), re.M), words


def check_unrun(words):
    """Of a command that is not run: its options are there."""
    if words[0] == "diffasr":
        cli.build_parser().parse_args(words[1:])
    elif words[0] == "make":
        check_target(words)
    elif words[0] == "cd":
        assert (ROOT / words[1]).is_dir()
        os.chdir(ROOT / words[1])
    elif "train.py" in words:
        assert words[0] in ("python", "torchrun") and Path("train.py").exists(), words
        # SpeechBrain takes its own options and leaves those of the recipe.
        path, _, options = speechbrain.parse_arguments(words[words.index("train.py") + 1 :])
        read_hparams(path, options)
    else:
        assert words[:2] == ["pip", "install"], words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_have_their_options(page):
    for code in re.findall(r"`([^`\n]+)`", outside_blocks(page)):
        words = shlex.split(code) if code.startswith(("diffasr ", "python ", "make ")) else []
        words = ["1" if word == "N" else word for word in words]
        if words[:1] == ["make"]:
            check_target(words)
        elif words[:1] == ["python"] and words[1] != "-m":
            assert (ROOT / words[1]).exists(), code
        elif words[:1] == ["diffasr"] and "--help" not in words and len(words) > 2:
            cli.build_parser().parse_args(words[1:])


def named_options(parser):
    """Options of a parser and of its subcommands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from named_options(command)


@pytest.mark.parametrize("name", ["cli.md", "evaluation.md", "long_audio.md"])
def test_options_in_sentences_are_there(name):
    known = set(named_options(cli.build_parser()))
    text = outside_blocks(ROOT / "docs" / name)
    assert set(re.findall(r"`(--[\w-]+)", text)) <= known


@pytest.mark.parametrize(
    "page",
    [
        *(*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"),
        *sorted((*ROOT.glob("recipes/**/README.md"), *ROOT.glob("pretrained/*/README.md"))),
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_blocks(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists() and path.is_relative_to(ROOT), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", outside_blocks(path), re.M)
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
