"""The wheel: what is in it, and that it works where nothing of the checkout is."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "pretrained" / "diffasr-tiny" / "samples"
SOURCES = ("speechbrain_diffasr", "pretrained", "setup.py", "MANIFEST.in", "README.md")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Made from a copy, so that nothing of an earlier build gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "-w", str(folder), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Where the wheel is unpacked, as pip would do in site-packages."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed, folder, *arguments):
    """Python in a folder of its own, with the wheel before all else that is installed."""
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error::ImportWarning", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_everything_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("speechbrain_diffasr/") for name in archive.namelist()}
    for folder in ("speechbrain_diffasr", "pretrained"):
        inside = ROOT / folder
        prefix = "" if folder == "speechbrain_diffasr" else "pretrained/"
        wanted = {
            prefix + path.relative_to(inside).as_posix()
            for path in inside.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert wanted <= names, sorted(wanted - names)
    assert "py.typed" in names


def test_it_transcribes_in_an_empty_folder(installed, tmp_path):
    names = ("en_1", "hi_1")
    for name in names:
        shutil.copy(SAMPLES / f"{name}.wav", tmp_path)
    command = ("-m", "speechbrain_diffasr", "transcribe", *(f"{name}.wav" for name in names))
    done = run(installed, tmp_path, *command)
    assert (done.returncode, done.stderr) == (0, "")
    texts = [(SAMPLES / f"{name}.txt").read_text(encoding="utf-8").strip() for name in names]
    told = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert told == texts
    assert len(list(tmp_path.iterdir())) == 2


def test_both_interfaces_load_its_model(installed, tmp_path):
    shutil.copy(SAMPLES / "de_1.wav", tmp_path / "speech.wav")
    code = (
        "from speechbrain.inference.ASR import EncoderDecoderASR\n"
        "from speechbrain_diffasr import DiffusionASR, shipped_model\n"
        "model = shipped_model('diffasr-tiny')\n"
        "for kind in (DiffusionASR, EncoderDecoderASR):\n"
        "    print(kind.from_hparams(source=model).transcribe_file('speech.wav'))\n"
        "print(model)\n"
    )
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    ours, stock, model = done.stdout.splitlines()[-3:]
    assert ours == stock == (SAMPLES / "de_1.txt").read_text(encoding="utf-8").strip()
    assert Path(model).is_relative_to(installed)


def test_help_does_not_wait_for_torch(installed, tmp_path):
    code = (
        "import sys\n"
        "from speechbrain_diffasr.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'speechbrain', 'transformers'} & set(sys.modules)))\n"
    )
    assert run(installed, tmp_path, "-c", code).stdout.splitlines()[-1] == "[]"


def test_an_installation_without_its_models_says_so(installed, tmp_path):
    shutil.copytree(installed / "speechbrain_diffasr", tmp_path / "speechbrain_diffasr")
    shutil.rmtree(tmp_path / "speechbrain_diffasr" / "pretrained")
    (tmp_path / "here").mkdir()
    shutil.copy(SAMPLES / "en_1.wav", tmp_path / "here" / "speech.wav")
    command = ("-m", "speechbrain_diffasr", "transcribe", "speech.wav")
    done = run(tmp_path, tmp_path / "here", *command)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "diffasr-base did not come with this installation" in line and "--model FOLDER" in line


@pytest.mark.slow
def test_types_reach_whoever_imports_it(installed, tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(
        "from speechbrain_diffasr import DiffusionASR, Segment, Transcript, Word, shipped_model\n"
        "asr = DiffusionASR.from_hparams(shipped_model('diffasr-tiny'))\n"
        "assert asr is not None\n"
        "transcript: Transcript = asr.transcribe_long('a.wav')\n"
        "segments: tuple[Segment, ...] = transcript.segments\n"
        "words: list[Word] = transcript.words\n"
        "wrong: int = transcript.text\n"
    )
    # torch and the like alone would be a minute to read.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nignore_missing_imports = True\nfollow_imports = silent\nincremental = False\n"
        "[mypy-torch.*,torchaudio.*,transformers.*,speechbrain.*,peft.*,numpy.*,safetensors.*]\n"
        "follow_imports = skip\n"
    )
    done = run(installed, tmp_path, "-m", "mypy", "user.py")
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1 and errors[0].startswith("user.py:7"), done.stdout


def pins(name):
    lines = (ROOT / "constraints" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(
        re.fullmatch(r"([\w.-]+)==(\S+)", line).groups() for line in lines if line[0] != "#"
    )


def test_the_ranges_admit_what_was_tested():
    def key(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    ranges = {
        key(one.name): one.specifier for one in map(Requirement, requires("speechbrain_diffasr"))
    }
    named = {"torch", "torchaudio", "speechbrain", "transformers", "peft", "huggingface-hub"}
    for name in ("lowest", "tested", "newest"):
        versions = {key(package): version for package, version in pins(name).items()}
        assert named <= versions.keys()
        for package in versions.keys() & ranges.keys():
            assert versions[package] in ranges[package], (name, package)
    # The lowest are where the ranges begin.
    lowest = {key(package): version for package, version in pins("lowest").items()}
    for package in named:
        bounds = [one.version for one in ranges[package] if one.operator == ">="]
        assert lowest[package].startswith(bounds[0])
