"""The command `diffasr transcribe`."""

import contextlib
import os
import sys
from dataclasses import replace

from tqdm import tqdm

from speechbrain_diffasr.cli.common import (
    UsageError,
    add_command,
    add_decoding_options,
    add_model_options,
    check_output,
    configure_decoding,
    open_model,
    positive,
    quiet_libraries,
    seconds_from_text,
    write_file,
    write_stdout,
)
from speechbrain_diffasr.text.display import one_field, printable
from speechbrain_diffasr.text.recordings import CHANNELS, recording_names
from speechbrain_diffasr.transcripts.schema import format_json_list
from speechbrain_diffasr.transcripts.writers import FORMATS, format_text
from speechbrain_diffasr.utils.errors import (
    AudioError,
    BoundaryError,
    DiffASRError,
    ManifestError,
    WriterError,
)
from speechbrain_diffasr.utils.paths import local_path, path_text

TRANSCRIBE = """\
Writes what is said in audio files of any length.

Transcripts go to stdout or a file, everything else to stderr. Files may have
any format that soundfile reads (WAV, FLAC, Ogg, MP3, ...), any sample rate, and
any number of channels. Audio that is longer than the model hears at once is cut
where nobody speaks, if silero-vad is installed, and otherwise into windows that
overlap; memory does not grow with it. A file that cannot be transcribed gets
one line on stderr, and the others go on. Silence has an empty transcript, and a
line on stderr too."""

TRANSCRIBE_EXAMPLES = """\
formats:
  text      the transcript in one line, or a line for each speaker's turn if
            --rttm names them; for several files a line each: PATH<tab>TEXT
  srt, vtt  captions
  json      a list of objects, one for each file: path, text, language,
            duration, steps, and segments with words, times and confidence;
            times are in seconds, steps are denoising steps that were taken
  ctm       a line for each word: recording, channel, start, duration, word,
            confidence
  rttm      lines of speakers and of their words
  textgrid  for Praat
  A file of srt, vtt or textgrid is of one recording: for many, use --manifest.

examples:
  diffasr transcribe speech.wav
      the transcript alone
  diffasr transcribe *.flac --language de --output transcripts.tsv
      a line for each file
  diffasr transcribe talk.mp3 --format srt --output talk.srt
      captions
  diffasr transcribe talk.mp3 --watch
      the canvas settles in the terminal, window after window
  diffasr transcribe speech.wav --draft draft.txt --steps 2
      from what another recognizer wrote
  diffasr transcribe speech.wav --keywords names.txt
      words to expect, one a line
  diffasr transcribe meeting.wav --rttm meeting.rttm --format vtt
      with the speakers that a diarizer found
  diffasr transcribe --manifest recordings/ --output transcripts/ --format json
      a file for each recording; stopped or killed, the same command goes on and
      ends with what it would have written undisturbed

exit status: 0 all files transcribed, 1 some were not (each has a line on
stderr), 2 wrong usage or output that cannot be written, 130 interrupted"""

# Silence is no error, but nothing may vanish unnoticed.
EMPTY = "no speech was found in it; its transcript is empty"
# Of the formats, several recordings can be in one file.
_JOINABLE = ("text", "json", "ctm", "rttm")
# And of these, some name the recording in every line.
_NAMING = ("ctm", "rttm")
# Words need an alignment, which takes time, so not where they are not shown.
_WORDLESS = ("text",)
# What of the options the transcripts of a manifest depend on.
_SETTINGS = ("model", "language", "steps", "seed", "segment", "rttm", "max_gap")
# The same, of options that 0.1 did not have: they count if they are given.
_MORE_SETTINGS = (
    *("start", "ctc_weight", "noise", "candidates", "choose", "readings", "keywords"),
    *("draft", "n_best"),
)
# Full batches of the longest audio that is heard at once, from one start of the decoder to its end.
_BATCHES = 4


def transcribe(args):
    """Runs `diffasr transcribe`.

    Arguments
    ---------
    args : argparse.Namespace
        What the command line holds.

    Returns
    -------
    status : int
        0 if all files were transcribed, else 1.

    Raises
    ------
    UsageError
        If the model, the manifest or a file of boundaries cannot be used, or the output cannot be
        written.
    """
    _check(args)
    args.files = list(map(local_path, args.files))
    if args.manifest is not None:
        return _transcribe_manifest(args)
    check_output(args.output, args.files)
    with quiet_libraries(args.verbose):
        model, options = _prepare(args, args.files)
        transcripts, failures = _transcribe_files(args, model, options)
    if args.output is not None:
        text = _format(transcripts, args)
        try:
            write_file(args.output, text, args.format)
        except UsageError as err:
            # Nothing that took long is lost.
            write_stdout(text, args.format)
            raise UsageError(f"{err}; the transcripts are on stdout") from None
    elif args.format != "text":
        write_stdout(_format(transcripts, args), args.format)
    return int(failures > 0)


def _transcribe_files(args, model, options):
    """Transcripts of the files that have one, in order, and the number of the others."""
    from speechbrain_diffasr.dataio.audio import silence_mp3_decoder

    results, shown, failures = {}, 0, 0
    hidden = args.watch or None  # None shows the bar only where stderr is a terminal
    brief = {"delay": 1, "leave": False} if len(args.files) == 1 else {}
    with (
        silence_mp3_decoder() as stderr,
        tqdm(total=len(args.files), unit="file", disable=hidden, file=stderr, **brief) as bar,
        _watcher(args, model, stderr) as watcher,
    ):

        def tell(index, done, seconds):
            name = printable(path_text(os.path.basename(args.files[index])))
            bar.set_postfix_str(f"{name}: {done:.0f} of {seconds:.0f} s")

        for index, result in _stream(model, args.files, options, on_window=tell, **watcher):
            bar.update()
            if len(args.files) == 1:
                bar.close()  # it was there for the windows of a long file
            if isinstance(result, AudioError):
                tqdm.write(f"diffasr: {printable(str(result))}", file=stderr)
                failures += 1
                result = None
            else:
                name = printable(path_text(args.files[index]))
                for note in (*result.notes, *([] if result.text.strip() else [EMPTY])):
                    tqdm.write(f"diffasr: {name}: {note}", file=stderr)
            results[index] = result
            # They end in another order; each is shown once all before it are there.
            while shown in results:
                if args.format == "text" and args.output is None and results[shown] is not None:
                    with tqdm.external_write_mode(file=sys.stdout):
                        write_stdout(_format([results[shown]], args), "text")
                shown += 1
    return [results[index] for index in sorted(results) if results[index] is not None], failures


def _transcribe_manifest(args):
    """Transcribes a manifest into a folder; stopped or killed, the next call goes on."""
    from speechbrain_diffasr.dataio.audio import silence_mp3_decoder
    from speechbrain_diffasr.inference.batch import FAILURES, BatchJob
    from speechbrain_diffasr.inference.manifest import read_manifest

    with quiet_libraries(args.verbose):
        try:
            items = read_manifest(args.manifest)
        except ManifestError as err:
            raise UsageError(f"--manifest: {err}") from None
        settings = {name: getattr(args, name) for name in _SETTINGS}
        if args.channels != "auto":
            settings["channels"] = args.channels
        more = {name: getattr(args, name) for name in _MORE_SETTINGS}
        settings |= {name: value for name, value in more.items() if value is not None}
        model, options, failures, notes = None, None, [], []

        def transcribe(group):
            languages = [args.language or item.language for item in group]
            own = replace(options, language=languages)
            if options.drafts is not None:
                own = replace(own, drafts=[drafts[item.path] for item in group])
            return _stream(model, [item.path for item in group], own)

        def report(item, result):
            bar.update()
            if isinstance(result, AudioError):
                failures.append(str(result))
            else:
                notes.extend(f"{path_text(item.path)}: {note}" for note in result.notes)

        try:
            # The folder first, since it takes no time to see whether it can be used.
            with BatchJob(items, args.output, args.format, settings) as job:
                done, group = len(items) - len(job.pending()), 0.0
                if done < len(items):
                    model, options = _prepare(args, [item.path for item in items])
                    _check_languages(items, args, model)
                    paths = [item.path for item in items]
                    drafts = dict(zip(paths, options.drafts or [None] * len(paths), strict=True))
                    group = _BATCHES * args.batch_size * model.max_seconds
                with (
                    silence_mp3_decoder() as stderr,
                    tqdm(
                        total=len(items), initial=done, unit="file", disable=None, file=stderr
                    ) as bar,
                ):
                    summary = job.run(transcribe, report, group)
        except ManifestError as err:
            raise UsageError(f"--output: {err}") from None
    for line in [*sorted(notes), *sorted(failures)]:
        print(f"diffasr: {printable(line)}", file=sys.stderr)
    listed = f", listed in {job.folder / FAILURES}" if summary.failures else ""
    write_stdout(f"{summary}{listed}\n", "text")
    return int(summary.failures > 0)


def add_transcribe(commands):
    """Adds the subcommand.

    Arguments
    ---------
    commands : argparse._SubParsersAction
    """
    parser = add_command(
        commands,
        transcribe,
        "write what is said in audio files",
        TRANSCRIBE,
        TRANSCRIBE_EXAMPLES,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio files")
    parser.add_argument(
        "--manifest",
        metavar="CSV|FOLDER",
        help="instead of files: a folder that is searched for audio, in all that is in it and "
        "linked from it, or a CSV file with the column wav, and perhaps ID and lang; each "
        "recording gets a file of its own in the folder --output, what is there already is not "
        "done again, and what failed is listed there in failures.csv",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        metavar="NAME",
        default="text",
        help="what to write: text, srt, vtt, json, ctm, rttm or textgrid, see formats below "
        "[default: %(default)s]",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="the file to write, as UTF-8, when all is done; with --manifest the folder for the "
        "outputs, made if needed [default: stdout]",
    )
    parser.add_argument(
        "--channels",
        choices=CHANNELS,
        metavar="HOW",
        default="auto",
        help="of files with several: mix them, hear the first alone, or hear each separate, as a "
        "speaker (left and right, or channel 1, 2, ...); auto: separate where two hold different "
        "speech, such as the ends of a call, and --rttm does not tell who speaks, else mix "
        "[default: %(default)s]",
    )
    options = parser.add_argument_group("long audio")
    options.add_argument(
        "--segment",
        choices=("auto", "vad", "fixed", "none"),
        default="auto",
        metavar="HOW",
        help="vad: hear what silero-vad takes for speech; fixed: hear all, in windows that "
        "overlap; none: hear files whole and refuse those that are too long for that; auto: "
        "whole if short, else as vad if silero-vad is installed, else as fixed; with silero-vad, "
        "what is short and faint is heard only if somebody speaks [default: %(default)s]",
    )
    options.add_argument(
        "--boundaries",
        metavar="FILE",
        help="where speech is in the one audio file, as SpeechBrain's VAD.save_boundaries writes "
        "it; what lies outside is not heard",
    )
    options.add_argument(
        "--rttm",
        metavar="FILE",
        help="who speaks when, as diarizers write it; alone it is also where speech is, with "
        "--boundaries or --segment vad or fixed each word goes to the speaker of its time",
    )
    options.add_argument(
        "--max-gap",
        type=seconds_from_text,
        metavar="SECONDS",
        help="longest pause between what is heard together; 0 hears every stretch of speech by "
        "itself [default: the model's own, or 1]",
    )
    texts = parser.add_argument_group("other texts")
    texts.add_argument(
        "--draft",
        metavar="FILE",
        help="what may be said, by another recognizer, say, for canvases to start from: a text "
        "file for one audio file, or what --format json writes, of any number of them",
    )
    texts.add_argument(
        "--n-best",
        type=positive,
        metavar="N",
        help="with --format json: as many of the texts that each segment was chosen among, with "
        "scores, where there are --candidates or --readings",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show on stderr how the canvas settles; one file after the other, long ones window "
        "after window",
    )
    add_decoding_options(parser)
    add_model_options(parser)


def _check(args):
    """Finds what does not go together."""
    if bool(args.files) == (args.manifest is not None):
        raise UsageError("name audio files (FILE ...), or a --manifest; see --help")
    if args.manifest is not None and not args.output:
        raise UsageError("--manifest: name a folder for the transcripts with --output")
    if args.channels == "separate" and args.rttm is not None:
        raise UsageError("--channels: separate makes each a speaker; give no --rttm with it")
    if args.boundaries is not None and (args.manifest is not None or len(args.files) > 1):
        raise UsageError("--boundaries: they are of one recording; name one audio file")
    if args.manifest is None and len(args.files) > 1 and args.format not in _JOINABLE:
        raise UsageError(
            f"--format: {args.format} holds one recording; name one audio file, or use --manifest"
        )
    if args.n_best is not None and args.format != "json":
        raise UsageError(f"--n-best: {args.format} has no place for them; use --format json")
    if args.watch and args.manifest is not None:
        raise UsageError("--watch: shows files one after the other; name audio files instead")


def _prepare(args, paths):
    """The model, and how it is to transcribe; boundaries and turns were seen to be usable."""
    model = open_model(args)
    keywords = configure_decoding(model, args)
    from speechbrain_diffasr.decoders.language_id import NO_TABLE
    from speechbrain_diffasr.inference.drafts import read_drafts
    from speechbrain_diffasr.inference.streaming import DecodingOptions
    from speechbrain_diffasr.segmentation.boundaries import Rttm, read_boundaries

    turns = drafts = None
    try:
        if args.draft is not None:
            drafts = read_drafts(args.draft, paths)
    except ValueError as err:
        raise UsageError(f"--{err}") from None
    try:
        if args.boundaries is not None:
            # Samples are those of the audio file, which is opened later.
            read_boundaries(args.boundaries, model.sample_rate)
        if args.rttm is not None:
            turns = Rttm.read(args.rttm, allow_other_name=len(paths) == 1).of_files(paths)
            turns.check_recordings(paths)
    except BoundaryError as err:
        raise UsageError(str(err)) from None
    if args.format == "json" and args.language is None and model.language_table is None:
        print(f"diffasr: {NO_TABLE}", file=sys.stderr)
    return model, DecodingOptions(
        language=args.language,
        steps=args.steps,
        seed=args.seed,
        batch_size=1 if args.watch else args.batch_size,
        segmentation=args.segment,
        boundaries=None if args.boundaries is None else [args.boundaries],
        turns=turns,
        words=args.format not in _WORDLESS,
        max_gap=args.max_gap,
        channels=args.channels,
        drafts=drafts,
        keywords=keywords,
        n_best=args.n_best or 0,
    )


def _check_languages(items, args, model):
    """Refuses a manifest with languages that the model does not know."""
    wrong = [one for one in items if one.language and one.language not in model.languages]
    if wrong and args.language is None:
        raise UsageError(
            f"--manifest: {wrong[0].name}: unknown language {wrong[0].language!r}; the model "
            f"knows {', '.join(model.languages)}"
        )


@contextlib.contextmanager
def _watcher(args, model, stderr):
    """The callbacks that draw the canvas, if it is to be watched."""
    if not args.watch:
        yield {}
        return
    from speechbrain_diffasr.visualization.terminal import CanvasView

    steps = model.mods.decoder.sampler.check_steps(args.steps)
    with CanvasView(model.tokenizer, steps, stderr) as view:
        yield {"callback": view, "on_start": view.start}


def _stream(model, paths, options, **callbacks):
    try:
        return model.stream_files(paths, options=options, **callbacks)
    except DiffASRError as err:
        raise UsageError(f"--segment: {err}") from None


def _format(transcripts, args):
    """Transcripts in one text."""
    if args.format == "json":
        return format_json_list(transcripts)
    if args.format != "text":
        write, named = FORMATS[args.format], [()] * len(transcripts)
        if args.format in _NAMING:
            names = dict(zip(map(path_text, args.files), recording_names(args.files), strict=True))
            named = [(names[one.name],) for one in transcripts]
        try:
            return "".join(map(lambda one, name: write(one, *name), transcripts, named))
        except WriterError as err:
            raise UsageError(f"--format: {err}") from None
    if len(args.files) > 1:
        # One line for each file, whatever the model wrote.
        return "".join(
            f"{one_field(one.name)}\t{' '.join(one.text.split())}\n" for one in transcripts
        )
    return "".join(map(format_text, transcripts))
