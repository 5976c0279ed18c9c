"""Trains the small recognizer's projector and LoRA, and writes its pretrained folder.

python train.py train.yaml --data_folder data
"""

import sys
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from pretrain_encoder import make_store
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import LoopedLoader

from speechbrain_diffasr.dataio import csv_dataset
from speechbrain_diffasr.dataio.tables import read_texts
from speechbrain_diffasr.decoders.language_id import count_languages
from speechbrain_diffasr.inference import save_pretrained
from speechbrain_diffasr.training import DiffusionBrain

# The definition of the model that is trained, and of the folder that is written.
MODEL = Path(__file__).parents[2] / "pretrained" / "diffasr-tiny" / "hyperparams.yaml"


def main():
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
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
    store = make_store(hparams, brain.device, hparams["batch_size"], hparams["join"])
    folder = Path(hparams["data_folder"])
    valid = torch.utils.data.ConcatDataset(
        [
            csv_dataset(folder / name / "valid.csv", folder / name, hparams["tokenizer"])
            for name in hparams["corpora"]
        ]
    )
    pretrainer = hparams["model"]["pretrainer"]
    # The made-up lines and the digits would say little of how a language is spelled.
    texts = read_texts([folder / hparams["corpora"][0] / "train.csv"])
    size = hparams["model"]["vocab_size"]
    pretrainer.language_table = count_languages(texts, hparams["tokenizer"], size)
    brain.fit(
        hparams["epoch_counter"],
        LoopedLoader(store, hparams["epoch_length"]),
        torch.utils.data.DataLoader(
            valid, batch_size=hparams["valid_batch_size"], collate_fn=PaddedBatch, num_workers=4
        ),
    )
    brain.checkpointer.recover_if_possible(min_key="error_rate")
    save_pretrained(
        pretrainer,
        MODEL.read_text(encoding="utf-8"),
        hparams["pretrained_folder"],
        dtype=torch.float16,
    )


if __name__ == "__main__":
    main()
