"""Where speech is, as others found it: SpeechBrain's VAD and RTTM files of any diarizer."""

import math
import re

import torch

from speechbrain_diffasr.segments import Region

# As `VAD.save_boundaries` writes it; nothing stands between samples and the last word.
_BOUNDARY = re.compile(
    r"segment_\d+\s+(-?[\d.]+|nan|inf)\s+(-?[\d.]+|nan|inf)\s*(NON_SPEECH|SPEECH)"
)
_VAD_LINE = "'segment_001  0.00  1.50 SPEECH'"
_RTTM_LINE = "'SPEAKER name 0 0.0 1.5 <NA> <NA> speaker <NA> <NA>'"
_RTTM_FIELDS = 9


class BoundaryError(ValueError):
    """Boundaries cannot be used.

    The message is one line: the file, the line in it, the reason and the remedy.

    Example
    -------
    >>> try:
    ...     read_boundaries("vad.txt")
    ... except BoundaryError as err:
    ...     print(err)
    vad.txt: no such file
    """


def regions_from_tensor(boundaries, sample_rate=None):
    """Speech as `VAD.get_speech_segments` of SpeechBrain returns it.

    Arguments
    ---------
    boundaries : torch.Tensor
        Starts and ends, [N, 2]: floats are seconds, integers are samples. Of no speech, [0].
    sample_rate : int, optional
        Samples per second, for samples. Default: they are refused.

    Returns
    -------
    regions : list of Region
        In order. What overlaps is merged, what lasts no time is left out.

    Raises
    ------
    BoundaryError
        If it has another shape, or times that are none.

    Example
    -------
    >>> regions_from_tensor(torch.tensor([[0.5, 1.5], [2.0, 4.0]]))
    [Region(start=0.5, end=1.5, speaker=None), Region(start=2.0, end=4.0, speaker=None)]
    >>> regions_from_tensor(torch.tensor([]))
    []
    """
    boundaries = torch.as_tensor(boundaries)
    if boundaries.numel() == 0:
        return []
    if boundaries.dim() != 2 or boundaries.shape[1] != 2:
        raise BoundaryError(
            f"boundaries: a tensor of shape {list(boundaries.shape)}; "
            "expected starts and ends, [N, 2], as VAD.get_speech_segments returns them"
        )
    if not boundaries.is_floating_point():
        boundaries = boundaries / _needs_rate(sample_rate, "boundaries")
    return merge_regions(
        _region(start, end, None, f"boundaries: row {row}")
        for row, (start, end) in enumerate(boundaries.tolist())
        if start != end
    )


def read_boundaries(path, sample_rate=None):
    """Reads the file that `VAD.save_boundaries` of SpeechBrain writes.

    Arguments
    ---------
    path : str or Path
        Lines such as ``segment_001  0.00  1.50 SPEECH``, in seconds; whole numbers are samples.
    sample_rate : int, optional
        Samples per second, for samples. Default: they are refused.

    Returns
    -------
    regions : list of Region
        As from `regions_from_tensor`.

    Raises
    ------
    BoundaryError
        If it cannot be read or is another kind of file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "vad.txt"
    >>> _ = path.write_text("segment_001  0.50  2.25 SPEECH\\n")
    >>> read_boundaries(path)
    [Region(start=0.5, end=2.25, speaker=None)]
    """
    regions = []
    for number, line in _lines(path):
        place = f"{path}: line {number}"
        match = _BOUNDARY.fullmatch(line)
        if not match:
            raise BoundaryError(
                _one_line(f"{place}: {line[:60]!r} is not like {_VAD_LINE}{_hint(line)}")
            )
        *times, kind = match.groups()
        if kind == "NON_SPEECH":
            continue
        scale = 1 if any(not time.isdigit() for time in times) else _needs_rate(sample_rate, place)
        start, end = (_number(time, place) / scale for time in times)
        if start != end:
            regions.append(_region(start, end, None, place))
    return merge_regions(regions)


def read_rttm(path, recording=None):
    """Reads who speaks when from RTTM, as SpeechBrain's diarization recipes write it.

    Arguments
    ---------
    path : str or Path
        Its SPEAKER lines count, others are passed over.
    recording : str, optional
        Name of the recording whose turns are wanted, in a file with those of several. Default:
        the only one in the file.

    Returns
    -------
    turns : list of Region
        With speakers, in order. They may overlap; see `flatten_turns`.

    Raises
    ------
    BoundaryError
        If it cannot be read, is another kind of file, or does not tell which recording is meant.

    Example
    -------
    >>> path = getfixture("tmp_path") / "call.rttm"
    >>> _ = path.write_text("SPEAKER call 0 0.5 1.0 <NA> <NA> anna <NA> <NA>\\n")
    >>> read_rttm(path)
    [Region(start=0.5, end=1.5, speaker='anna')]
    """
    turns = {}
    for number, line in _lines(path):
        place = f"{path}: line {number}"
        fields = line.split()
        if line.startswith(";;"):
            continue
        if not re.fullmatch("[A-Z][A-Z_/-]*", fields[0]) or len(fields) < _RTTM_FIELDS:
            raise BoundaryError(
                _one_line(f"{place}: {line[:60]!r} is not like {_RTTM_LINE}{_hint(line)}")
            )
        if fields[0] != "SPEAKER":
            continue
        start, duration = (_number(field, place) for field in fields[3:5])
        found = turns.setdefault(fields[1], [])
        if duration != 0:
            found.append(_region(start, start + duration, fields[7], place))
    if recording is None and len(turns) > 1:
        raise BoundaryError(
            _one_line(f"{path}: turns of {len(turns)} recordings; say which one: {_names(turns)}")
        )
    if recording is not None and turns and recording not in turns:
        raise BoundaryError(
            _one_line(f"{path}: no turns of recording {recording!r}, only of {_names(turns)}")
        )
    found = next(iter(turns.values()), []) if recording is None else turns.get(recording, [])
    return sorted(found, key=lambda turn: (turn.start, turn.end))


def merge_regions(regions):
    """Merges what overlaps or touches, whoever speaks in it.

    Arguments
    ---------
    regions : iterable of Region
        In any order.

    Returns
    -------
    regions : list of Region
        In order, apart from each other. A speaker stays named where all that was merged had the
        same.

    Example
    -------
    >>> merge_regions([Region(3, 4), Region(0, 1), Region(0.5, 2)])
    [Region(start=0, end=2, speaker=None), Region(start=3, end=4, speaker=None)]
    """
    merged = []
    for region in sorted(regions, key=lambda region: region.start):
        if merged and region.start <= merged[-1].end:
            last = merged[-1]
            speaker = last.speaker if last.speaker == region.speaker else None
            merged[-1] = Region(last.start, max(last.end, region.end), speaker)
        else:
            merged.append(region)
    return merged


def _region(start, end, speaker, place):
    try:
        return Region(start, end, speaker)
    except ValueError:
        raise BoundaryError(
            _one_line(
                f"{place}: speech from {start:g} to {end:g} s; "
                "it must start at 0 or later and end after its start"
            )
        ) from None


def _number(text, place):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BoundaryError(_one_line(f"{place}: {text[:20]!r} is not a time in seconds"))
    return number


def _needs_rate(sample_rate, place):
    if not sample_rate:
        raise BoundaryError(
            _one_line(f"{place}: whole numbers, which are samples; give the sample rate with them")
        )
    return sample_rate


def _lines(path):
    """Numbers and text of the lines that are not empty."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError:
        raise BoundaryError(
            _one_line(f"{path}: not a text file in UTF-8; name an RTTM file or saved boundaries")
        ) from None
    except FileNotFoundError:
        raise BoundaryError(_one_line(f"{path}: no such file")) from None
    except OSError as err:
        raise BoundaryError(_one_line(f"{path}: cannot be read ({err.strerror})")) from None


def _hint(line):
    """What a file of the other kind is to be read as."""
    if line.startswith("SPEAKER "):
        return "; this is RTTM"
    return "; these are boundaries of a VAD" if _BOUNDARY.fullmatch(line) else ""


def _names(turns):
    names = sorted(turns)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _one_line(message):
    # A file name may hold line breaks, a message may not.
    return " ".join(str(message).splitlines())
