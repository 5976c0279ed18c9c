"""From CSV files to the batches that `DiffusionBrain` takes."""

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_diffasr.audio import load_audio


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
    >>> from speechbrain_diffasr.inference import default_model
    >>> from speechbrain_diffasr.tokenizer import Tokenizer
    >>> folder = getfixture("tmp_path")
    >>> audio_io.save(folder / "a.wav", torch.rand(1, 16000), 16000)
    >>> _ = (folder / "all.csv").write_text(
    ...     "ID,duration,wav,lang,wrd\\na,1.0,$data_root/a.wav,en,hello\\n")
    >>> tokenizer = Tokenizer()
    >>> tokenizer.load(f"{default_model()}/tokenizer.json")
    >>> example = csv_dataset(folder / "all.csv", folder, tokenizer)[0]
    >>> example["sig"].shape, example["wrd"]
    (torch.Size([16000]), 'hello')
    """
    dataset = DynamicItemDataset.from_csv(str(path), replacements={"data_root": str(data_root)})

    audio = "sig" if cache is None else "frames"

    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides(audio)
    def audio_pipeline(wav):
        return load_audio(wav, sample_rate) if cache is None else cache[wav]

    @sb.utils.data_pipeline.takes("wrd")
    @sb.utils.data_pipeline.provides("tokens")
    def text_pipeline(wrd):
        return tokenizer.encode(wrd)

    dataset.add_dynamic_item(audio_pipeline)
    dataset.add_dynamic_item(text_pipeline)
    dataset.set_output_keys(["id", audio, "tokens", "lang", "wrd", "duration"])
    return dataset
