"""Trains a DiffusionGemma to write out a line from a torn draft of it.

A released language model can copy from its prompt and spell; one with random weights has to
learn it, from text alone. The slots of the prompt hold what a projector under CTC will put there
one day: pieces spread over the frames, repeated, wrong or missing, and blanks between them. The
token embeddings are those that the encoder's stage writes, and stay as they are; without any they
are learned.

With `heard` the slots hold what the encoder, its training finished, makes of speech. On voices
that it was trained with it would make too few errors; where there are folds, each voice is heard
by an encoder and a projector that did not learn from it.
"""

import functools
import random
from pathlib import Path

import torch
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import (
    DiffusionGemmaRMSNorm,
    DiffusionGemmaTextRouter,
)

from speechbrain_diffasr.inference.pretrained import FILENAMES, save_part
from speechbrain_diffasr.kernels.norms import norm_plain
from speechbrain_diffasr.pretraining.drafts import DraftStore, audio_like, find_neighbours
from speechbrain_diffasr.pretraining.encoder import make_store
from speechbrain_diffasr.pretraining.optimization import (
    load_embeddings,
    load_hparams,
    load_parts,
    optimize,
    start_processes,
)
from speechbrain_diffasr.pretraining.waveforms import Fold
from speechbrain_diffasr.training.objective import LanguageModelLosses


def read_texts(hparams, settings, gemma, rank):
    """Batches of text: (audio of torn drafts, languages, tokens, filled frames, window).

    The window is None unless the drafts have slots already.
    """
    model = hparams["model"]
    prompt = model["prompt"]
    chooses = prompt.most_blank is not None
    store = DraftStore(
        path=Path(hparams["data_folder"]) / "text.csv",
        tokenizer=model["tokenizer"],
        num_frames=prompt.num_frames,
        num_slots=prompt.num_slots if chooses else None,
        unsure=settings["unsure"] if chooses else 0.0,
        blank=model["tokenizer"].token_id(hparams["blank_token"]),
        canvas_length=model["canvas_length"],
        batch_size=settings["batch_size"],
        join=settings["join"],
        max_wrong=settings["max_wrong"],
        pace=settings["pace"],
        repeated=settings["repeated"],
        shares=[
            [seconds / model["window"], share]
            for seconds, share in settings["windows"] or [[model["window"], 1.0]]
        ],
        trimmed=settings["trimmed"],
        neighbours=find_neighbours(gemma.head.weight),
        seed=hparams["seed"] + rank,
    )
    for languages, tokens, draft, filled, most in store:
        draft = torch.from_numpy(draft).to(gemma.head.weight.device, non_blocking=True)
        audio = audio_like(draft, gemma, settings["max_blur"])
        if filled is not None and not chooses:
            audio = audio[:, :most]
        yield audio, languages, tokens, filled, most if chooses else None


def open_ears(hparams, device, rank):
    """What speech is heard with: (store, folder of the encoder and projector) of each fold."""
    settings = hparams["denoiser"] | {"batch_size": hparams["denoiser"]["heard_batch_size"]}
    output = Path(hparams["output_folder"])
    if not hparams["heard_folds"]:
        return [(make_store(hparams, device, settings, seed=rank), output)]
    return [
        (
            make_store(
                hparams, device, settings, fold=Fold(number, hparams["folds"], True), seed=rank
            ),
            output / f"fold{number}",
        )
        for number in hparams["heard_folds"]
    ]


def hear_speech(ears, hparams, device):
    """Batches of speech as `read_texts` gives them of text, of each fold in turn."""
    model, base = hparams["model"], Path(hparams["output_folder"])
    whisper, projector = model["whisper"].to(device).eval(), model["projector"].to(device).eval()
    weights = []
    for _, folder in ears:
        has_encoder = (folder / FILENAMES["whisper"]).is_file()
        load_parts(folder if has_encoder else base, whisper=whisper)
        load_parts(folder, projector=projector)
        weights.append([part.state_dict() for part in (whisper, projector)])
        weights[-1] = [{k: v.clone() for k, v in state.items()} for state in weights[-1]]
    bf16 = hparams["precision"] == "bf16"
    heard = None
    while True:
        for (store, folder), states in zip(ears, weights, strict=True):
            if folder != heard:
                for part, state in zip((whisper, projector), states, strict=True):
                    part.load_state_dict(state)
                heard = folder
            batch = store.batch()
            whisper.set_window(batch.sig[0].shape[1] / whisper.sample_rate)
            with torch.no_grad(), torch.autocast(batch.sig[0].device.type, torch.bfloat16, bf16):
                mels = hparams["augment_features"](whisper.log_mel(*batch.sig), store.generator)
                audio = projector(whisper.encode_mel(mels))
            whisper.set_window(model["window"])
            yield audio.float(), batch.lang, batch.tokens, batch.filled, None


def mix(speech, text, share, seed):
    """Batches of speech, a share of them of text, so that it is not forgotten."""
    dice = random.Random(seed)
    while True:
        yield next(text if dice.random() < share else speech)


def hasten(gemma):
    """Makes training a language model of few experts faster on a GPU, its function the same.

    Norms become one kernel forward and one backward: apart, their multiplications take longer than
    the matrix products. The routers' factors of the experts stay as they are: the gradient of four
    numbers, to which every token adds, took a tenth of a step, and the experts' own output weights
    can learn the same.

    Arguments
    ---------
    gemma : DiffusionGemma

    Example
    -------
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> gemma = DiffusionASR.from_hparams(shipped_model("diffasr-tiny")).mods.decoder.model
    >>> tokens = torch.arange(300, 310)[None]
    >>> before, _ = gemma.encode(gemma.embed(tokens))
    >>> hasten(gemma)
    >>> after, _ = gemma.encode(gemma.embed(tokens))
    >>> torch.allclose(before, after, atol=1e-4)
    True
    """
    for module in gemma.modules():
        if isinstance(module, DiffusionGemmaRMSNorm):
            module.forward = functools.partial(_fused_norm, module)
        elif isinstance(module, DiffusionGemmaTextRouter):
            module.per_expert_scale.requires_grad_(False)


def _fused_norm(norm, hidden):
    weight = norm.weight.float() if norm.with_scale else None
    return norm_plain(hidden.float(), weight, norm.eps).type_as(hidden)


def train_denoiser(arguments):
    """Runs the stage.

    Reads embeddings.safetensors, writes base.safetensors and denoiser.log into the output folder.
    Under torchrun all GPUs work on it.

    Arguments
    ---------
    arguments : list of str
        Of the command line: a YAML file and what it overrides.
    """
    hparams = load_hparams(arguments)
    rank, device = start_processes()
    device = device or hparams["device"]
    model, settings = hparams["model"], hparams["denoiser"]
    source = hparams["continue_from"] or hparams["embeddings"]
    torch.manual_seed(hparams["seed"] + rank)
    folder, output = Path(hparams["data_folder"]), Path(hparams["output_folder"])
    output.mkdir(parents=True, exist_ok=True)
    model["tokenizer"].load(folder / "tokenizer.json")
    ears = open_ears(hparams, device, rank) if hparams["heard"] else None
    gemma = model["diffusion_gemma"].to(device)
    if hparams["heard"]:
        load_parts(output, base=gemma)
    else:
        if source is not None:
            with torch.no_grad():
                gemma.head.weight.copy_(load_embeddings(source, gemma))
        if torch.distributed.is_initialized():
            for parameter in gemma.parameters():
                torch.distributed.broadcast(parameter.data, 0)
    gemma.head.weight.requires_grad_(not hparams["heard"] and source is None)
    hasten(gemma)
    losses = LanguageModelLosses(
        gemma,
        model["prompt"],
        model["sampler"],
        settings["self_conditioning"],
        settings["unrolled"],
        drafted=settings["drafted"],
        draft_rate=settings["draft_rate"],
        blank=model["tokenizer"].token_id(hparams["blank_token"]),
        chunk_size=hparams["chunk_size"],
        compile=hparams["compile"],
    )

    def loss_of(batch):
        *batch, filled, window = batch
        diffusion, autoregressive = losses(*batch, filled=filled, window=window)
        total = diffusion + settings["autoregressive_weight"] * autoregressive
        return total, {"diffusion": diffusion, "autoregressive": autoregressive}

    def save():
        save_part("base", gemma, output, torch.float16)

    batches = read_texts(hparams, settings, gemma, rank)
    if hparams["heard"]:
        speech = hear_speech(ears, hparams, device)
        batches = mix(speech, batches, settings["text_share"], hparams["seed"] + rank)
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
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
