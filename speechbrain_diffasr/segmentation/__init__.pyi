from .boundaries import read_boundaries as read_boundaries
from .boundaries import read_rttm as read_rttm
from .regions import Region as Region
from .segmenter import Segmenter as Segmenter
from .turns import flatten_turns as flatten_turns
from .vad import SileroVAD as SileroVAD
