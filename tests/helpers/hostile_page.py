"""A decoding whose tokens and words are written to break out of a page or to steer a terminal."""

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from speechbrain_diffasr import Word
from speechbrain_diffasr.decoders.ctc import Piece
from speechbrain_diffasr.lobes import Tokenizer
from speechbrain_diffasr.visualization.trace import Explanation, Frame

HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "&lt;&amp;",
    "\"quotes'`${1}",
    "line\u2028sep\u2029par\nfeed",
    "\x1b[2Jesc\x07",
    "\u202eevil",
    "]]>--><!--",
    "\ufeffbom",
]


def hostile_tokenizer(folder):
    """A tokenizer of these words; "a" is token 2, and the first of them token 3."""
    words = ["<eos>", "<unk>", "a", *HOSTILE]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    backend.add_special_tokens(["<eos>", "<unk>"])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    path = folder / "tokenizer.json"
    backend.save(str(path))
    tokenizer = Tokenizer()
    tokenizer.load(path)
    return tokenizer


def hostile_explanation():
    """A decoding of one step, of all tokens of that tokenizer."""
    tokens = list(range(len(HOSTILE) + 3))
    size = len(tokens)
    noise = Frame(0, tokens, [False] * size, [], [])
    step = Frame(1, tokens, [True] * size, [0.1] * size, tokens[::-1])
    return Explanation(
        wav=torch.sin(torch.arange(16000) / 20),
        sample_rate=16000,
        language="en",
        seed=3,
        max_steps=1,
        frames=[noise, step],
        tries=1,
        text=" ".join(HOSTILE),
        words=[Word(text, i / 10, (i + 1) / 10, 0.4, True) for i, text in enumerate(HOSTILE)],
        pieces=[Piece(token, 0.1, 0.2, 0.5) for token in tokens],
        ctc_text=" ".join(HOSTILE),
    )
