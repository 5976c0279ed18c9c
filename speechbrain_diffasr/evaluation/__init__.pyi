from .evaluate import evaluate_csvs as evaluate_csvs
from .evaluate import evaluate_rows as evaluate_rows
from .metrics import ErrorRates as ErrorRates
