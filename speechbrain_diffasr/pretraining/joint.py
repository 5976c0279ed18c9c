"""Trains projector and LoRA on two frozen halves, with the three losses, as at full size."""

from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import LoopedLoader

from speechbrain_diffasr.dataio import csv_dataset
from speechbrain_diffasr.dataio.tables import read_texts
from speechbrain_diffasr.decoders.language_id import count_languages
from speechbrain_diffasr.inference import save_pretrained
from speechbrain_diffasr.pretraining.encoder import make_store
from speechbrain_diffasr.pretraining.ngrams import count_ngrams
from speechbrain_diffasr.training import DiffusionBrain


def train_jointly(arguments):
    """Runs the stage, and writes the folder that `from_hparams` loads.

    Arguments
    ---------
    arguments : list of str
        Of the command line: a YAML file and what it overrides.
    """
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(hparams["output_folder"], hparams_file, overrides)
    hparams["pretrainer"].collect_files(default_source=str(hparams["pretrain_folder"]))
    hparams["pretrainer"].load_collected()

    brain = DiffusionBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.checkpointer.add_recoverables(
        {
            "projector": hparams["model"]["projector"],
            "diffusion_gemma": hparams["model"]["diffusion_gemma"],
            "counter": hparams["epoch_counter"],
        }
    )
    store = make_store(hparams, brain.device, hparams)
    folder = Path(hparams["data_folder"])
    valid = torch.utils.data.ConcatDataset(
        [
            csv_dataset(folder / name / "valid.csv", folder / name, hparams["tokenizer"])
            for name in hparams["valid_corpora"]
        ]
    )
    pretrainer = hparams["model"]["pretrainer"]
    # Made-up lines and digits would say little of how a language is spelled.
    texts = read_texts([folder / name / "train.csv" for name in hparams["language_corpora"]])
    size = hparams["model"]["vocab_size"]
    pretrainer.language_table = count_languages(texts, hparams["tokenizer"], size)
    if "ngram" in hparams["model"]:
        count_ngrams(
            folder / "text.csv",
            hparams["tokenizer"],
            hparams["model"]["ngram"],
            hparams["ngram_least"],
        )
    brain.fit(
        hparams["epoch_counter"],
        LoopedLoader(store, hparams["epoch_length"]),
        torch.utils.data.DataLoader(
            valid, batch_size=hparams["valid_batch_size"], collate_fn=PaddedBatch, num_workers=4
        ),
    )
    brain.checkpointer.recover_if_possible(min_key="error_rate")
    definition = Path(hparams_file).parent / hparams["definition"]
    save_pretrained(
        pretrainer,
        definition.read_text(encoding="utf-8"),
        hparams["pretrained_folder"],
        dtype=getattr(torch, hparams["stored_as"]),
    )
