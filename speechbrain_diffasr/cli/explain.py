"""The command `diffasr explain`."""

import os
import sys

from speechbrain_diffasr.cli.common import (
    UsageError,
    add_command,
    add_decoding_options,
    add_model_options,
    check_output,
    configure_decoding,
    open_model,
    quiet_libraries,
    seconds_from_text,
    utf8_stdout,
)

EXPLAIN = """\
Writes a page that shows how one utterance was decoded.

A single HTML file that needs no network: the waveform with a play button and the words under it,
the canvas after every denoising step with accepted tokens and fresh noise told apart, the entropy
of each position, and what CTC hears in the same audio. Where the canvas starts from CTC or from a
draft, it shows which of their tokens the denoiser kept and which it changed. Any browser opens the
page, a small one too."""

EXPLAIN_EXAMPLES = """\
examples:
  diffasr explain speech.wav --output page.html
  diffasr explain interview.mp3 --start 61.5 --end 67 --language de --output page.html
      a part of a recording that is longer than the model hears at once; times on the page count
      from the start of the part
  diffasr explain speech.wav --steps 48 --seed 3 --output page.html
  diffasr explain speech.wav --start-from ctc --ctc-weight 2 --output page.html
      what the denoiser makes of what CTC reads
  diffasr explain speech.wav --draft draft.txt --output page.html
      and of what another recognizer wrote

exit status: 0 written, 1 the audio cannot be transcribed, 2 wrong usage, 130 interrupted"""


def explain(args):
    """Runs `diffasr explain`.

    Arguments
    ---------
    args : argparse.Namespace
        What the command line holds.

    Returns
    -------
    status : int
        0 if the page was written, 1 if the audio cannot be transcribed.

    Raises
    ------
    UsageError
        If the model cannot be loaded, the draft or the keywords cannot be used, or the page cannot
        be written.
    """

    check_output(args.output, [args.audio])
    if args.end is not None and args.end <= args.begin:
        raise UsageError(f"--end: {args.end:g} s is not behind --start, {args.begin:g} s")
    with quiet_libraries(args.verbose):
        from speechbrain_diffasr.dataio.audio import silence_mp3_decoder
        from speechbrain_diffasr.inference.pretrained import default_model
        from speechbrain_diffasr.utils.errors import AudioError
        from speechbrain_diffasr.visualization import trace as recording
        from speechbrain_diffasr.visualization.page import write_page

        asr = open_model(args)
        keywords = configure_decoding(asr, args)
        draft = None if args.draft is None else load_draft(args)
        try:
            with silence_mp3_decoder():
                wav = load_part(asr, args.audio, args.begin, args.end)
        except AudioError as error:
            print(f"diffasr: {error}", file=sys.stderr)
            return 1
        explanation = recording.explain(
            asr, wav, args.language, args.steps, args.seed, draft, keywords
        )
        model = args.model or default_model()
        try:
            write_page(
                args.output,
                explanation,
                asr.tokenizer,
                model=os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model,
                name=args.audio,
                start=args.begin,
                languages=asr.mods.decoder.prompt.languages,
            )
        except OSError as err:
            raise UsageError(f"--output: cannot write {args.output!r}: {err.strerror}") from None
    words, steps = len(explanation.words), len(explanation.frames) - 1
    print(
        f"{args.output}: {words} word{'' if words == 1 else 's'} in {steps} denoising steps",
        file=utf8_stdout("text"),
    )
    return 0


def load_draft(args):
    """Reads what may be said in the part of the recording that is decoded.

    Arguments
    ---------
    args : argparse.Namespace
        With `draft`, `audio`, `begin` and `end`.

    Returns
    -------
    draft : str or list
        As `make_guesses` takes it.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    from speechbrain_diffasr.inference.drafts import draft_of, read_drafts

    try:
        (draft,) = read_drafts(args.draft, [args.audio])
    except ValueError as err:
        raise UsageError(f"--{err}") from None
    if isinstance(draft, str):
        return draft
    return draft_of(draft, args.begin, float("inf") if args.end is None else args.end)


def load_part(asr, path, start=0.0, end=None):
    """Loads an utterance, or a part of a recording.

    Arguments
    ---------
    asr : DiffusionASR
    path : str
    start : float
        Seconds at which the part begins. Default: 0.
    end : float, optional
        Seconds at which it ends. Default: where the recording does.

    Returns
    -------
    wav : torch.Tensor
        [T], at the model's sample rate.

    Raises
    ------
    AudioError
        If it cannot be transcribed, or is longer than the model hears at once.
    """
    from speechbrain_diffasr.dataio.audio import AudioStream, check_waveform
    from speechbrain_diffasr.segmentation.windows import Window
    from speechbrain_diffasr.utils.errors import AudioError

    stream = AudioStream(path, asr.sample_rate)
    whole = start == 0 and (end is None or end >= stream.seconds)
    part = Window(start, stream.seconds if end is None else min(end, stream.seconds))
    if part.duration <= 0:
        raise AudioError.of(
            path, f"{stream.seconds:.2f} s long; --start {start:g} is behind its end"
        )
    if not (stream.fits(asr.max_seconds) if whole else part.duration <= asr.max_seconds):
        raise AudioError.of(
            path,
            f"{part.duration:.1f} s of audio, but this model hears {asr.max_seconds:g} s at once; "
            "choose a part with --start and --end",
        )
    if whole:
        return asr.load_audio(path)
    (wav,) = stream.pieces([part.samples(asr.sample_rate)])
    check_waveform(wav, f"{path} from {part.start:g} to {part.end:g} s")
    return wav.to(asr.device)


def add_explain(commands):
    """Adds the subcommand.

    Arguments
    ---------
    commands : argparse._SubParsersAction
    """
    parser = add_command(
        commands,
        explain,
        "write a page that shows how an utterance was decoded",
        EXPLAIN,
        EXPLAIN_EXAMPLES,
    )
    parser.add_argument("audio", metavar="AUDIO", help="an audio file")
    parser.add_argument("--output", required=True, metavar="FILE", help="write the page here")
    parser.add_argument(
        "--start",
        dest="begin",
        type=seconds_from_text,
        default=0.0,
        metavar="SECONDS",
        help="where in the audio the part to decode begins [default: at its beginning]",
    )
    parser.add_argument(
        "--end",
        type=seconds_from_text,
        metavar="SECONDS",
        help="and where it ends [default: at its end]",
    )
    parser.add_argument(
        "--draft",
        metavar="FILE",
        help="what may be said, by another recognizer, say, for the canvas to start from: a text "
        "file, or what diffasr transcribe --format json writes",
    )
    add_decoding_options(parser, start="--start-from")
    add_model_options(parser)
