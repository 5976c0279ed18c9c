"""Utterances that are to be scored: read from CSV, checked, and mismatched on purpose."""

import random
from collections import Counter


def usable_rows(rows, languages=None):
    """Splits off the utterances that cannot be scored whatever their audio is.

    Arguments
    ---------
    rows : list of dict
        With ID, wav, wrd and perhaps lang.
    languages : list of str, optional
        Those that the model knows. Default: any will do.

    Returns
    -------
    rows : list of dict
        Those with a reference, a path, a known language or none, and an ID of their own.
    skipped : list of dict
        The others: ID and reason.

    Example
    -------
    >>> rows = [{"ID": "a", "wav": "a.wav", "wrd": "hello"}, {"ID": "b", "wav": "b.wav", "wrd": ""}]
    >>> usable_rows(rows)[1]
    [{'ID': 'b', 'reason': 'no reference in the column wrd'}]
    """
    kept, skipped, seen = [], [], set()
    for row in rows:
        reason = None
        if row["ID"] in seen:
            reason = "this ID was there already; only the first utterance that has it counts"
        elif not (row["wrd"] or "").strip():
            reason = "no reference in the column wrd"
        elif not row["wav"]:
            reason = "no file in the column wav"
        elif languages is not None and row.get("lang") and row["lang"] not in languages:
            known = ", ".join(languages)
            reason = f"unknown language {row['lang']!r}; the model knows {known}"
        seen.add(row["ID"])
        if reason is None:
            kept.append(row)
        else:
            skipped.append({"ID": row["ID"], "reason": reason})
    return kept, skipped


def first_rows(rows, limit):
    """The first utterances of each language.

    Arguments
    ---------
    rows : list of dict
        Perhaps with lang.
    limit : int
        How many of each.

    Returns
    -------
    rows : list of dict

    Example
    -------
    >>> rows = [{"ID": "a", "lang": "en"}, {"ID": "b", "lang": "en"}, {"ID": "c", "lang": "de"}]
    >>> [row["ID"] for row in first_rows(rows, 1)]
    ['a', 'c']
    """
    kept, counts = [], Counter()
    for row in rows:
        counts[row.get("lang")] += 1
        if counts[row.get("lang")] <= limit:
            kept.append(row)
    return kept


def mismatch(rows, seed=0):
    """Gives every utterance the audio of another one, of its language and with another text.

    The error rate that comes of it says whether a model listens: one that ignores the audio makes
    as many errors as with the right one.

    Arguments
    ---------
    rows : list of dict
        With ID, wav, wrd and lang.
    seed : int
        The same gives the same pairs. Default: 0.

    Returns
    -------
    rows : list of dict
        In their order, with the wav of another, whose ID is audio_of. Each wav comes once.
    skipped : list of dict
        Utterances for which there is no other: ID and reason.

    Example
    -------
    >>> rows = [{"ID": i, "wav": f"{i}.wav", "wrd": f"text {i}", "lang": "en"} for i in "abc"]
    >>> sorted(row["wav"] for row in mismatch(rows)[0] if row["wav"][0] != row["ID"])
    ['a.wav', 'b.wav', 'c.wav']
    """
    others = {}
    for language in dict.fromkeys(row.get("lang") for row in rows):
        own = [row for row in rows if row.get("lang") == language]
        random.Random(seed).shuffle(own)
        # With equal texts side by side, a turn by the length of the longest run leaves none of
        # them with its own text, unless more than half of all have this text.
        runs = Counter(row["wrd"] for row in own)
        own.sort(key=lambda row: (-runs[row["wrd"]], row["wrd"]) if runs[row["wrd"]] > 1 else (0,))
        turn = max(runs.values())
        for i, row in enumerate(own):
            other = own[(i + turn) % len(own)]
            if other["wrd"] != row["wrd"]:
                others[row["ID"]] = other
    found = [
        {**row, "wav": others[row["ID"]]["wav"], "audio_of": others[row["ID"]]["ID"]}
        for row in rows
        if row["ID"] in others
    ]
    reason = "no other utterance of its language with another text is left to take the audio of"
    return found, [{"ID": r["ID"], "reason": reason} for r in rows if r["ID"] not in others]
