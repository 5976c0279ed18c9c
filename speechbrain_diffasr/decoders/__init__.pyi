from .language_id import LanguageTable as LanguageTable
from .language_id import identify_language as identify_language
from .queueing import Utterance as Utterance
from .sampler import Draft as Draft
from .sampler import EntropyBoundSampler as EntropyBoundSampler
from .sampler import Sampler as Sampler
from .searcher import DiffusionSearcher as DiffusionSearcher
from .searcher import Hypothesis as Hypothesis
