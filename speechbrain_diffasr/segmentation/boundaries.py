"""Where speech is, as others found it: SpeechBrain's VAD and RTTM files of any diarizer."""

import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from speechbrain_diffasr.segmentation.regions import Region, merge_regions
from speechbrain_diffasr.text.recordings import recording_name, recording_names
from speechbrain_diffasr.utils.errors import BoundaryError
from speechbrain_diffasr.utils.paths import path_text

# As `VAD.save_boundaries` writes it; nothing stands between samples and the last word.
_BOUNDARY = re.compile(
    r"segment_\d+\s+(-?[\d.]+|nan|inf)\s+(-?[\d.]+|nan|inf)\s*(NON_SPEECH|SPEECH)"
)
_VAD_LINE = "'segment_001  0.00  1.50 SPEECH'"
_RTTM_LINE = "'SPEAKER name 0 0.0 1.5 <NA> <NA> speaker <NA> <NA>'"
# The last one is newer than many a writer.
_RTTM_FIELDS = (9, 10)


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
            raise BoundaryError(f"{place}: {line[:60]!r} is not like {_VAD_LINE}{_hint(line)}")
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
    return Rttm.read(path).turns(recording)


@dataclass(frozen=True)
class Rttm:
    """An RTTM file, read once for all recordings that it is about.

    Arguments
    ---------
    path : str or Path
        Of the file, for messages.
    recordings : dict
        List of Region of each recording, by its name.
    allow_other_name : bool
        Whether a file about one recording need not call it as its audio is called. Default: True.
    names : dict
        Of the recordings of audio files that are called alike, by the paths of these; see
        `of_files`. Default: none are.
    """

    path: str | os.PathLike
    recordings: dict
    allow_other_name: bool = True
    names: dict = field(default_factory=dict)

    @classmethod
    def read(cls, path, allow_other_name=True):
        """Reads a file.

        Arguments
        ---------
        path : str or Path
        allow_other_name : bool
            As for the class.

        Returns
        -------
        rttm : Rttm

        Raises
        ------
        BoundaryError
            If it cannot be read, or is another kind of file.
        """
        recordings = {}
        for number, line in _lines(path):
            place = f"{path}: line {number}"
            fields = line.split()
            if line.startswith((";", "#")):
                continue
            if not re.fullmatch("[A-Z][A-Z_/-]*", fields[0]) or len(fields) < min(_RTTM_FIELDS):
                raise BoundaryError(f"{place}: {line[:60]!r} is not like {_RTTM_LINE}{_hint(line)}")
            if fields[0] != "SPEAKER":
                continue
            if len(fields) > max(_RTTM_FIELDS):
                raise BoundaryError(
                    f"{place}: {len(fields)} fields, not {max(_RTTM_FIELDS)} (white space in the "
                    "name of the recording or speaker? write _ instead)"
                )
            start, duration = (_number(text, place) for text in fields[3:5])
            turns = recordings.setdefault(fields[1], [])
            if duration != 0:
                turns.append(_region(start, start + duration, fields[7], place))
        for turns in recordings.values():
            turns.sort(key=lambda turn: (turn.start, turn.end))
        return cls(path, recordings, allow_other_name)

    def turns(self, recording=None):
        """Who speaks when in a recording.

        Arguments
        ---------
        recording : str, optional
            Its name. Default: the only one.

        Returns
        -------
        turns : list of Region

        Raises
        ------
        BoundaryError
            If the file is not about it, or does not tell which recording is meant.
        """
        known = self.recordings
        if recording is None and len(known) > 1:
            raise BoundaryError(
                f"{self.path}: turns of {len(known)} recordings; say which one: {_names(known)}"
            )
        if recording is not None and known and recording not in known:
            raise BoundaryError(
                f"{self.path}: no turns of recording {recording!r}, only of {_names(known)}"
            )
        found = next(iter(known.values()), []) if recording is None else known.get(recording, [])
        return list(found)

    def turns_of_audio(self, path):
        """Who speaks when in an audio file, which is called as its recording, or is the only one.

        Arguments
        ---------
        path : str or Path
            The audio file.

        Returns
        -------
        turns : list of Region

        Raises
        ------
        BoundaryError
            If the file is not about it.
        """
        own = self.names.get(os.fspath(path))
        if own is not None:
            return self.turns(own)
        # As it stands, or as it has to be written.
        for name in (Path(path_text(path)).stem, recording_name(path)):
            if name in self.recordings:
                return self.turns(name)
        return self.turns(None if self.allow_other_name and len(self.recordings) < 2 else name)

    def of_files(self, paths):
        """The same file, for audio files of which some are called alike in different folders.

        Arguments
        ---------
        paths : list of str or Path

        Returns
        -------
        rttm : Rttm
        """
        paths = list(map(os.fspath, paths))
        counts = Counter(map(recording_name, set(paths)))
        names = zip(paths, recording_names(paths), strict=True)
        alike = {path: name for path, name in names if counts[recording_name(path)] > 1}
        return replace(self, names=alike)

    def check_recordings(self, paths):
        """Sees whether the file is about any audio file of several.

        Arguments
        ---------
        paths : list of str or Path

        Raises
        ------
        BoundaryError
            If it is not.
        """
        first = None
        for path in paths:
            try:
                self.turns_of_audio(path)
                return
            except BoundaryError as error:
                first = first or error
        raise first


def _region(start, end, speaker, place):
    try:
        return Region(start, end, speaker)
    except ValueError:
        raise BoundaryError(
            f"{place}: speech from {start:g} to {end:g} s; "
            "it must start at 0 or later and end after its start"
        ) from None


def _number(text, place):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BoundaryError(f"{place}: {text[:20]!r} is not a time in seconds")
    return number


def _needs_rate(sample_rate, place):
    if not sample_rate:
        raise BoundaryError(
            f"{place}: whole numbers, which are samples; give the sample rate with them"
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
            f"{path}: not a text file in UTF-8; name an RTTM file or saved boundaries"
        ) from None
    except FileNotFoundError:
        raise BoundaryError(f"{path}: no such file") from None
    except OSError as err:
        raise BoundaryError(f"{path}: cannot be read ({err.strerror})") from None


def _hint(line):
    """What a file of the other kind is to be read as."""
    if line.startswith("SPEAKER "):
        return "; this is RTTM"
    return "; these are boundaries of a VAD" if _BOUNDARY.fullmatch(line) else ""


def _names(turns):
    names = sorted(turns)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def as_regions(boundaries, sample_rate=None):
    """Takes boundaries in any form that users have them in.

    Arguments
    ---------
    boundaries : torch.Tensor or list or str or Path
        A tensor of SpeechBrain's `VAD.get_speech_segments` or pairs of seconds, [N, 2]; a list of
        Region; or the path of a file that SpeechBrain's `VAD.save_boundaries` wrote.
    sample_rate : int, optional
        Samples per second, if they are whole numbers. Default: these are refused.

    Returns
    -------
    regions : list of Region
        In order; none overlaps another.

    Raises
    ------
    BoundaryError
        If they cannot be used.

    Example
    -------
    >>> as_regions([(0.5, 1.0), (0.9, 2.0)])
    [Region(start=0.5, end=2.0, speaker=None)]
    """
    if isinstance(boundaries, str | os.PathLike):
        return read_boundaries(boundaries, sample_rate)
    boundaries = boundaries if torch.is_tensor(boundaries) else list(boundaries)
    if len(boundaries) and not torch.is_tensor(boundaries):
        if all(isinstance(one, Region) for one in boundaries):
            return merge_regions(boundaries)
        try:
            boundaries = torch.tensor(boundaries, dtype=torch.float64)
        except (TypeError, ValueError):
            raise BoundaryError(
                "boundaries: neither a tensor [N, 2], nor pairs of seconds, nor regions"
            ) from None
    return regions_from_tensor(boundaries, sample_rate)


def as_turns(turns, recording=None, allow_other_name=True):
    """Takes speakers' turns as an RTTM file or a list.

    Arguments
    ---------
    turns : str or Path or Rttm or list of Region
    recording : str or Path, optional
        Audio file that is meant, where an RTTM file has several. Default: the only one.
    allow_other_name : bool
        Whether an RTTM file of one recording may call it otherwise; an `Rttm` knows. Default: True.

    Returns
    -------
    turns : list of Region

    Raises
    ------
    BoundaryError
        If the file cannot be used.
    """
    if isinstance(turns, str | os.PathLike):
        turns = Rttm.read(turns, allow_other_name)
    if isinstance(turns, Rttm):
        return turns.turns() if recording is None else turns.turns_of_audio(recording)
    return list(turns)
