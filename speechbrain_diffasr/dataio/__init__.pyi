from .audio import AudioStream as AudioStream
from .audio import load_audio as load_audio
from .dataset import csv_dataset as csv_dataset
from .feature_cache import FeatureCache as FeatureCache
from .tables import read_rows as read_rows
