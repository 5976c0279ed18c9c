"""Trains the tokenizer of a small model: byte-pair pieces, one token for each Han character."""

import argparse
import json
from collections import defaultdict

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from speechbrain_diffasr.dataio.tables import open_table

SPECIAL_TOKENS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|audio>", "<audio|>", "<|audio|>",
]  # fmt: skip

PROMPT_WORDS = [
    "user", "model", "transcribe", "English", "German", "French", "Spanish", "Hindi", "Chinese",
]  # fmt: skip


def train_pieces(texts_by_language, vocab_size, prompt_words):
    """Trains on the same amount of text of each language.

    Arguments
    ---------
    texts_by_language : dict
        Lists of utterances.
    vocab_size : int
        With special tokens and 256 bytes for characters never seen.
    prompt_words : list of str
        Words of the prompt, so that it stays short.

    Returns
    -------
    tokenizer : tokenizers.Tokenizer
    """
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=False))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            # Pieces of several Han characters would be rare, and homophones are many.
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Metaspace(prepend_scheme="always"), decoders.ByteFallback(), decoders.Fuse()]
    )
    characters = sorted({c for texts in texts_by_language.values() for t in texts for c in t})
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 256,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=[],
        limit_alphabet=len(characters) + 100,
        show_progress=False,
    )
    most = max(map(len, texts_by_language.values()))
    lines = [
        text
        for texts in texts_by_language.values()
        for text in (texts * (most // len(texts) + 1))[:most]
    ]
    backend.train_from_iterator(lines + prompt_words * 1000, trainer)

    # Bytes behind the special tokens: as special tokens of the trainer they would be dropped
    # when text is decoded.
    state = json.loads(backend.to_str())
    pieces = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)
    learned = [piece for piece in pieces if piece not in SPECIAL_TOKENS]
    vocabulary = SPECIAL_TOKENS + [f"<0x{byte:02X}>" for byte in range(256)] + learned
    state["model"]["vocab"] = {piece: index for index, piece in enumerate(vocabulary)}
    return Tokenizer.from_str(json.dumps(state))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--csv", required=True, help="CSV with the columns lang and wrd")
    parser.add_argument("--output", required=True, help="tokenizer.json to write")
    parser.add_argument("--vocab_size", type=int, required=True, help="as in the model's YAML")
    parser.add_argument(
        "--prompt_words",
        nargs="*",
        default=PROMPT_WORDS,
        help="that get tokens of their own, names of languages among them (default: %(default)s)",
    )
    args = parser.parse_args()
    texts = defaultdict(dict)
    with open_table(args.csv) as rows:
        for row in rows:
            texts[row["lang"]][row["wrd"]] = None
    texts = {language: list(lines) for language, lines in sorted(texts.items())}
    backend = train_pieces(texts, args.vocab_size, args.prompt_words)
    backend.save(args.output)
    for language, lines in texts.items():
        count = sum(len(backend.encode(line).ids) for line in lines)
        print(f"{language}: {count / len(lines):.1f} tokens an utterance")
