"""The four steps of a recipe: prepare, load, fit, score.

`run` takes them one after the other. A train.py that changes something in between, such as the
projector, calls them itself:

```python
hparams = read_hparams("train.yaml", {"lr": 1e-3})
prepare(hparams, prepare_librispeech)
asr = load(hparams)
asr.mods.encoder.projector = MyProjector()
fit(asr, hparams)
score(asr, hparams)
```
"""

import logging
from collections.abc import Callable
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process, run_on_main
from speechbrain.utils.run_opts import RunOptions

from speechbrain_diffasr.dataio.tables import find_root
from speechbrain_diffasr.evaluation.evaluate import evaluate_csvs
from speechbrain_diffasr.evaluation.report import skipped_lines
from speechbrain_diffasr.inference.asr import DiffusionASR
from speechbrain_diffasr.inference.pretrained import check_source
from speechbrain_diffasr.training import fit as training
from speechbrain_diffasr.utils.environment import check_device

logger = logging.getLogger(__name__)


def check(hparams: dict, run_opts: RunOptions | None = None) -> None:
    """Sees whether there are model and device, before a corpus is prepared for an hour.

    Arguments
    ---------
    hparams : dict
        With pretrained.
    run_opts : RunOptions, optional
        Of SpeechBrain's command line. Default: none were given.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are not.
    """
    device = run_opts.device if run_opts is not None else None
    try:
        check_source(hparams["pretrained"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--pretrained: {error}") from None
    try:
        check_device(device or sb.utils.distributed.infer_device())
    except ValueError as error:
        raise ValueError(f"--device: {error}") from None


def prepare(
    hparams: dict, make_csvs: Callable | None = None, run_opts: RunOptions | None = None
) -> None:
    """Makes the CSV files of a corpus, in one process, unless they are there.

    Arguments
    ---------
    hparams : dict
        Its mapping `prepare` goes to the function. Nothing is made without it.
    make_csvs : callable, optional
        The recipe's own function, which reads the corpus. Default: the files are there.
    run_opts : RunOptions, optional
        Of SpeechBrain's command line. Default: none were given.
    """
    check(hparams, run_opts)
    if make_csvs is not None and hparams.get("prepare") is not None:
        progress = run_opts is None or not run_opts.noprogressbar
        run_on_main(make_csvs, kwargs={**hparams["prepare"], "progress": progress})


def load(hparams: dict, run_opts: RunOptions | None = None) -> DiffusionASR:
    """Loads the recognizer that is to be trained, or only scored.

    Arguments
    ---------
    hparams : dict
        Of a recipe's YAML file; without the key `training` nothing is to be trained.
    run_opts : RunOptions, optional
        Of SpeechBrain's command line. Default: none were given.

    Returns
    -------
    asr : DiffusionASR

    Raises
    ------
    FileNotFoundError
        If there is nothing to be trained or scored.
    """
    run_opts = run_opts or RunOptions()
    if "training" in hparams:
        return training.load_trainable(hparams, run_opts)
    names = hparams["data"].get("test") or []
    if not any(map(_matches, filter(None, names))):
        raise FileNotFoundError(f"data: test: there is no {', '.join(names)}")
    return training.load_recognizer(hparams["pretrained"], hparams["model"], run_opts)


def fit(asr: DiffusionASR, hparams: dict, run_opts: RunOptions | None = None) -> None:
    """Trains projector and LoRA, and writes a pretrained folder into the output folder.

    Arguments
    ---------
    asr : DiffusionASR
        As `load` gives it, changed as you like. Has the weights of the best epoch afterwards.
    hparams : dict
        With output_folder, pretrained, data (train, valid, root) and training.
    run_opts : RunOptions, optional
        Of SpeechBrain's command line. Default: none were given.
    """
    data = {**hparams["data"], "root": _root(hparams["data"])}
    training.fit(asr, {**hparams, "data": data}, run_opts)


def score(asr: DiffusionASR, hparams: dict, run_opts: RunOptions | None = None) -> dict | None:
    """Scores a recognizer on the test files of a recipe, in one process.

    Arguments
    ---------
    asr : DiffusionASR
    hparams : dict
        With output_folder, pretrained, data (test, root) and evaluation.
    run_opts : RunOptions, optional
        Of SpeechBrain's command line. Default: none were given.

    Returns
    -------
    report : dict or None
        As of `evaluate_csvs`; None if nothing is scored, or another process scores.
    """
    tests = _test_files(hparams["data"])
    main = if_main_process()
    if torch.distributed.is_initialized():
        # Or the others would wait while the first scores, which fails after two hours.
        ddp_barrier()
        torch.distributed.destroy_process_group()
    if not tests or not main:
        return None
    folder = Path(hparams["output_folder"])
    report = evaluate_csvs(
        asr,
        tests,
        _root(hparams["data"]),
        **hparams["evaluation"],
        model_name=str(folder / "pretrained" if "training" in hparams else hparams["pretrained"]),
        output_folder=folder / "evaluation",
    )
    for line in skipped_lines(report):
        logger.warning(line)
    return report


def _root(data):
    """What `$data_root` stands for in the CSV files, of several folders that it can be."""
    first = data.get("train") or next(iter(_test_files(data, quiet=True)), None)
    return find_root(first, data.get("root"))


def _test_files(data, quiet=False):
    """The files that are to be scored; those that are not there are named."""
    tests = []
    for name in filter(None, data.get("test") or []):
        found = _matches(name)
        tests += found
        if not found and not quiet:
            logger.warning("data: test: there is no %s, so it is not scored", name)
    return tests


def _matches(pattern):
    """The files that a path with wildcards in its last part names."""
    return sorted(map(str, Path(pattern).parent.glob(Path(pattern).name)))
