"""Where folders written before 0.2 look for AtomicCheckpointer."""

from speechbrain_diffasr.training.checkpoints import AtomicCheckpointer

__all__ = ["AtomicCheckpointer"]
