"""What every recipe runs: `python train.py train.yaml` and `python train.py evaluate.yaml`."""

import functools
import inspect
import logging
import shutil
import sys
from pathlib import Path

import speechbrain as sb
import torch
from ruamel.yaml.error import YAMLError
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_init_group,
    if_main_process,
    run_on_main,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from speechbrain_diffasr.brain import DiffusionBrain
from speechbrain_diffasr.dataio import make_datasets, make_train_loader
from speechbrain_diffasr.evaluate import evaluate_csvs
from speechbrain_diffasr.hub import TRAINED, check_source, save_finetuned
from speechbrain_diffasr.inference import DiffusionASR, check_device
from speechbrain_diffasr.language_table import count_languages, read_texts
from speechbrain_diffasr.recipe_yaml import read_hparams, save_hparams, show_help
from speechbrain_diffasr.report import skipped_lines
from speechbrain_diffasr.utterances import find_root

logger = logging.getLogger(__name__)


def run(argv, prepare=None):
    """Trains, saves and scores, or only scores, as a YAML file says.

    Arguments
    ---------
    argv : list of str
        The YAML file and what it is to be changed by, as in every SpeechBrain recipe. A file
        without the key `training` only scores.
    prepare : callable, optional
        Makes the CSV files; is given the mapping `prepare` of the YAML file.
    """
    script = Path(sys.argv[0]).name
    if {"-h", "--help"} & set(argv):
        show_help(script, argv)
        return
    if not argv or argv[0].startswith("-"):
        sys.exit(f"{script}: name a YAML file, such as train.yaml, before any option; see --help")
    try:
        path, run_opts, overrides = sb.parse_arguments(argv)
        hparams = read_hparams(path, overrides)
        _run(path, hparams, run_opts, overrides, prepare)
    except KeyboardInterrupt:
        sys.exit(f"{script}: stopped; the same command goes on from the last checkpoint")
    except (OSError, ValueError, YAMLError, torch.OutOfMemoryError) as error:
        logger.debug("what led to it:", exc_info=True)
        sys.exit(f"{script}: {_reason(error)}")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _run(path, hparams, run_opts, overrides, prepare):
    # It says at every epoch that it makes batches.
    logging.getLogger("speechbrain.dataio.sampler").setLevel(logging.WARNING)
    # Before the corpus is prepared, which can take an hour.
    try:
        check_source(hparams["pretrained"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--pretrained: {error}") from None
    try:
        check_device(run_opts.device or sb.utils.distributed.infer_device())
    except ValueError as error:
        raise ValueError(f"--device: {error}") from None
    ddp_init_group(run_opts)
    sb.create_experiment_directory(hparams["output_folder"])
    if if_main_process():
        save_hparams(path, overrides, Path(hparams["output_folder"], "hyperparams.yaml"))
        for script in (sys.argv[0], prepare and inspect.getsourcefile(prepare)):
            if script and Path(script).suffix == ".py":
                shutil.copy(script, hparams["output_folder"])
    if prepare is not None and hparams.get("prepare") is not None:
        shown = {"progress": not run_opts.noprogressbar}
        run_on_main(prepare, kwargs={**hparams["prepare"], **shown})
    data = hparams["data"]
    tests = []
    for name in filter(None, data.get("test") or []):
        found = _matches(name)
        tests += found
        if not found:
            logger.warning("data: test: there is no %s, so it is not scored", name)
    data["root"] = find_root(data.get("train") or next(iter(tests), None), data.get("root"))
    if "training" in hparams:
        asr = train(hparams, run_opts)
        source = Path(hparams["output_folder"], "pretrained")
    elif tests:
        asr = load_recognizer(hparams["pretrained"], hparams["model"], run_opts)
        source = hparams["pretrained"]
    else:
        raise FileNotFoundError(f"data: test: there is no {', '.join(data.get('test') or [])}")
    main = if_main_process()
    if torch.distributed.is_initialized():
        # Or the others would wait while the first scores, which fails after two hours.
        ddp_barrier()
        torch.distributed.destroy_process_group()
    if tests and main:
        report = evaluate_csvs(
            asr,
            tests,
            data["root"],
            **hparams["evaluation"],
            model_name=str(source),
            output_folder=Path(hparams["output_folder"], "evaluation"),
        )
        for line in skipped_lines(report):
            logger.warning(line)


def _matches(pattern):
    """The files that a path with wildcards in its last part names."""
    return sorted(map(str, Path(pattern).parent.glob(Path(pattern).name)))


def load_recognizer(source, overrides, run_opts, trained=False):
    """Loads the model that is to be trained or scored.

    Arguments
    ---------
    source : str or Path
        A folder or Hub repository for `from_hparams`.
    overrides : dict
        What to change in its hyperparams.yaml.
    run_opts : RunOptions
        Of SpeechBrain's command line.
    trained : bool
        Whether what is not frozen will be trained. Default: False.

    Returns
    -------
    asr : DiffusionASR
    """
    device = run_opts.device or sb.utils.distributed.infer_device()
    try:
        return DiffusionASR.from_hparams(
            source,
            overrides=overrides or {},
            freeze_params=not trained,
            run_opts={"device": device},
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"--pretrained {source}: {str(error).strip()}") from error
    except KeyError as error:
        # Of hyperpyyaml: an override that the file has not.
        raise ValueError(f"--model: {error.args[0]}") from error


def train(hparams, run_opts):
    """Trains projector and LoRA of a pretrained model, and writes a pretrained folder.

    Languages that its table lacks are counted in the texts of training and put into the table.

    Arguments
    ---------
    hparams : dict
        With output_folder, pretrained, model, start, data (train, valid, root) and training.
    run_opts : RunOptions
        Of SpeechBrain's command line.

    Returns
    -------
    asr : DiffusionASR
        With the weights of the best epoch.
    """
    settings = hparams["training"]
    texts = {name: read_texts([hparams["data"][name]]) for name in ("train", "valid")}
    changes = dict(hparams["model"] or {})
    if hparams["start"] == "fresh":
        changes["fresh"] = list(TRAINED)
    elif hparams["start"] != "pretrained":
        raise ValueError(f"start: {hparams['start']!r} is neither pretrained nor fresh")
    # The same start in every process and every run.
    torch.manual_seed(settings["seed"])
    asr = load_recognizer(hparams["pretrained"], changes, run_opts, trained=True)
    added = _add_languages(asr, {*texts["train"], *texts["valid"]})
    asr.language_table = count_languages(
        texts.pop("train"),
        asr.tokenizer,
        asr.mods.decoder.model.vocab_size,
        asr.language_table,
        progress=if_main_process() and not run_opts.noprogressbar,
    )

    checkpointer = settings["checkpointer"]
    brain = DiffusionBrain(
        modules=asr.mods,
        opt_class=settings["opt_class"],
        hparams={
            **settings,
            "tokenizer": asr.tokenizer,
            "tensorboard_logger": _tensorboard(settings),
        },
        run_opts=run_opts,
        checkpointer=checkpointer,
    )
    checkpointer.add_recoverables(
        {
            "projector": asr.mods.encoder.projector,
            "diffusion_gemma": asr.mods.decoder.model,
            "counter": settings["epoch_counter"],
        }
    )
    datasets = make_datasets(asr, hparams["data"], settings, brain)
    loader = make_train_loader(brain, datasets["train"], settings)
    valid = brain.make_dataloader(
        datasets["valid"],
        sb.Stage.VALID,
        ckpt_prefix=None,
        batch_size=settings["valid_batch_size"],
        num_workers=settings["num_workers"],
        collate_fn=PaddedBatch,
    )
    if len(loader) < brain.grad_accumulation_factor:
        raise ValueError(
            f"--grad_accumulation_factor {brain.grad_accumulation_factor}: an epoch has only "
            f"{len(loader)} batches, so nothing would be learned; turn it down, or batch_seconds"
        )
    if settings["number_of_steps"] is None:
        # Batches that are left over at the end of an epoch make no step.
        steps = len(loader) // brain.grad_accumulation_factor * settings["number_of_epochs"]
        brain.hparams.make_scheduler = functools.partial(
            settings["make_scheduler"], num_training_steps=max(1, steps)
        )
    _log_start(brain, datasets["train"], loader)
    try:
        brain.fit(settings["epoch_counter"], loader, valid)
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"{str(error).splitlines()[0]}\nTurn down max_batch_utterances "
            f"({settings['max_batch_utterances']}) or batch_seconds "
            f"({settings['batch_seconds']:g} s) and turn up --grad_accumulation_factor "
            f"({brain.grad_accumulation_factor}) by as much, for the same training in less "
            f"memory; then chunk_size ({settings['chunk_size']}), and valid_batch_size "
            f"({settings['valid_batch_size']}) if it happened while validating"
        ) from None
    checkpointer.recover_if_possible(min_key="error_rate")
    asr.mods.eval()
    if if_main_process():
        folder = Path(hparams["output_folder"], "pretrained")
        save_finetuned(asr, hparams["pretrained"], folder, added)
    return asr


def _reason(error):
    """What an error says, without the traceback that comes with one of a data loader's process."""
    text = str(error).strip()
    if text.startswith("Caught ") and "Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return text or type(error).__name__


def _add_languages(asr, codes):
    """Teaches the prompt the names of languages it has not; returns those."""
    known = asr.mods.decoder.prompt.languages
    added = {}
    for code in sorted(codes - set(known)):
        if code not in LANGUAGES:
            raise ValueError(
                f"lang: {code!r} is neither a language of the model ({', '.join(known)}) nor one "
                f"of Whisper's codes; name it with --model '{{languages: {{{code}: NAME}}}}'"
            )
        added[code] = LANGUAGES[code].title()
    known.update(added)
    return added


def _tensorboard(settings):
    if not settings["tensorboard"]:
        return None
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise ValueError("tensorboard: not installed; pip install tensorboard") from None
    from speechbrain.utils.train_logger import TensorboardLogger

    return TensorboardLogger(str(Path(settings["output_folder"], "tensorboard")))


def _log_start(brain, dataset, loader):
    hours = sum(dataset.data[name]["duration"] for name in dataset.data_ids) / 3600
    number = sum(p.numel() for p in brain.modules.parameters() if p.requires_grad)
    logger.info(
        "%d utterances, %.2f h; %d batches an epoch; %.2f M parameters are trained",
        len(dataset), hours, len(loader), number / 1e6,
    )  # fmt: skip
