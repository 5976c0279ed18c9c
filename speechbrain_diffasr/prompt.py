"""Where folders written before 0.2 look for AudioPrompt."""

from speechbrain_diffasr.lobes.prompt import AudioPrompt

__all__ = ["AudioPrompt"]
