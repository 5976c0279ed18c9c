"""Checkpoints that a kill cannot break and that hold only what is trained."""

import os
import shutil

from safetensors import SafetensorError
from speechbrain.utils.checkpoints import METAFNAME, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

MOMENTS = "optimizer.ckpt"


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, whose checkpoints appear complete or not at all.

    A folder counts as a checkpoint once its meta file is there; here that file is written last,
    where SpeechBrain writes it first. So a run that is killed while it saves goes on from the
    checkpoint before. The optimizer's moments, twice the size of the trained weights, are kept in
    the newest checkpoint only: the others serve for their weights, not to go on from.

    Example
    -------
    >>> import torch
    >>> folder, layer = getfixture("tmp_path"), torch.nn.Linear(2, 2)
    >>> checkpointer = AtomicCheckpointer(folder, {"layer": layer})
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> sorted(path.name for path in checkpoint.path.iterdir())
    ['CKPT.yaml', 'layer.ckpt']
    >>> (checkpoint.path / "CKPT.yaml").unlink()  # as if killed before the end
    >>> checkpointer.recover_if_possible() is None
    True
    """

    def save_checkpoint(self, *args, **kwargs):
        """Saves a checkpoint; see SpeechBrain's Checkpointer.

        Arguments
        ---------
        *args, **kwargs
            As for SpeechBrain's.

        Returns
        -------
        checkpoint : Checkpoint or None
            None on processes other than the first.

        Raises
        ------
        OSError
            If the disk is full.
        """
        self._clear_unfinished()
        try:
            checkpoint = super().save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            # torch and safetensors have errors of their own for what the disk refuses.
            self._clear_unfinished()
            free = shutil.disk_usage(self.checkpoints_dir).free / 1e9
            remedy = "it was the first; free some space, and the same command starts anew"
            if self.list_checkpoints():
                remedy = "the checkpoint before is whole, and the same command goes on from it"
            raise OSError(
                f"{self.checkpoints_dir}: could not save a checkpoint ({str(error).strip()}); "
                f"{free:.3g} GB are free there; {remedy}"
            ) from error
        ddp_barrier()
        if if_main_process():
            meta = checkpoint.path / METAFNAME
            os.replace(_unfinished(meta), meta)
        ddp_barrier()
        return checkpoint

    def save_and_keep_only(self, *args, **kwargs):
        """Saves a checkpoint and deletes what is no longer wanted; see SpeechBrain's.

        Arguments
        ---------
        *args, **kwargs
            As for SpeechBrain's.
        """
        super().save_and_keep_only(*args, **kwargs)
        if if_main_process():
            newest = self.find_checkpoint().path
            for checkpoint in self.list_checkpoints():
                if checkpoint.path != newest:
                    (checkpoint.path / MOMENTS).unlink(missing_ok=True)
        ddp_barrier()  # or another process could be about to load what is deleted

    def load_checkpoint(self, checkpoint):
        """Loads a checkpoint; the optimizer only from one that has its moments.

        Arguments
        ---------
        checkpoint : Checkpoint
        """
        name = MOMENTS.removesuffix(".ckpt")
        optimizer = self.recoverables.get(name)
        if optimizer is not None and name not in checkpoint.paramfiles:
            if self.find_checkpoint().path == checkpoint.path:
                raise FileNotFoundError(
                    f"{checkpoint.path / MOMENTS} is missing, so training cannot go on from here; "
                    "choose another output_folder to start afresh"
                )
            del self.recoverables[name]
        try:
            super().load_checkpoint(checkpoint)
        finally:
            if optimizer is not None:
                self.recoverables[name] = optimizer

    def _save_checkpoint_metafile(self, fpath, meta_to_include={}, end_of_epoch=True):
        return super()._save_checkpoint_metafile(_unfinished(fpath), meta_to_include, end_of_epoch)

    def _clear_unfinished(self):
        if if_main_process():
            for folder in self.checkpoints_dir.glob("CKPT*"):
                if not (folder / METAFNAME).exists():
                    shutil.rmtree(folder)


def _unfinished(meta):
    return meta.with_name(meta.name + ".part")
