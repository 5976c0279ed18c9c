"""What the denoiser is to beat: CTC on the same frames, alone and with an n-gram of the same text.

    python benchmarks/ctc_baselines.py --csv valid.csv --model FOLDER --text text.csv

The n-grams are of the model's own tokens, one for each language; `text` has the columns lang and
wrd. Weight and bonus are not tuned.
"""

import argparse
import json
from pathlib import Path

import torch
from tqdm import tqdm

from speechbrain_diffasr import DiffusionASR, default_model
from speechbrain_diffasr.dataio import read_rows
from speechbrain_diffasr.decoders.ctc import frame_seconds
from speechbrain_diffasr.decoders.ngram import TokenNGram
from speechbrain_diffasr.decoders.prefixes import Taste, search_prefixes
from speechbrain_diffasr.evaluation.evaluate import score
from speechbrain_diffasr.evaluation.metrics import main_kind
from speechbrain_diffasr.lobes.output_layer import head_logits
from speechbrain_diffasr.pretraining import count_ngrams
from speechbrain_diffasr.text.normalizers import make_normalizer


@torch.no_grad()
def hear(asr, path):
    """CTC's log-probabilities of a file, [T, V]."""
    wav = asr.load_audio(path)
    audio = asr.encode_batch(wav[None], torch.ones(1))[0]
    frame = frame_seconds(asr.mods.encoder.whisper, asr.mods.encoder.projector)
    count = max(1, -(-len(wav) // round(frame * asr.hparams.sample_rate)))
    head = asr.mods.decoder.model.head
    return head_logits(audio[:count], head.weight, head.softcap).log_softmax(dim=-1)


def read_greedily(log_probs, blank):
    """Tokens of the most probable path."""
    path = torch.unique_consecutive(log_probs.argmax(dim=-1)).tolist()
    return [token for token in path if token != blank]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--csv", required=True, help="what to score on")
    add("--model", default=default_model(), help="default: %(default)s")
    add("--text", help="CSV with lang and wrd; without it CTC alone")
    add("--order", type=int, default=4, help="of the n-grams (default: %(default)s)")
    add("--weight", type=float, default=0.6, help="of their logarithms (default: %(default)s)")
    add("--bonus", type=float, default=1.2, help="for each token (default: %(default)s)")
    add("--beam", type=int, default=24, help="prefixes kept (default: %(default)s)")
    add("--normalizer", default="whisper", help="default: %(default)s")
    add("--overrides", default="", help="of the model's YAML, such as 'fresh: [adapter]'")
    add("--output", help="JSON of the rates and of every reading")
    args = parser.parse_args()

    asr = DiffusionASR.from_hparams(args.model, overrides=args.overrides)
    tokenizer = asr.tokenizer
    blank = tokenizer.token_id(asr.mods.decoder.prompt.slot_token)
    readings = {"greedy": []}
    ngram = TokenNGram(args.order)
    if args.text:
        readings["n-gram"] = []
        count_ngrams(args.text, tokenizer, ngram, [1] * args.order)
    for row in tqdm(read_rows(args.csv), desc="Reading"):
        log_probs = hear(asr, row["wav"])
        tokens = {"greedy": read_greedily(log_probs, blank)}
        if args.text:
            taste = Taste(ngram, row["lang"], args.weight, args.bonus)
            tokens["n-gram"] = search_prefixes(log_probs, blank, args.beam, taste)[0]
        for name, found in readings.items():
            text = tokenizer.decode_ids(tokens[name])
            utterance = {"ID": row["ID"], "language": row["lang"], "reference": row["wrd"]}
            found.append({**utterance, "hypothesis": text})

    normalizer = make_normalizer(args.normalizer)
    summaries = {name: score(found, normalizer)[0].summarize() for name, found in readings.items()}
    print(f"| language | judged by | {' | '.join(summaries)} |")
    print("|---" * (2 + len(summaries)) + "|")
    for language in sorted(summaries["greedy"]):
        kind = main_kind(language)
        cells = []
        for summary in summaries.values():
            low, high = summary[language][f"{kind}_interval"]
            cells.append(f"{summary[language][kind]:.1f} ({low:.1f}–{high:.1f})")
        print(f"| {language} | {kind.upper()} | {' | '.join(cells)} |")
    if args.output:
        report = {"settings": vars(args), "rates": summaries, "readings": readings}
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        Path(args.output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
