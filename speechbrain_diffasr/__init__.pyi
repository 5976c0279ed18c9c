from .inference.asr import DiffusionASR as DiffusionASR
from .inference.pretrained import default_model as default_model
from .inference.pretrained import shipped_model as shipped_model
from .transcripts.types import Segment as Segment
from .transcripts.types import Transcript as Transcript
from .transcripts.types import Word as Word
from .utils.errors import AudioError as AudioError

__version__: str
