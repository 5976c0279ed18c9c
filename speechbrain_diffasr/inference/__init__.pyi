from .asr import AudioError as AudioError
from .asr import DiffusionASR as DiffusionASR
from .asr import Transcript as Transcript
from .asr import check_device as check_device
from .pretrained import FolderPretrainer as FolderPretrainer
from .pretrained import default_model as default_model
from .pretrained import save_finetuned as save_finetuned
from .pretrained import save_pretrained as save_pretrained
