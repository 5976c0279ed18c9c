"""Speech recognition by discrete diffusion, as SpeechBrain modules."""

__version__ = "0.1.0"
