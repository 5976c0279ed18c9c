"""Trains the way from speech to tokens with CTC: a projector, and the encoder unless it is frozen.

CTC's output layer is learned along for a while, then stays as it is and is written out: it
becomes the token embeddings of the denoiser, so what the projector says is what the denoiser
reads, though they are trained apart.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from speechbrain.decoders.ctc import ctc_greedy_decode

from speechbrain_diffasr.inference.pretrained import save_part
from speechbrain_diffasr.lobes.output_layer import Head
from speechbrain_diffasr.lobes.whisper import WhisperEncoder
from speechbrain_diffasr.pretraining.optimization import (
    load_embeddings,
    load_hparams,
    load_parts,
    optimize,
)
from speechbrain_diffasr.pretraining.waveforms import Fold, WaveformStore
from speechbrain_diffasr.training import CTCLoss


def make_store(hparams, device, settings, window=None, fold=None, seed=0):
    """The training waveforms of all corpora, on the GPU.

    Arguments
    ---------
    hparams : dict
        Of a recipe.
    device : str
    settings : dict
        With batch_size and join, and optionally windows and trimmed.
    window : float, optional
        Seconds. Default: that of the model.
    fold : Fold, optional
    seed : int
        Added to that of the recipe.

    Returns
    -------
    store : WaveformStore
    """
    model = hparams["model"]
    window = window or model["window"]
    return WaveformStore(
        folders=[Path(hparams["data_folder"]) / name for name in hparams["corpora"]],
        tokenizer=model["tokenizer"],
        device=device,
        batch_size=settings["batch_size"],
        window=window,
        num_frames=round(model["prompt"].num_frames * window / model["window"]),
        max_tokens=model["canvas_length"],
        augment=hparams["augment"],
        join=settings["join"],
        max_pause=hparams["max_pause"],
        max_lead=hparams["max_lead"],
        empty=hparams["empty"],
        seed=hparams["seed"] + seed,
        weights=hparams["group_weights"],
        fold=fold,
        windows=settings.get("windows"),
        trimmed=settings.get("trimmed", 0.0),
    )


def pad_tokens(tokens, device):
    """Token lists as a tensor [B, U] and their lengths [B]."""
    lens = torch.tensor([len(row) for row in tokens])
    padded = torch.zeros(len(tokens), int(lens.max()), dtype=torch.long)
    for row, values in zip(padded, tokens, strict=True):
        row[: len(values)] = torch.tensor(values)
    return padded.to(device, non_blocking=True), lens.to(device, non_blocking=True)


def train_encoder(arguments):
    """Runs the stage.

    Writes, into the output folder, whisper.safetensors unless the encoder is frozen and
    projector.safetensors; embeddings.safetensors as soon as the output layer is fixed; and
    encoder.log.

    Arguments
    ---------
    arguments : list of str
        Of the command line: a YAML file and what it overrides.
    """
    hparams = load_hparams(arguments)
    model, settings, device = hparams["model"], hparams["encoder"], hparams["device"]
    torch.manual_seed(hparams["seed"])
    output = Path(hparams["output_folder"])
    output.mkdir(parents=True, exist_ok=True)
    model["tokenizer"].load(Path(hparams["data_folder"]) / "tokenizer.json")
    blank = model["tokenizer"].token_id(hparams["blank_token"])
    fold = None
    if hparams["fold"] is not None:
        fold = Fold(hparams["fold"], hparams["folds"], inside=False)
    # Before CUDA is initialized: the files are read in forked processes.
    store = make_store(hparams, device, settings, hparams["train_window"], fold)
    whisper, projector = model["whisper"].to(device), model["projector"].to(device)
    gemma = model["diffusion_gemma"]
    layer = torch.nn.Linear(gemma.hidden_size, gemma.vocab_size, bias=False)
    head_steps = settings["head_steps"]
    if hparams["continue_from"]:
        load_parts(hparams["continue_from"], whisper=whisper, projector=projector)
    elif hparams["whisper_source"]:
        released = WhisperEncoder(source=hparams["whisper_source"])
        whisper.load_state_dict(released.state_dict())
    known = hparams["embeddings"] if hparams["fixed_embeddings"] else hparams["continue_from"]
    if known:
        layer.load_state_dict({"weight": load_embeddings(known, gemma)})
        head_steps = 0
    whisper.set_window(hparams["train_window"])
    weight = layer.to(device).weight
    head = Head(weight, gemma.softcap)
    ctc = CTCLoss(blank=blank, chunk_size=hparams["chunk_size"])

    def encode(mels):
        return projector(whisper.encode_mel(mels))

    if hparams["compile"]:
        encode = torch.compile(encode)

    def loss_of(batch):
        mels = hparams["augment_features"](whisper.log_mel(*batch.sig), store.generator)
        audio = encode(mels)
        targets, target_lens = pad_tokens(batch.tokens, device)
        frame_lens = torch.full_like(target_lens, audio.shape[1])
        loss, infeasible = ctc(audio, head, targets, frame_lens, target_lens)
        return loss, {"ctc": loss, "infeasible": infeasible.float()}

    def save():
        whisper.set_window(model["window"])
        save_part("whisper", whisper, output, torch.float16)
        whisper.set_window(hparams["train_window"])
        save_part("projector", projector, output, torch.float16)

    def share_embeddings():
        weight.requires_grad_(False)
        part = output / "embeddings.part"
        save_file({"weight": weight.detach().cpu()}, part)
        part.rename(output / "embeddings.safetensors")

    if head_steps == 0:
        share_embeddings()
    with open(output / "encoder.log", "a", encoding="utf-8") as log_file:

        def log(line):
            print(line, file=log_file, flush=True)

        projector.train()
        optimize(
            [
                {"params": [*projector.parameters(), weight], "scale": 1.0},
                {"params": list(whisper.parameters()), "scale": settings["whisper_scale"]},
            ],
            iter(store),
            loss_of,
            settings,
            hparams["precision"],
            hparams["log_every"],
            log,
            save,
            after_step=lambda step: share_embeddings() if step == head_steps else None,
        )
        if weight.requires_grad:
            share_embeddings()
        whisper.eval()
        projector.eval()
        with torch.no_grad():
            batch = store.batch()
            logits = projector(whisper(*batch.sig)) @ head.weight.T
            tokens = ctc_greedy_decode(logits, torch.ones(len(logits)), blank)
        for row, reference in list(zip(tokens, batch.wrd, strict=True))[:8]:
            log(f"{reference} | {model['tokenizer'].decode_ids(row)}")
