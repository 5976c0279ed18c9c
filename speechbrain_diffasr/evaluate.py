"""Where scripts written for 0.1 look for evaluate_csvs."""

from speechbrain_diffasr.evaluation.evaluate import evaluate_csvs, evaluate_rows

__all__ = ["evaluate_csvs", "evaluate_rows"]
