"""Where words start and end: by the pauses of the audio, and between the frames of CTC."""

import torch

# Silence is as loud as the quietest of an utterance or up to so many dB louder, but fainter than
# its loudest by so many at least; what is fainter by more than so many always counts.
ABOVE_QUIETEST_DB = 6.0
CONTRAST_DB = 10.0
BELOW_LOUDEST_DB = 35.0
# Level of digital silence.
SILENCE_DB = -100.0
LEVEL_WINDOW = 0.025  # s
LEVEL_HOP = 0.01  # s
SHORTEST_WORD = 0.04  # s that a word keeps beside a pause
LONGEST_REACH = 0.4  # s that a word may last before and behind its frames
# What is not heard at all must be fainter: somebody may speak from the back of the room.
UNHEARD_DB = 50.0


def find_pauses(wav, sample_rate, shortest=0.1, below_loudest=BELOW_LOUDEST_DB):
    """Finds where an utterance is silent.

    Silent is, in windows of 25 ms, what is at most 6 dB louder than the quietest 2 % and at least
    10 dB fainter than the loudest 5 %, or so many dB fainter than those.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    sample_rate : int
        In Hz.
    shortest : float
        Seconds of the shortest pause; at the beginning and the end any length counts.
        Default: 0.1, as long as many a stop consonant is closed.
    below_loudest : float
        In dB; what is fainter by more is silent whatever else there is. Default: 35.

    Returns
    -------
    pauses : list of tuple of float
        Start and end of each in seconds, in order.

    Example
    -------
    >>> tone = torch.sin(torch.arange(8000) / 5)
    >>> wav = torch.cat([tone, torch.zeros(8000), tone, torch.zeros(1600)])
    >>> [(round(start, 1), round(end, 1)) for start, end in find_pauses(wav, 16000)]
    [(0.5, 1.0), (1.5, 1.6)]
    """
    duration = len(wav) / sample_rate
    size, hop = round(LEVEL_WINDOW * sample_rate), round(LEVEL_HOP * sample_rate)
    if not len(wav):
        return []
    padded = torch.nn.functional.pad(wav.detach().float().cpu(), (size // 2, size - size // 2))
    power = padded.unfold(0, size, hop).square().mean(dim=1)  # [number of windows]
    levels = 10 * power.clamp(min=10 ** (SILENCE_DB / 10)).log10()
    quietest, loudest = levels.quantile(torch.tensor([0.02, 0.95])).tolist()
    threshold = min(quietest + ABOVE_QUIETEST_DB, loudest - CONTRAST_DB)
    threshold = max(threshold, loudest - below_loudest, SILENCE_DB)
    silent = (levels <= threshold).int()
    changes = torch.nn.functional.pad(silent, (1, 1)).diff().nonzero()[:, 0].view(-1, 2)
    pauses = []
    for first, behind in changes.tolist():
        start = max(0.0, (first * hop - size / 2) / sample_rate)
        end = min(duration, ((behind - 1) * hop + size / 2) / sample_rate)
        if end - start >= shortest or start == 0 or end == duration:
            pauses.append((start, end))
    return pauses


def find_sound(wav, sample_rate, margin):
    """Finds where a waveform begins and ends to be more than silence.

    Arguments
    ---------
    wav : torch.Tensor
        [T].
    sample_rate : int
        In Hz.
    margin : float
        Seconds of silence that are kept on either side.

    Returns
    -------
    first, behind : int
        Its first sample and the one behind its last; all of the waveform if it is nothing but
        silence, or has none at its ends.

    Example
    -------
    >>> tone = torch.sin(torch.arange(16000) / 5)
    >>> wav = torch.cat([torch.zeros(16000), tone, torch.zeros(8000), tone])
    >>> first, behind = find_sound(wav, 16000, margin=0.1)
    >>> round(first / 16000, 1), behind == len(wav)
    (0.9, True)
    """
    duration = len(wav) / sample_rate
    pauses = find_pauses(wav, sample_rate, below_loudest=UNHEARD_DB)
    start, end = 0.0, duration
    if pauses and pauses[0][0] == 0:
        start = max(0.0, pauses[0][1] - margin)
    if pauses and pauses[-1][1] == duration:
        end = min(duration, pauses[-1][0] + margin)
    if start >= end:
        return 0, len(wav)
    return round(start * sample_rate), round(end * sample_rate)


def place_edges(spans, pauses, duration, frame, gap_share=0.6):
    """Decides from the frames of words and from the pauses where words start and end.

    CTC marks words, but not their edges. Between the frames of two words lies

    - a pause, if the audio has one there: the first word ends where it starts, the second starts
      where it ends. It may reach over the frames of the second, since a token may be recognized
      before it is spoken, and by half a frame into those of the first;
    - otherwise an edge that divides the gap, since speech goes on: by a share of it, so that the
      edge lies between frames. In a long gap both words end or start within 0.4 s.

    Arguments
    ---------
    spans : list of tuple of float
        Seconds between which the frames of each word lie, in order.
    pauses : list of tuple of float
        From `find_pauses`.
    duration : float
        Of the audio in seconds.
    frame : float
        Seconds of a frame.
    gap_share : float
        How much of a gap goes to the word before it. Default: 0.6.

    Returns
    -------
    edges : list of tuple of float
        Start and end of each word in seconds: rising, within the audio.

    Example
    -------
    >>> spans = [(0.0, 0.1), (0.5, 0.6), (1.2, 1.3)]
    >>> edges = place_edges(spans, [(0.0, 0.05), (0.7, 1.1), (1.5, 2.0)], 2.0, 0.1)
    >>> [(round(start, 2), round(end, 2)) for start, end in edges]
    [(0.05, 0.36), (0.36, 0.7), (1.1, 1.5)]
    """
    if not spans:
        return []
    onsets, offsets = [start for start, _ in spans], [end for _, end in spans]
    # Until the next word begins, or the audio ends, a late word may start.
    limits = [*onsets[1:], duration]
    early = [
        (start, end)
        for start, end in pauses
        if start <= onsets[0] and end <= limits[0] - SHORTEST_WORD
    ]
    begin = early[-1][1] if early else max(0.0, onsets[0] - LONGEST_REACH)
    edges = []
    for place, limit in enumerate(limits):
        # A word that starts behind its frames lasts at least for one, if there is room.
        offset = min(max(offsets[place], begin + frame), max(limit, offsets[place]))
        is_last = place == len(spans) - 1
        latest = duration if is_last else limits[place + 1] - SHORTEST_WORD
        fitting = [
            (start, end)
            for start, end in pauses
            if start >= begin + SHORTEST_WORD
            and offset - frame / 2 < end <= latest
            and start < limit
        ]
        if fitting:
            # Behind the last word its own sound ends with the first pause.
            pause = fitting[0] if is_last else max(fitting, key=lambda p: p[1] - p[0])
            end, following = pause
        elif is_last:
            end = following = min(duration, offset + LONGEST_REACH)
        else:
            gap = limit - offset
            end = offset + min(gap_share * gap, LONGEST_REACH)
            following = max(end, limit - LONGEST_REACH)
            following = end if following - end < SHORTEST_WORD else following
        edges.append((begin, max(begin, end)))
        begin = max(begin, following)
    return edges
