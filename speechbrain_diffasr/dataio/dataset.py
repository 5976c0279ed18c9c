"""CSV files as SpeechBrain's datasets."""

import functools
import logging

from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_diffasr.dataio.audio import load_audio

logger = logging.getLogger(__name__)


def csv_dataset(path, data_root, tokenizer, sample_rate=16000, cache=None):
    """Reads a CSV file as the recipes write them.

    Arguments
    ---------
    path : str or Path
        With the columns ID, duration (s), wav, lang, wrd.
    data_root : str or Path
        What `$data_root` stands for in the column wav.
    tokenizer : Tokenizer
        Of the language model.
    sample_rate : int
        That audio is brought to. Default: 16000.
    cache : FeatureCache, optional
        Gives frames instead of waveforms; it must have been filled.

    Returns
    -------
    dataset : DynamicItemDataset
        Gives id, sig [T] or frames [frames, width], tokens (list of int), lang, wrd, duration (s).

    Example
    -------
    >>> from speechbrain.dataio import audio_io
    >>> import torch
    >>> from speechbrain_diffasr import shipped_model
    >>> from speechbrain_diffasr.lobes import Tokenizer
    >>> folder = getfixture("tmp_path")
    >>> audio_io.save(folder / "a.wav", torch.rand(1, 16000), 16000)
    >>> _ = (folder / "all.csv").write_text(
    ...     "ID,duration,wav,lang,wrd\\na,1.0,$data_root/a.wav,en,hello\\n")
    >>> tokenizer = Tokenizer()
    >>> tokenizer.load(f"{shipped_model('diffasr-tiny')}/tokenizer.json")
    >>> example = csv_dataset(folder / "all.csv", folder, tokenizer)[0]
    >>> example["sig"].shape, example["wrd"]
    (torch.Size([16000]), 'hello')
    """
    dataset = DynamicItemDataset.from_csv(str(path), replacements={"data_root": str(data_root)})
    # No functions made here: processes that are not forked could not be given the dataset.
    if cache is None:
        audio, read = "sig", functools.partial(load_audio, sample_rate=sample_rate)
    else:
        audio, read = "frames", cache.__getitem__
    dataset.add_dynamic_item(read, takes="wav", provides=audio)
    dataset.add_dynamic_item(tokenizer.encode_text, takes="wrd", provides="tokens")
    dataset.set_output_keys(["id", audio, "tokens", "lang", "wrd", "duration"])
    return dataset
