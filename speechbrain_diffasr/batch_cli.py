"""The command `diffasr transcribe --manifest`."""

import sys

from tqdm import tqdm

from speechbrain_diffasr.token_texts import printable

# Full batches of the longest audio that is heard at once, from one start of the decoder to its end.
_BATCHES = 4
# What of the options the transcripts depend on.
_SETTINGS = ("model", "language", "steps", "seed", "segment", "rttm", "max_gap")


def transcribe_manifest(args, check, stream):
    """Transcribes a manifest into a folder; stopped or killed, the next call goes on.

    Arguments
    ---------
    args : argparse.Namespace
        What the command line of `diffasr transcribe` holds.
    check : callable
        Takes the model, the arguments and all paths, and raises UsageError if they do not go
        together.
    stream : callable
        Takes the model, the arguments, some paths, their languages, and whether there are no
        others; returns what takes stderr and gives the place and the result of each file.

    Returns
    -------
    status : int
        0 if all files were transcribed, else 1.

    Raises
    ------
    UsageError
        If the manifest, the folder or the model cannot be used.
    """
    from speechbrain_diffasr import cli

    with cli.quiet_libraries(args.verbose):
        from speechbrain_diffasr.audio import AudioError, quiet_decoder
        from speechbrain_diffasr.batch import FAILURES, Batch
        from speechbrain_diffasr.manifest import BatchError, read_manifest

        try:
            items = read_manifest(args.manifest)
        except BatchError as err:
            raise cli.UsageError(f"--manifest: {err}") from None
        settings = {name: getattr(args, name) for name in _SETTINGS}
        kind = {"text": "txt"}.get(args.format, args.format)
        model, failures = None, []

        def transcribe(group):
            languages = [args.language or item.language for item in group]
            paths = [item.path for item in group]
            return stream(model, args, paths, languages, len(items) == 1)(stderr)

        def report(item, result):
            bar.update()
            if isinstance(result, AudioError):
                failures.append(str(result))

        try:
            # The folder first, since it takes no time to see whether it can be used.
            with Batch(items, args.output, kind, settings) as batch:
                done, group = len(items) - len(batch.pending()), 0.0
                if done < len(items):
                    model = cli.open_model(args)
                    _check_languages(items, args, model)
                    check(model, args, [item.path for item in items])
                    group = _BATCHES * args.batch_size * model.max_seconds
                with (
                    quiet_decoder() as stderr,
                    tqdm(
                        total=len(items), initial=done, unit="file", disable=None, file=stderr
                    ) as bar,
                ):
                    summary = batch.run(transcribe, report, group)
        except BatchError as err:
            raise cli.UsageError(f"--output: {err}") from None
    for line in sorted(failures):
        print(f"diffasr: {printable(line)}", file=sys.stderr)
    listed = f", listed in {batch.folder / FAILURES}" if summary.failures else ""
    cli.write_stdout(f"{summary}{listed}\n", "text")
    return int(summary.failures > 0)


def _check_languages(items, args, model):
    """Refuses a manifest with languages that the model does not know."""
    from speechbrain_diffasr import cli

    wrong = [one for one in items if one.language and one.language not in model.languages]
    if wrong and args.language is None:
        raise cli.UsageError(
            f"--manifest: {wrong[0].name}: unknown language {wrong[0].language!r}; the model "
            f"knows {', '.join(model.languages)}"
        )
