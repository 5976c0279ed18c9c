"""Where folders written before 0.2 look for FolderPretrainer."""

from speechbrain_diffasr.inference.pretrained import FolderPretrainer

__all__ = ["FolderPretrainer"]
