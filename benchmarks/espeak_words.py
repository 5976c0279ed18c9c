"""Speech of espeak-ng with the times of its words, from the events of its library."""

import ctypes
import ctypes.util

import numpy as np
import torch

# Of espeak-ng's speak_lib.h.
SYNCHRONOUS = 2
PHONEME_EVENTS = 1
EVENT_END_OF_LIST, EVENT_WORD, EVENT_PHONEME = 0, 1, 7
PARAMETER_RATE, PARAMETER_PITCH = 1, 3
POSITION_IN_CHARACTERS, UTF8 = 1, 1
# A phoneme of no length between two vowels or in front of one, not a pause.
HIATUS = "_|"


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Speaker:
    """The library of espeak-ng.

    Raises
    ------
    FileNotFoundError
        If it is not installed.
    """

    def __init__(self):
        path = ctypes.util.find_library("espeak-ng")
        if path is None:
            raise FileNotFoundError(
                "the library of espeak-ng is not installed; install it (Debian, Ubuntu: "
                "apt install espeak-ng, macOS: brew install espeak-ng)"
            )
        self.library = ctypes.CDLL(path)
        self.sample_rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS)
        self.pieces, self.events = [], []
        # Kept, since the library holds no reference to it.
        self.callback = _Callback(self._receive)
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples, number, events):
        if samples and number > 0:
            self.pieces.append(np.ctypeslib.as_array(samples, (number,)).copy())
        place = 0
        while events[place].type != EVENT_END_OF_LIST:
            event = events[place]
            if event.type == EVENT_WORD and event.text_position > 0:
                self.events.append((event.sample, None))
            elif event.type == EVENT_PHONEME:
                self.events.append((event.sample, event.id.string.decode()))
            place += 1
        return 0

    def speak(self, text, voice, rate, pitch):
        """Speaks a text.

        Arguments
        ---------
        text : str
        voice : str
            Such as en-us+f1.
        rate : int
            Words per minute.
        pitch : int
            0 to 99.

        Returns
        -------
        wav : torch.Tensor
            [T], at `sample_rate`.
        times : list of tuple of float
            Start and end of each word in seconds: from the first sound to the next word or pause.

        Raises
        ------
        ValueError
            If there is no such voice.
        """
        self.pieces.clear()
        self.events.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self.library.espeak_SetParameter(PARAMETER_RATE, rate, 0)
        self.library.espeak_SetParameter(PARAMETER_PITCH, pitch, 0)
        data = text.encode() + b"\0"
        self.library.espeak_Synth(
            data, ctypes.c_size_t(len(data)), 0, POSITION_IN_CHARACTERS, 0, UTF8, None, None
        )
        samples = np.concatenate([np.zeros(0, np.int16), *self.pieces])
        times = [
            (start / self.sample_rate, end / self.sample_rate)
            for start, end in word_times(self.events)
        ]
        return torch.from_numpy(samples.astype(np.float32) / 32768), times


def word_times(events):
    """Reads the times of words from events.

    Arguments
    ---------
    events : list of tuple
        (sample, name of a phoneme), or (sample, None) where a word begins.

    Returns
    -------
    times : list of tuple of int
        First and last sample of each word that sounds.

    Example
    -------
    >>> word_times([(0, None), (5, "t"), (9, "u:"), (20, None), (22, "b"), (30, "_:"), (50, "_")])
    [(5, 20), (22, 30)]
    """
    words = []
    for sample, phoneme in events:
        if phoneme is None:
            if words and words[-1][1] is None:
                words[-1][1] = sample
            words.append([None, None])
        elif phoneme.startswith("(") or phoneme == HIATUS or not words:
            continue  # a change of language, or nothing that lasts
        elif phoneme.startswith("_"):
            words[-1][1] = sample if words[-1][1] is None else words[-1][1]
        else:
            words[-1][0] = sample if words[-1][0] is None else words[-1][0]
            words[-1][1] = None
    return [(start, end) for start, end in words if start is not None and end is not None]
