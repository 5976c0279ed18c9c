from .diffusion_gemma import DiffusionGemma as DiffusionGemma
from .projector import ConvProjector as ConvProjector
from .prompt import AudioPrompt as AudioPrompt
from .tokenizer import Tokenizer as Tokenizer
from .whisper import WhisperEncoder as WhisperEncoder
