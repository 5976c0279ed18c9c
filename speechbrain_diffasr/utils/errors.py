"""Errors of bad input: one line that names the file, what is wrong, and the remedy."""

from speechbrain_diffasr.utils.paths import path_text


class DiffASRError(ValueError):
    """Input that cannot be used.

    The message is one line: the file, what is wrong with it and, where there is one, the remedy.
    A file name may hold line breaks, the message does not.

    Arguments
    ---------
    message : str

    Example
    -------
    >>> str(DiffASRError("two\\nlines.wav: no such file"))
    'two lines.wav: no such file'
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).splitlines()))

    @classmethod
    def of(cls, name, reason):
        """An error about a file or waveform.

        Arguments
        ---------
        name : str or Path
            What it is called.
        reason : str or Exception
            Why it cannot be used.

        Returns
        -------
        error : DiffASRError
        """
        return cls(f"{path_text(name)}: {reason}")


class AudioError(DiffASRError):
    """A file or waveform cannot be transcribed.

    Example
    -------
    >>> from speechbrain_diffasr.dataio import load_audio
    >>> try:
    ...     load_audio("interview.wav")
    ... except AudioError as err:
    ...     print(err)
    interview.wav: no such file
    """


class BoundaryError(DiffASRError):
    """Boundaries, or who speaks when, cannot be used; also names the line of the file.

    Example
    -------
    >>> from speechbrain_diffasr.segmentation import read_boundaries
    >>> try:
    ...     read_boundaries("vad.txt")
    ... except BoundaryError as err:
    ...     print(err)
    vad.txt: no such file
    """


class ManifestError(DiffASRError):
    """A batch of files cannot begin or go on."""


class WriterError(DiffASRError):
    """A transcript cannot be written."""


class CsvError(DiffASRError):
    """A table cannot be read."""


class MissingPackageError(DiffASRError):
    """A package that is not always needed is not installed; the message says how to install it."""
