"""The command lines of launcher/, one module each."""

from msanet.command_line.evaluate import EvaluationJob, evaluation_job
from msanet.command_line.predict import PredictionJob, prediction_job
from msanet.command_line.train import train_config

__all__ = ["EvaluationJob", "PredictionJob", "evaluation_job", "prediction_job", "train_config"]
