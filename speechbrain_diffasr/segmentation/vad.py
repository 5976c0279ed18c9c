"""Finds speech with silero-vad, whose model comes inside its package."""

import warnings
from array import array

import torch

from speechbrain_diffasr.segmentation.regions import Region
from speechbrain_diffasr.utils.errors import MissingPackageError

SAMPLE_RATE = 16000  # Hz
FRAME = 512  # samples that the detector takes at once


class SileroVAD:
    """Voice activity detector for audio of any length.

    It hears 32 ms at once and keeps a probability for each, 450 KB for an hour; of the audio it
    keeps nothing. It needs no network and runs on the CPU. See
    https://github.com/snakers4/silero-vad

    Arguments
    ---------
    threshold : float
        Probability from which on sound is speech, from 0 to 1. Default: 0.5.
    min_speech : float
        Seconds; shorter speech does not count. Default: 0.1, because a short word does.
    min_silence : float
        Seconds; shorter silence does not end a region. Default: 0.1.

    Raises
    ------
    MissingPackageError
        If silero-vad is not installed.

    Example
    -------
    >>> vad = SileroVAD()
    >>> vad(torch.zeros(16000) for _ in range(3))
    []
    """

    def __init__(self, threshold=0.5, min_speech=0.1, min_silence=0.1):
        threads = torch.get_num_threads()
        try:
            # Its files are opened in ways that Python and torch call outdated.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                from silero_vad import get_speech_timestamps_from_probs, load_silero_vad

                self.model = load_silero_vad()
        except ImportError as err:
            if err.name != "silero_vad":
                raise MissingPackageError(
                    f"this silero-vad cannot be used ({err}); pip install -U 'silero-vad>=6.2.3'"
                ) from None
            raise MissingPackageError(
                "silero-vad is not installed; pip install silero-vad, or give boundaries of "
                "another detector, or use fixed windows"
            ) from None
        finally:
            # Importing it leaves the whole process with one thread.
            torch.set_num_threads(threads)
        self._find = get_speech_timestamps_from_probs
        self.threshold = threshold
        self.min_speech = min_speech
        self.min_silence = min_silence

    @torch.no_grad()
    def __call__(self, blocks):
        """Finds where somebody speaks.

        Arguments
        ---------
        blocks : iterable of torch.Tensor
            Consecutive pieces of a waveform at 16 kHz, [T] each, of any lengths.

        Returns
        -------
        regions : list of Region
            In order; none overlaps another. The same whatever the lengths of the blocks.
        """
        self.model.reset_states()
        probabilities, length = array("f"), 0
        rest = torch.zeros(0)
        for block in blocks:
            length += len(block)
            wav = torch.cat([rest, block.detach().float().cpu()])
            whole = len(wav) // FRAME * FRAME
            probabilities.extend(map(self._probability, wav[:whole].view(-1, FRAME)))
            rest = wav[whole:].clone()
        if len(rest):
            padded = torch.nn.functional.pad(rest, (0, FRAME - len(rest)))
            probabilities.append(self._probability(padded))
        found = self._find(
            probabilities,
            sampling_rate=SAMPLE_RATE,
            threshold=self.threshold,
            min_speech_duration_ms=1000 * self.min_speech,
            min_silence_duration_ms=1000 * self.min_silence,
            audio_length_samples=length,
        )
        return [Region(part["start"] / SAMPLE_RATE, part["end"] / SAMPLE_RATE) for part in found]

    def _probability(self, frame):
        return self.model(frame, SAMPLE_RATE).item()
