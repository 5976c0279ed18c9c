"""Trains the small DiffusionGemma on text alone: to write out a line from a torn draft of it.

A released language model can copy from its prompt and spell; one with random weights has to
learn it. The slots of the prompt hold what a projector under CTC will put there one day: pieces
spread over the frames, repeated, wrong or missing, and blanks between them. The token embeddings
are those that `pretrain_encoder.py` writes after `head_steps`; they stay as they are.

With --heard the slots hold what the encoder, its training finished, makes of speech.

    python pretrain_denoiser.py pretrain.yaml --data_folder data
    python pretrain_denoiser.py pretrain.yaml --data_folder data --heard True
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from optimization import load_hparams, load_parts, optimize
from pretrain_encoder import make_store
from safetensors.torch import load_file
from waveforms import spec_augment

from speechbrain_diffasr.dataio.tables import open_table
from speechbrain_diffasr.inference.pretrained import save_part
from speechbrain_diffasr.training.objective import LanguageModelLosses


class DraftStore:
    """Batches of lines and of torn drafts of them, drawn without end.

    Arguments
    ---------
    path : str
        CSV file with the columns lang and wrd, as collect_text.py writes it.
    tokenizer : Tokenizer
    num_slots : int
        Frames of a draft.
    blank : int
        Token of a frame in which nothing is said.
    canvas_length : int
    batch_size : int
    join : float
        Share of examples made of several lines.
    max_wrong : float
        Largest share of wrong or missing pieces.
    seed : int
    """

    def __init__(
        self,
        path,
        tokenizer,
        num_slots,
        blank,
        canvas_length,
        batch_size,
        join,
        max_wrong,
        seed=0,
    ):
        groups = {}
        with open_table(path) as rows:
            for row in rows:
                groups.setdefault(row["lang"], []).append(row["wrd"])
        # Digits are read in English.
        self.languages = ["en" if name == "digits" else name for name in groups]
        self.lines = [
            tokenizer.backend(lines, add_special_tokens=False)["input_ids"]
            for lines in groups.values()
        ]
        self.vocab_size = len(tokenizer)
        self.eos = tokenizer.eos_id
        self.num_slots, self.blank, self.canvas_length = num_slots, blank, canvas_length
        self.batch_size, self.join, self.max_wrong = batch_size, join, max_wrong
        self.rng, self.dice = np.random.default_rng(seed), random.Random(seed)

    def _line(self):
        """Language and tokens of one example."""
        group = self.dice.randrange(len(self.lines))
        lines = self.lines[group]
        tokens = list(self.dice.choice(lines))
        if self.dice.random() < self.join:
            wanted = self.dice.randrange(4, self.canvas_length)
            while True:
                more = self.dice.choice(lines)
                if len(tokens) + len(more) > wanted:
                    break
                tokens += more
        return self.languages[group], tokens[: self.canvas_length]

    def batch(self):
        """Draws a batch.

        Returns
        -------
        languages : list of str
        tokens : list of list of int
        draft : numpy.ndarray
            Token of each frame, [B, num_slots].
        """
        examples = [self._line() for _ in range(self.batch_size)]
        size = self.batch_size, self.canvas_length
        tokens = np.full(size, self.blank)
        lens = np.array([len(tokens) for _, tokens in examples])
        for row, (_, values) in zip(tokens, examples, strict=True):
            row[: len(values)] = values
        inside = np.arange(self.canvas_length) < lens[:, None]
        wrong = self.rng.uniform(0, self.max_wrong, (self.batch_size, 1))
        dice = self.rng.random(size)
        tokens = np.where(dice < wrong / 2, self.blank, tokens)
        tokens = np.where(
            (dice > 1 - wrong / 2), self.rng.integers(0, self.vocab_size, size), tokens
        )
        # Pieces follow each other every `pace` frames on average, as far as there is room.
        pace = self.rng.uniform(1.0, 4.0, (self.batch_size, 1))
        pace = np.minimum(pace, self.num_slots / np.maximum(lens, 1)[:, None])
        place = (np.arange(self.canvas_length) + self.rng.uniform(0, 1, size)) * pace
        place = np.minimum(place + self.rng.uniform(0, 4, (self.batch_size, 1)), self.num_slots - 1)
        place = np.where(inside, place, self.num_slots).astype(int)
        draft = np.full((self.batch_size, self.num_slots + 2), self.blank)
        rows = np.arange(self.batch_size)[:, None]
        twice = inside & (self.rng.random(size) < 0.2)
        draft[rows, np.where(twice, place + 1, self.num_slots)] = tokens
        draft[rows, place] = tokens
        return [e[0] for e in examples], [e[1] for e in examples], draft[:, : self.num_slots]

    def __iter__(self):
        while True:
            yield self.batch()


def audio_like(draft, model):
    """Embeddings of a draft, blurred with other tokens, as a projector's would be.

    Arguments
    ---------
    draft : torch.Tensor
        Token of each frame, [B, num_slots].
    model : DiffusionGemma

    Returns
    -------
    audio : torch.Tensor
        [B, num_slots, D].
    """
    other = torch.randint(model.vocab_size, draft.shape, device=draft.device)
    share = 0.5 * torch.rand((*draft.shape, 1), device=draft.device) ** 2
    mixed = (1 - share) * model.embed(draft) + share * model.embed(other)
    mixed = torch.nn.functional.rms_norm(mixed.float(), mixed.shape[-1:])
    blur = 0.5 * torch.rand(len(draft), 1, 1, device=draft.device)
    mixed = mixed + blur * torch.randn_like(mixed)
    return torch.nn.functional.rms_norm(mixed, mixed.shape[-1:])


def make_speech_or_text(hparams, settings, device):
    """The store that training reads: of speech with --heard, else of text."""
    if hparams["heard"]:
        return make_store(hparams, device, settings["heard_batch_size"], settings["join"])
    model = hparams["model"]
    return DraftStore(
        path=Path(hparams["data_folder"]) / "text.csv",
        tokenizer=model["tokenizer"],
        num_slots=model["num_slots"],
        blank=model["tokenizer"].token_id(hparams["blank_token"]),
        canvas_length=model["canvas_length"],
        batch_size=settings["batch_size"],
        join=settings["join"],
        max_wrong=settings["max_wrong"],
        seed=hparams["seed"],
    )


def read_texts(store, gemma, device):
    """Batches of text: (audio embeddings of torn drafts, languages, tokens), without end."""
    for languages, tokens, draft in store:
        draft = torch.from_numpy(draft).to(device, non_blocking=True)
        yield audio_like(draft, gemma), languages, tokens


def hear_speech(store, hparams, device):
    """Batches of speech: (audio embeddings, languages, tokens), without end."""
    whisper = hparams["model"]["whisper"].to(device).eval()
    projector = hparams["model"]["projector"].to(device)
    load_parts(hparams["output_folder"], whisper=whisper, projector=projector)
    bf16 = hparams["precision"] == "bf16"
    for batch in store:
        with torch.no_grad(), torch.autocast(batch.sig[0].device.type, torch.bfloat16, bf16):
            mels = whisper.log_mel(*batch.sig)
            if hparams["spec_augment"]:
                mels = spec_augment(mels, store.generator)
            audio = projector(whisper.encode_mel(mels))
        yield audio.float(), batch.lang, batch.tokens


def main():
    hparams = load_hparams(sys.argv[1:])
    model, settings, device = hparams["model"], hparams["denoiser"], hparams["device"]
    torch.manual_seed(hparams["seed"])
    folder, output = Path(hparams["data_folder"]), Path(hparams["output_folder"])
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = model["tokenizer"]
    tokenizer.load(folder / "tokenizer.json")
    # Before CUDA is initialized: the files are read in forked processes.
    store = make_speech_or_text(hparams, settings, device)
    gemma = model["diffusion_gemma"].to(device)
    if hparams["heard"]:
        load_parts(output, base=gemma)
    elif hparams["continue_from"]:
        load_parts(hparams["continue_from"], base=gemma)
    else:
        with torch.no_grad():
            gemma.head.weight.copy_(load_file(hparams["embeddings"])["weight"])
    gemma.head.weight.requires_grad_(False)
    losses = LanguageModelLosses(
        gemma,
        model["prompt"],
        model["sampler"],
        settings["self_conditioning"],
        settings["unrolled"],
        chunk_size=hparams["chunk_size"],
        compile=hparams["compile"],
    )

    def loss_of(batch):
        diffusion, autoregressive = losses(*batch)
        total = diffusion + settings["autoregressive_weight"] * autoregressive
        return total, {"diffusion": diffusion, "autoregressive": autoregressive}

    def save():
        save_part("base", gemma, output, torch.float16)

    if hparams["heard"]:
        batches = hear_speech(store, hparams, device)
    else:
        batches = read_texts(store, gemma, device)
    with open(output / "denoiser.log", "a", encoding="utf-8") as log_file:

        def log(line):
            print(line, file=log_file, flush=True)

        optimize(
            gemma.parameters(),
            batches,
            loss_of,
            settings,
            hparams["precision"],
            hparams["log_every"],
            log,
            save,
        )


if __name__ == "__main__":
    main()
