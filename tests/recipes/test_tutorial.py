"""The tutorial notebook, run from its first cell to its last."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from speechbrain_diffasr import cli, shipped_model
from speechbrain_diffasr.segmentation import read_rttm
from speechbrain_diffasr.transcripts import parse_json

NOTEBOOK = Path(__file__).parents[2] / "recipes" / "Tutorial" / "interview.ipynb"
CELL_SECONDS = 240
CAST = {"en_1": "anna", "digits_1": "ben", "en_2": "anna", "digits_2": "ben"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The notebook after it ran in an empty folder, and that folder."""
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} runs the notebook and is not installed")
    import nbclient
    import nbformat

    folder = tmp_path_factory.mktemp("tutorial")
    book = nbformat.read(NOTEBOOK, as_version=4)
    # A cell that fails raises CellExecutionError, which names it.
    nbclient.NotebookClient(
        book,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute(env={**os.environ, "IPYTHONDIR": str(folder / "ipython")})
    return book, folder


def _references():
    samples = Path(shipped_model("diffasr-tiny")) / "samples"
    return [(samples / f"{name}.txt").read_text(encoding="utf-8").strip() for name in CAST]


def _printed(book):
    """What each cell printed."""
    return [
        "".join("".join(out["text"]) for out in cell["outputs"] if out.get("name") == "stdout")
        for cell in book["cells"]
        if cell["cell_type"] == "code"
    ]


def _letters(text):
    return re.findall(r"[^\W\d_]+", text)


def test_it_writes_the_interview_with_the_words_of_both(ran):
    _, folder = ran
    text = (folder / "results" / "interview.json").read_text(encoding="utf-8")
    transcript = parse_json(text)
    assert [part.text for part in transcript.segments] == _references()
    assert [part.speaker for part in transcript.segments] == list(CAST.values())
    turns = read_rttm(folder / "results" / "interview.rttm")
    for part, turn in zip(transcript.segments, turns, strict=True):
        assert part.speaker == turn.speaker
        assert part.start < turn.end and turn.start < part.end


@pytest.mark.parametrize(
    ("name", "caption"), [("srt", "{speaker}: {text}"), ("vtt", "<v {speaker}>{text}</v>")]
)
def test_captions_name_speakers(ran, name, caption):
    _, folder = ran
    lines = (folder / "results" / f"interview.{name}").read_text(encoding="utf-8").splitlines()
    wanted = [
        caption.format(speaker=speaker, text=text)
        for speaker, text in zip(CAST.values(), _references(), strict=True)
    ]
    assert [line for line in lines if line in wanted] == wanted
    assert sum(" --> " in line for line in lines) == len(wanted)


def test_drafts_are_watched_and_end_in_the_transcript(ran):
    book, _ = ran
    (watched,) = [text for text in _printed(book) if text.startswith("step 1")]
    drafts = re.findall(r"^step (\d+),", watched, flags=re.MULTILINE)
    assert [int(step) for step in drafts] == list(range(1, len(drafts) + 1))
    assert watched.rstrip().endswith(_references()[0])


def test_the_outputs_in_the_file_are_those_of_a_run(ran):
    """Their words: times and confidence may round differently on another machine."""
    book, _ = ran
    stored = _printed(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    fresh = _printed(book)
    captions = [place for place, text in enumerate(fresh) if " --> " in text]
    assert captions
    for place in captions:
        assert _letters(stored[place]) == _letters(fresh[place])


def test_its_command_writes_the_same_captions(ran, monkeypatch, capsys):
    book, folder = ran
    (command,) = re.findall(r"^diffasr .*$", book["cells"][-1]["source"], flags=re.MULTILINE)
    monkeypatch.chdir(folder / "results")
    assert cli.main(shlex.split(command)[1:]) == 0
    written = (folder / "results" / "interview.srt").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == written.strip()


def test_the_file_is_small_and_names_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    book = json.loads(text)
    assert len(text) < 100_000
    outputs = [out for cell in book["cells"] for out in cell.get("outputs", [])]
    assert outputs and not [out for out in outputs if out.get("name") == "stderr"]
    shown = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"/(home|root|tmp|usr|work|opt|Users|site-packages)\b", shown)
