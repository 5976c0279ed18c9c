"""Writes the page of one utterance: a single HTML file that needs neither network nor server."""

import base64
import hashlib
import html
import io
import json
import os
from importlib.metadata import version
from importlib.resources import files
from string import Template

import soundfile

from speechbrain_diffasr import __version__
from speechbrain_diffasr.text.display import printable
from speechbrain_diffasr.utils.atomic import write_atomically
from speechbrain_diffasr.visualization.token_texts import TokenTexts

# Extremes of the waveform per second, and what stands for full scale.
PEAKS_PER_SECOND = 200
FULL_SCALE = 100
# Characters from which on the transcript is set smaller.
LONG_TEXT = 80
# Digits of times (s) and of entropies (nats) that the page shows or draws.
DIGITS, ENTROPY_DIGITS = 3, 4
LIBRARIES = ("speechbrain", "transformers", "torch")
# What the canvas started from, in a headline and within a sentence.
HEADLINES = {"noise": "a canvas of noise", "ctc": "what CTC read", "draft": "a draft"}
SOURCES = {"noise": "noise", "ctc": "CTC", "draft": "the draft"}
# What became of the start at a position: how it is counted, and the legend of its sign.
FATES = {
    "stayed": ("stayed", "of {source}, and the same at the end"),
    "changed": ("changed", "of {source}, and another at the end"),
    "filled": ("noise", "noise at the start"),
}


def write_page(path, explanation, tokenizer, **about):
    """Writes the page, all or nothing.

    Arguments
    ---------
    path : str or Path
        The HTML file.
    explanation, tokenizer, **about
        As for `make_page`.

    Raises
    ------
    OSError
        If it cannot be written; an older file stays as it was.
    """
    write_atomically(path, make_page(explanation, tokenizer, **about))


def make_page(explanation, tokenizer, model, name, start=0.0, languages=None):
    """The page of one utterance.

    Arguments
    ---------
    explanation : Explanation
    tokenizer : Tokenizer
        That shows the tokens.
    model : str
        What the model is called.
    name : str
        What the audio is called; of a path, the last part is shown.
    start : float
        Seconds of the audio file before what was decoded. Default: 0.
    languages : dict, optional
        Names of languages by their code.

    Returns
    -------
    page : str
        The same for the same explanation.

    Example
    -------
    >>> from speechbrain_diffasr.visualization import explain
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"))
    >>> wav = asr.load_audio(f"{shipped_model('diffasr-tiny')}/samples/en_2.wav")
    >>> page = make_page(explain(asr, wav), asr.tokenizer, "diffasr-tiny", "en_2.wav")
    >>> "oh there he is" in page, "https://" in page
    (True, False)
    """
    texts = TokenTexts(tokenizer)
    versions = [f"speechbrain_diffasr {__version__}"]
    versions += [f"{library} {version(library)}" for library in LIBRARIES]
    style, script = _template("explain.css"), _template("explain.js")
    name = printable(os.path.basename(os.fspath(name)))
    text = printable(explanation.text)
    lang = explanation.language
    source, has_source = SOURCES[explanation.origin], bool(explanation.fates)
    fields = {
        "policy": _policy(style, script),
        "title": html.escape(f"{text or name} · diffasr explain"),
        "style": style,
        "lang": f' lang="{html.escape(lang)}"' if lang and text else "",
        "length": "" if 0 < len(text) < LONG_TEXT else f' class="{"long" if text else "empty"}"',
        "text": html.escape(text) or "nothing was heard",
        "about": _about(explanation, tokenizer, model, name, start, languages or {}),
        "audio": base64.b64encode(_wav_bytes(explanation)).decode("ascii"),
        "versions": html.escape(" · ".join(versions)),
        "origin": HEADLINES[explanation.origin],
        "fates": _legend(source) if has_source else "",
        "pale": f" Pale: given by {source}." if has_source else "",
        "data": _script_json(_data(explanation, texts, tokenizer)),
        "script": script,
    }
    return Template(_template("explain.html")).substitute(fields)


def peaks(wav, sample_rate, per_second=PEAKS_PER_SECOND):
    """Extremes of a waveform, for drawing it.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    sample_rate : int
        Samples per second.
    per_second : int
        Pairs for a second of audio. Default: 200.

    Returns
    -------
    peaks : list of int
        Lowest and highest sample of each stretch, from -100 to 100 for the loudest of all.

    Example
    -------
    >>> import torch
    >>> peaks(torch.tensor([0.0, 0.5, -0.25, 0.0]), sample_rate=400)
    [0, 100, -50, 0]
    """
    loudest = max(float(wav.abs().max()), 1e-9)
    parts = wav.split(max(1, sample_rate // per_second))
    extremes = [edge for part in parts for edge in (part.min(), part.max())]
    return [round(FULL_SCALE * float(edge) / loudest) for edge in extremes]


def _template(name):
    return (files("speechbrain_diffasr.visualization") / "templates" / name).read_text(
        encoding="utf-8"
    )


def _policy(*inline):
    """Lets the browser run this script and style and nothing else, and load nothing at all."""
    style, script = (
        base64.b64encode(hashlib.sha256(part.encode("utf-8")).digest()).decode("ascii")
        for part in inline
    )
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
        "media-src data:; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _about(explanation, tokenizer, model, name, start, languages):
    """What the header says, as the entries of a description list."""
    code = explanation.language
    named = f"{languages[code]} ({code})" if code in languages else code
    part = f" from {start:g} s on" if start else ""
    entries = {
        "Audio": f"{name}{part}, {explanation.duration:.2f} s",
        "Model": printable(str(model)),
        "Language": "not named" if code is None else named,
        "Steps": f"{explanation.frames[-1].step} of at most {explanation.max_steps}",
        "Seed": str(explanation.seed),
    }
    if explanation.fates:
        counts = _count_fates(_spoken_fates(explanation, tokenizer))
        entries["Start"] = SOURCES[explanation.origin] + (f" (tokens: {counts})" if counts else "")
    if explanation.ctc_weight:
        entries["CTC weight"] = f"{explanation.ctc_weight:g} at every step"
    if explanation.keywords:
        entries["Keywords"] = str(explanation.keywords)
    if explanation.candidates > 1 or explanation.readings:
        entries["Candidates"] = _candidates(explanation, tokenizer)
    if explanation.tries > 1:
        entries["Canvases"] = f"{explanation.tries}; the text filled those before"
    return "\n".join(
        f"<div><dt>{term}</dt><dd>{html.escape(value)}</dd></div>"
        for term, value in entries.items()
    )


def _candidates(explanation, tokenizer):
    """What the text was chosen among, and that one canvas is shown."""
    count = explanation.candidates
    among = f"{count} canvases" if count > 1 else "the canvas"
    among += f" and up to {explanation.readings} readings of CTC" if explanation.readings else ""
    shown = "the first canvas" if count > 1 else "the canvas"
    own = tokenizer.decode_ids(explanation.frames[-1].tokens) == explanation.text
    return f"{among}; {shown} is shown, and {'its text' if own else 'another text'} was chosen"


def _spoken_fates(explanation, tokenizer):
    """What became of the start at each position; "" where no text was nor is."""
    starts = explanation.frames[0].canvas
    return [
        "" if fate == "stayed" and start == tokenizer.eos_id else fate
        for fate, start in zip(explanation.fates, starts, strict=False)  # no fates of mere noise
    ]


def _count_fates(fates):
    return ", ".join(
        f"{fates.count(fate)} {verb}" for fate, (verb, _) in FATES.items() if fate in fates
    )


def _legend(source):
    """Entries of the legend for the signs that tell what became of the start."""
    return "\n".join(
        f'<li><span class="cell {fate}" aria-hidden="true"><span class="token">a</span></span> '
        f"{html.escape(meaning.format(source=source))}</li>"
        for fate, (_, meaning) in FATES.items()
    )


def _wav_bytes(explanation):
    file = io.BytesIO()
    samples = explanation.wav.clamp(-1, 1).numpy()
    soundfile.write(file, samples, explanation.sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _data(explanation, texts, tokenizer):
    """Everything that the script of the page shows."""
    tokens = {token for frame in explanation.frames for token in (*frame.canvas, *frame.tokens)}
    shown = {token: texts(token) for token in sorted(tokens)}
    return {
        "duration": explanation.duration,
        "language": explanation.language,
        "peaks_per_second": PEAKS_PER_SECOND,
        "peaks": peaks(explanation.wav, explanation.sample_rate),
        "tokens": {token: [each.text, each.space, each.kind] for token, each in shown.items()},
        "frames": [_frame(frame, tokenizer) for frame in explanation.frames],
        "words": [
            {
                "text": printable(word.text),
                "start": round(word.start, DIGITS),
                "end": round(word.end, DIGITS),
                "confidence": round(word.confidence, DIGITS),
            }
            for word in explanation.words
        ],
        "text": printable(explanation.text),
        "origin": SOURCES[explanation.origin],
        "given": "".join("01"[one] for one in explanation.frames[0].given),
        "fates": _spoken_fates(explanation, tokenizer),
        "ctc": printable(explanation.ctc_text),
        "pieces": [
            {
                "text": texts(piece.token).text,
                "start": round(piece.start, DIGITS),
                "end": round(piece.end, DIGITS),
                "probability": round(piece.probability, DIGITS),
            }
            for piece in explanation.pieces
        ],
    }


def _frame(frame, tokenizer):
    return {
        "step": frame.step,
        "canvas": frame.canvas,
        "accepted": "".join("01"[kept] for kept in frame.accepted),
        "entropy": [round(value, ENTROPY_DIGITS) for value in frame.entropy],
        "mean_entropy": frame.mean_entropy,
        "tokens": frame.tokens,
        "text": printable(tokenizer.decode_ids(frame.tokens or _given_tokens(frame))),
    }


def _given_tokens(frame):
    """What CTC or the draft gave of a canvas; nothing of one that was all noise."""
    return [token for token, given in zip(frame.canvas, frame.given, strict=False) if given]


def _script_json(value):
    """JSON that may stand in a script element: nothing in it can end one."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
