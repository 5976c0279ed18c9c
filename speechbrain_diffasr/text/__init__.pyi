from .normalizers import NORMALIZERS as NORMALIZERS
from .normalizers import make_normalizer as make_normalizer
from .spelling import normalize_text as normalize_text
