"""Fine-tunes a recognizer."""

import logging
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.run_opts import RunOptions
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from speechbrain_diffasr.dataio.tables import read_texts
from speechbrain_diffasr.decoders.language_id import count_languages
from speechbrain_diffasr.inference.asr import DiffusionASR
from speechbrain_diffasr.inference.pretrained import TRAINED, save_finetuned
from speechbrain_diffasr.training.brain import DiffusionBrain
from speechbrain_diffasr.training.data import make_datasets, make_train_loader
from speechbrain_diffasr.utils.errors import MissingPackageError

logger = logging.getLogger(__name__)


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


def load_trainable(hparams, run_opts):
    """Loads the model that a recipe trains, and teaches it the languages of the training data.

    Languages that its table lacks are counted in the texts of training and put into the table.

    Arguments
    ---------
    hparams : dict
        With pretrained, model, start, data (train, valid) and training.
    run_opts : RunOptions
        Of SpeechBrain's command line.

    Returns
    -------
    asr : DiffusionASR
    """
    texts = {name: read_texts([hparams["data"][name]]) for name in ("train", "valid")}
    changes = dict(hparams["model"] or {})
    if hparams["start"] == "fresh":
        changes["fresh"] = list(TRAINED)
    elif hparams["start"] != "pretrained":
        raise ValueError(f"start: {hparams['start']!r} is neither pretrained nor fresh")
    # The same start in every process and every run.
    torch.manual_seed(hparams["training"]["seed"])
    asr = load_recognizer(hparams["pretrained"], changes, run_opts, trained=True)
    _add_languages(asr, {*texts["train"], *texts["valid"]})
    asr.language_table = count_languages(
        texts["train"],
        asr.tokenizer,
        asr.mods.decoder.model.vocab_size,
        asr.language_table,
        progress=if_main_process() and not run_opts.noprogressbar,
    )
    return asr


def fit(asr, hparams, run_opts=None):
    """Trains projector and LoRA of a recognizer, and writes a pretrained folder.

    Arguments
    ---------
    asr : DiffusionASR
        As `load_trainable` gives it, changed as you like. Has the weights of the best epoch
        afterwards.
    hparams : dict
        With output_folder, pretrained, data (train, valid, root) and training.
    run_opts : RunOptions, optional
        Of SpeechBrain's command line. Default: none were given.
    """
    settings = hparams["training"]
    brain = _make_brain(asr, settings, run_opts or RunOptions())
    loader, valid = _make_loaders(asr, hparams["data"], settings, brain)
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
    settings["checkpointer"].recover_if_possible(min_key="error_rate")
    asr.mods.eval()
    if if_main_process():
        save_finetuned(asr, hparams["pretrained"], Path(hparams["output_folder"], "pretrained"))


def _make_brain(asr, settings, run_opts):
    """The Brain that trains a recognizer, and what its checkpoints hold."""
    brain = DiffusionBrain(
        modules=asr.mods,
        opt_class=settings["opt_class"],
        hparams={
            **settings,
            "tokenizer": asr.tokenizer,
            "tensorboard_logger": _tensorboard(settings),
            # Read by SpeechBrain where training is distributed.
            "sorting": "random" if settings["shuffle"] else "ascending",
        },
        run_opts=run_opts,
        checkpointer=settings["checkpointer"],
    )
    settings["checkpointer"].add_recoverables(
        {
            "projector": asr.mods.encoder.projector,
            "diffusion_gemma": asr.mods.decoder.model,
            "counter": settings["epoch_counter"],
        }
    )
    return brain


def _make_loaders(asr, data, settings, brain):
    """Batches to train on and to validate on."""
    datasets = make_datasets(asr, data, settings, progress=not brain.noprogressbar)
    loader, brain.train_sampler = make_train_loader(brain, datasets["train"], settings)
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
    _log_start(brain, datasets["train"], loader)
    return loader, valid


def _add_languages(asr, codes):
    """Teaches the prompt the names of languages it has not."""
    known = asr.mods.decoder.prompt.languages
    for code in sorted(codes - set(known)):
        if code not in LANGUAGES:
            raise ValueError(
                f"lang: {code!r} is neither a language of the model ({', '.join(known)}) nor one "
                f"of Whisper's codes; name it with --model '{{languages: {{{code}: NAME}}}}'"
            )
        known[code] = LANGUAGES[code].title()


def _tensorboard(settings):
    if not settings["tensorboard"]:
        return None
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise MissingPackageError("tensorboard: not installed; pip install tensorboard") from None
    from speechbrain.utils.train_logger import TensorboardLogger

    return TensorboardLogger(str(Path(settings["output_folder"], "tensorboard")))


def _log_start(brain, dataset, loader):
    hours = sum(dataset.data[name]["duration"] for name in dataset.data_ids) / 3600
    number = sum(p.numel() for p in brain.modules.parameters() if p.requires_grad)
    logger.info(
        "%d utterances, %.2f h; %d batches an epoch; %.2f M parameters are trained",
        len(dataset), hours, len(loader), number / 1e6,
    )  # fmt: skip
