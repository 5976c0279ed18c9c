"""The command `diffasr transcribe`."""

import argparse
import json
import os
import sys
from operator import itemgetter

from tqdm import tqdm

from speechbrain_diffasr.batch_cli import transcribe_manifest
from speechbrain_diffasr.token_texts import printable

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
  diffasr transcribe meeting.wav --rttm meeting.rttm --format vtt
      with the speakers that a diarizer found
  diffasr transcribe --manifest recordings/ --output transcripts/ --format json
      a file for each recording; stopped or killed, the same command goes on and
      ends with what it would have written undisturbed

exit status: 0 all files transcribed, 1 some were not (each has a line on
stderr), 2 wrong usage or output that cannot be written, 130 interrupted"""

# Silence is no error, but nothing may vanish unnoticed.
EMPTY = "no speech was found in it; its transcript is empty"
# Keys of `writers.FORMATS`, which would load torch; text is another here.
FORMATS = ("text", "srt", "vtt", "json", "ctm", "rttm", "textgrid")
# Of these, several recordings can be in one file.
_JOINABLE = ("text", "json", "ctm", "rttm")
# Words need an alignment, which takes time, so not where they are not shown.
_WORDLESS = ("text",)


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
        If the model cannot be loaded, a file of boundaries cannot be used, or the output cannot
        be written.
    """
    from speechbrain_diffasr import cli

    _check(args)
    if args.manifest is not None:
        return transcribe_manifest(args, _check_speech, _stream)
    cli.check_output(args.output, args.files)
    with cli.quiet_libraries(args.verbose):
        from speechbrain_diffasr.audio import AudioError, quiet_decoder

        model = cli.open_model(args)
        _check_speech(model, args, args.files)
        stream = _stream(model, args, args.files, args.language, len(args.files) == 1)
        results, shown, failed = {}, 0, 0
        hidden = args.watch or None  # None shows the bar only where stderr is a terminal
        brief = {"delay": 1, "leave": False} if len(args.files) == 1 else {}
        with (
            quiet_decoder() as stderr,
            tqdm(total=len(args.files), unit="file", disable=hidden, file=stderr, **brief) as bar,
        ):
            for index, result in stream(stderr, bar):
                bar.update()
                if len(args.files) == 1:
                    bar.close()  # it was there for the windows of a long file
                if isinstance(result, AudioError):
                    tqdm.write(f"diffasr: {printable(str(result))}", file=stderr)
                    failed += 1
                    result = None
                elif not result.text.strip():
                    name = printable(args.files[index])
                    tqdm.write(f"diffasr: {name}: {EMPTY}", file=stderr)
                results[index] = result
                # They end in another order; each is shown once all before it are there.
                while shown in results:
                    if args.format == "text" and args.output is None:
                        _show(args.files, shown, results[shown])
                    shown += 1
    heard = [(path, results[index]) for index, path in enumerate(args.files) if results[index]]
    if args.output is not None:
        text = _formatted(heard, args)
        try:
            cli.write_file(args.output, text, args.format)
        except cli.UsageError as err:
            # Nothing that took long is lost.
            cli.write_stdout(text, args.format)
            raise cli.UsageError(f"{err}; the transcripts are on stdout") from None
    elif args.format != "text":
        cli.write_stdout(_formatted(heard, args), args.format)
    return int(failed > 0)


def add_transcribe(commands, add_model_options):
    """Adds the subcommand.

    Arguments
    ---------
    commands : argparse._SubParsersAction
    add_model_options : callable
        Takes the parser.
    """
    parser = commands.add_parser(
        "transcribe",
        help="write what is said in audio files",
        description=TRANSCRIBE,
        epilog=TRANSCRIBE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show on stderr how the canvas settles; one file after the other, long ones window "
        "after window",
    )
    add_model_options(parser)
    parser.set_defaults(run=transcribe)


def _check(args):
    """Finds what does not go together."""
    from speechbrain_diffasr import cli

    if bool(args.files) == (args.manifest is not None):
        raise cli.UsageError("name audio files (FILE ...), or a --manifest; see --help")
    if args.manifest is not None and not args.output:
        raise cli.UsageError("--manifest: name a folder for the transcripts with --output")
    if args.boundaries is not None and (args.manifest is not None or len(args.files) > 1):
        raise cli.UsageError("--boundaries: they are of one recording; name one audio file")
    if args.manifest is None and len(args.files) > 1 and args.format not in _JOINABLE:
        raise cli.UsageError(
            f"--format: {args.format} holds one recording; name one audio file, or use --manifest"
        )
    if args.watch and args.manifest is not None:
        raise cli.UsageError("--watch: shows files one after the other; name audio files instead")


def _check_speech(model, args, paths):
    """Refuses an RTTM file that is of none of the files, and boundaries that cannot be read."""
    from speechbrain_diffasr import cli, language_table
    from speechbrain_diffasr.boundaries import BoundaryError, read_boundaries

    try:
        if args.boundaries is not None:
            read_boundaries(args.boundaries, model.sample_rate)
        if args.rttm is not None:
            _find_recording(args.rttm, paths)
    except BoundaryError as err:
        raise cli.UsageError(str(err)) from None
    if args.format == "json" and args.language is None and model.language_table is None:
        print(f"diffasr: {language_table.NO_TABLE}", file=sys.stderr)


def _find_recording(rttm, paths):
    """Finds a file that an RTTM file is about; those that it is not about fail one by one."""
    from speechbrain_diffasr.boundaries import BoundaryError
    from speechbrain_diffasr.longform import as_turns

    first = None
    for path in paths:
        try:
            as_turns(rttm, path, only=len(paths) == 1)
            return
        except BoundaryError as err:
            first = first or err
    raise first


def _stream(model, args, paths, languages, only):
    """What gives the results of files; it takes the file to watch on."""
    from speechbrain_diffasr import cli
    from speechbrain_diffasr.boundaries import BoundaryError

    wrong, heard, turns = _own_turns(args.rttm, paths, only)
    if isinstance(languages, list):
        languages = [languages[index] for index in heard]
    asked = [paths[index] for index in heard], languages, args.steps, args.seed
    options = {
        "segmentation": args.segment,
        "boundaries": None if args.boundaries is None else [args.boundaries],
        "turns": turns,
        "words": args.format not in _WORDLESS,
        "max_gap": args.max_gap,
    }

    def results(stderr, bar=None):
        def tell(place, done, seconds):
            name = printable(os.path.basename(paths[heard[place]]))
            bar.set_postfix_str(f"{name}: {done:.0f} of {seconds:.0f} s")

        on_window = None if bar is None else tell
        yield from wrong
        try:
            if args.watch:
                from speechbrain_diffasr.watch import watch_files

                found = watch_files(model, *asked, stderr, **options)
            else:
                found = model.stream_files(*asked, args.batch_size, on_window=on_window, **options)
        except BoundaryError as err:
            raise cli.UsageError(f"--segment: {err}") from None
        for index, result in found:
            yield heard[index], result

    return results


def _own_turns(rttm, paths, only):
    """Errors of files that an RTTM file is not about, places of the others, and their turns."""
    from speechbrain_diffasr.audio_header import audio_error
    from speechbrain_diffasr.boundaries import BoundaryError
    from speechbrain_diffasr.longform import as_turns

    if rttm is None:
        return [], range(len(paths)), None
    wrong, heard, turns = [], [], []
    for index, path in enumerate(paths):
        try:
            turns.append(as_turns(rttm, path, only))
            heard.append(index)
        except BoundaryError as err:
            wrong.append((index, audio_error(path, err)))
    return wrong, heard, turns


def _show(files, index, transcript):
    """Prints a transcript past the progress bar."""
    from speechbrain_diffasr import cli

    if transcript is not None:
        with tqdm.external_write_mode(file=sys.stdout):
            cli.write_stdout(_as_text([(files[index], transcript)], len(files)), "text")


def _formatted(heard, args):
    """All transcripts in one text."""
    from speechbrain_diffasr import cli

    if args.format == "text":
        return _as_text(heard, len(args.files))
    if args.format == "json":
        return _as_json(heard)
    from speechbrain_diffasr.writers import FORMATS as WRITERS
    from speechbrain_diffasr.writers import WriterError

    try:
        return "".join(WRITERS[args.format](result.named(path)) for path, result in heard)
    except WriterError as err:
        raise cli.UsageError(f"--format: {err}") from None


def _as_text(heard, num_files):
    from speechbrain_diffasr.writers import format_text

    if num_files == 1 and any(part.speaker for _, result in heard for part in result.segments):
        return "".join(format_text(result.named(path)) for path, result in heard)
    # One line for each file, whatever the model wrote.
    lines = [(path, " ".join(result.text.split())) for path, result in heard]
    return "".join(f"{text}\n" if num_files == 1 else f"{path}\t{text}\n" for path, text in lines)


def _as_json(heard):
    from speechbrain_diffasr.transcript_json import format_json

    first = itemgetter("text", "language", "duration")
    objects = []
    for path, result in heard:
        content = json.loads(format_json(result.named(path)))
        named = dict(
            zip(("text", "language", "duration"), first(content), strict=True), steps=result.steps
        )
        objects.append({"path": content.pop("audio"), **named, **content})
    text = json.dumps(objects, ensure_ascii=False, indent=2) + "\n"
    # File names need not be valid UTF-8: what stands for their bytes is escaped.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def seconds_from_text(text):
    """Reads an option that is a time or a duration.

    Arguments
    ---------
    text : str

    Returns
    -------
    seconds : float

    Raises
    ------
    argparse.ArgumentTypeError
        If it is no number of 0 or more.

    Example
    -------
    >>> seconds_from_text("12.5")
    12.5
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 12.5")
    return seconds
