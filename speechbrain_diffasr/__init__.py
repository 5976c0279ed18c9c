"""Speech recognition by discrete diffusion, as a plugin for SpeechBrain."""

import lazy_loader

__version__ = "0.2.0"

# Loaded when first used, so that `diffasr --help` need not wait for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
