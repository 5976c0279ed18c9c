from .brain import DiffusionBrain as DiffusionBrain
from .checkpoints import AtomicCheckpointer as AtomicCheckpointer
from .losses import AutoregressiveLoss as AutoregressiveLoss
from .losses import CTCLoss as CTCLoss
from .losses import DiffusionLoss as DiffusionLoss
from .objective import RecognizerLosses as RecognizerLosses
