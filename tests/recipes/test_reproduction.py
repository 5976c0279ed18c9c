"""recipes/Reproduction at toy size: the runs, what they write, and going on after a stop."""

import json
import re
import subprocess
import sys

import matplotlib.image
import pytest
import soundfile
import speechbrain as sb
import torch
from miniature import REPOSITORY, load_recipe, times_of

from speechbrain_diffasr.recipe.options import read_hparams

RECIPE = REPOSITORY / "recipes" / "Reproduction"
sys.path.insert(0, str(RECIPE))
losses = load_recipe("Reproduction", "losses.py")
scoring = load_recipe("Reproduction", "steps.py")
one_run = losses.sys.modules["one_run"]
report = losses.sys.modules["report"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Three splits, each of three utterances in each of two languages."""
    folder = tmp_path_factory.mktemp("speech")
    time = torch.arange(8000) / 16000
    for split in ("train", "valid", "test"):
        lines = ["ID,duration,wav,lang,wrd"]
        for number in range(6):
            name, lang = f"{split}_{number}", ("en", "zh")[number % 2]
            wav = 0.3 * torch.sin(2 * torch.pi * (200 + 150 * number) * time)
            soundfile.write(folder / f"{name}.wav", wav.numpy(), 16000)
            lines.append(f"{name},0.5,$data_root/{name}.wav,{lang},w{number} w{number + 1}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def arguments(random_model, speech):
    """The command line, without the output folder."""
    options = {
        "data_folder": speech, "pretrained": random_model, "device": "cpu", "parallel": 2,
        "compare": "[all, no_ctc]", "seeds": "[1]", "steps": 2, "log_every": 1,
        "max_batch_utterances": 3, "num_workers": 0, "valid_batch_size": 4, "test_steps": 1,
        "denoising_steps": 1, "warmup_steps": 0, "train_utterances": 3, "test_utterances": 2,
    }  # fmt: skip
    return [str(RECIPE / "losses.yaml"), *(f"--{k}={v}" for k, v in options.items())]


@pytest.fixture(scope="module")
def results(arguments, tmp_path_factory):
    """The folder that losses.py has filled."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(RECIPE / "losses.py"), *arguments, f"--output_folder={folder}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def read(arguments, folder, *changes):
    """The values of the YAML file and the run options of a command line."""
    changed = {change.partition("=")[0] for change in changes}
    argv = [option for option in arguments if option.partition("=")[0] not in changed]
    argv += [f"--output_folder={folder}", *changes]
    path, run_opts, overrides = sb.parse_arguments(argv)
    return read_hparams(path, overrides), run_opts, argv


def curves(points):
    """What of a curve does not depend on the clock."""
    return [{name: p[name] for name in ("step", "lr", "train", "valid")} for p in points]


def test_each_condition_gives_curves_losses_and_error_rates(results):
    runs = json.loads((results / "losses.json").read_text())["runs"]
    assert [(run["condition"], run["seed"]) for run in runs] == [("all", 1), ("no_ctc", 1)]
    for run in runs:
        assert (run["loss_weights"]["ctc"] == 0) == (run["condition"] == "no_ctc")
        assert [point["step"] for point in run["points"]] == [1, 2]
        for kind in ("own_audio", "other_audio"):
            assert set(run["result"]["losses"][kind]) == {"diffusion", "autoregressive", "ctc"}
            assert set(run["result"]["error_rates"][kind]) == {"en", "zh"}
        own, other = (run["result"]["losses"][kind] for kind in ("own_audio", "other_audio"))
        assert own == {name: run["points"][-1]["valid"][name] for name in own}
        assert own["ctc"] != other["ctc"]
        # Stands beside the curve before the test set is decoded.
        assert other == {name: run["points"][-1]["other_audio"][name] for name in other}
    transcripts = json.loads((results / "losses/all/1/transcripts.json").read_text())
    own, other = transcripts["own_audio"], transcripts["other_audio"]
    assert [u["reference"] for u in own] == [u["reference"] for u in other]
    assert len(own) == 4 and all(u["audio_of"] != u["ID"] for u in other)


def test_conditions_differ_in_their_losses_alone(results):
    """Before the first update, weights, utterances, their order and all noise are the same."""
    every, without = json.loads((results / "losses.json").read_text())["runs"]
    assert every["points"][0]["train"] == without["points"][0]["train"]
    assert every["points"][1]["train"] != without["points"][1]["train"]


def test_tables_and_pictures(results):
    text = (results / "losses.md").read_text()
    without = [line for line in text.splitlines() if line.startswith("| without CTC")]
    assert len(without) == 3
    # A loss that was not trained stands in brackets.
    assert "(" in without[0] and "(" not in without[1]
    for name in ("losses_unlock", "losses_leave_one_out", "losses_audio"):
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_losses_that_were_not_measured_are_called_so(results, tmp_path):
    runs = json.loads((results / "losses.json").read_text())
    for run in runs["runs"]:
        del run["result"]["losses"]["other_audio"]
    (tmp_path / "losses.json").write_text(json.dumps(runs))
    report.write_losses(tmp_path)
    full, text = ((folder / "losses.md").read_text() for folder in (results, tmp_path))
    assert "not measured" not in full
    assert text.count("| not measured | not measured |") == 2
    # The picture has the error rates alone.
    heights, widths = zip(
        *(matplotlib.image.imread(f / "losses_audio.png").shape[:2] for f in (results, tmp_path)),
        strict=True,
    )
    assert heights[0] == heights[1] and widths[0] > widths[1]


def test_what_is_finished_is_not_done_again(results, arguments, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a run was started")

    monkeypatch.setattr(losses.subprocess, "Popen", refuse)
    monkeypatch.setattr(losses.sb, "create_experiment_directory", lambda *args: None)
    before = times_of(results / "losses" / "all"), (results / "losses.json").read_text()
    losses.run_losses(*read(arguments, results))
    assert (times_of(results / "losses" / "all"), (results / "losses.json").read_text()) == before
    with pytest.raises(ValueError, match=r"other settings \(steps: 2 → 4"):
        losses.run_losses(*read(arguments, results, "--steps=4"))


def test_a_run_that_was_stopped_ends_as_if_it_had_not(
    results, arguments, tmp_path, monkeypatch, request
):
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(1)  # as losses.py does: sums of more threads are rounded otherwise
    hparams, run_opts, _ = read(arguments, tmp_path, "--seconds=0", "--noprogressbar")
    weights, seed = losses.plan_runs(hparams)["all/1"]
    data = {
        name: results / "losses" / f"{name}.csv" for name in ("train", "valid", "other", "test")
    }

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one_run, "evaluate_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            one_run.train_one(hparams, run_opts, tmp_path, data, weights, seed)
    assert len(json.loads((tmp_path / "curve.json").read_text())) == 1
    hparams, run_opts, _ = read(arguments, tmp_path, "--noprogressbar")
    result = one_run.train_one(hparams, run_opts, tmp_path, data, weights, seed)
    expected = json.loads((results / "losses.json").read_text())["runs"][0]
    points = json.loads((tmp_path / "curve.json").read_text())
    assert curves(points) == curves(expected["points"])
    assert result["losses"] == expected["result"]["losses"]
    assert result["error_rates"] == expected["result"]["error_rates"]


def test_a_run_that_fails_is_named_and_the_others_go_on(results, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(losses.sb, "create_experiment_directory", lambda *args: None)
    started = []

    def fake(command, env, stdout, stderr):
        name = command[command.index("--run") + 1]
        started.append(name)
        code = f"print('why'); raise SystemExit({int(name == 'all/1')})"
        return real([sys.executable, "-c", code], stdout=stdout, stderr=stderr)

    real = subprocess.Popen
    monkeypatch.setattr(losses.subprocess, "Popen", fake)
    cache = f"--feature_cache={results / 'losses' / 'features'}"
    with pytest.raises(ValueError, match=r"1 of 2 runs failed[^\n]*\n  all/1: why"):
        losses.run_losses(*read(arguments, tmp_path, cache))
    assert started == ["all/1", "no_ctc/1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--steps=3 --log_every=2", "steps: 3 is no multiple of log_every, 2"),
        ("--compare=[nothing]", "compare: 'nothing' is none of the conditions all, no_ctc"),
        ("--valid_utterances=1", "valid_utterances: most of 2 utterances have no other"),
        ("--run=all/7", "--run: 'all/7' is none of all/1, no_ctc/1"),
        ("--data_folder=nowhere", r"nowhere/train\.csv: cannot be read"),
    ],
)
def test_bad_input_is_one_line(arguments, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        losses.run_losses(*read(arguments, tmp_path, *change.split()))


def test_steps_against_accuracy_and_speed(random_model, speech, tmp_path):
    argv = [str(RECIPE / "steps.yaml"), f"--data_folder={speech}", f"--pretrained={random_model}"]
    argv += ["--device=cpu", "--steps=[1, 2]", "--limit=1", f"--output_folder={tmp_path}"]
    path, run_opts, overrides = sb.parse_arguments(argv)
    scored = scoring.score_steps(read_hparams(path, overrides), run_opts)
    assert [result["steps"] for result in scored["results"]] == [1, 2]
    rows = [line for line in (tmp_path / "steps.md").read_text().splitlines() if line[0:1] == "|"]
    assert rows[0].split("|")[1:4] == [" steps ", " taken ", " RTFx "]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["1", "2"]
    assert (tmp_path / "steps.png").exists()


def test_the_readme_gets_tables_and_pictures(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- losses -->\nold\n<!-- /losses -->\nb\n")
    arguments = ["--output_folder", str(results), "--readme", str(readme)]
    for _ in range(2):
        report.main(arguments)
        block = (results / "losses.md").read_text()
        text = readme.read_text()
        assert text.startswith(f"a\n<!-- losses -->\n{block}\n![")
        assert text.endswith(".png)\n<!-- /losses -->\nb\n") and "old" not in text
        for picture in re.findall(r"\]\((.*?)\)", text):
            assert (tmp_path / picture).read_bytes() == (results / picture).read_bytes()
    assert text.count("![") == 3
    readme.write_text("nothing\n")
    with pytest.raises(SystemExit, match=r"no lines <!-- losses -->"):
        report.main(arguments)
