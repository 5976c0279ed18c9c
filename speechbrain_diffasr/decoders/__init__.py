"""From projected audio to tokens: canvas, sampler, searcher, and what runs the model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
