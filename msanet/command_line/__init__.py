"""The command lines of launcher/, one module each."""

from msanet.command_line.demo import DemoJob, demo_job
from msanet.command_line.evaluate import EvaluationJob, evaluation_job
from msanet.command_line.export import ExportJob, export_job
from msanet.command_line.parser import at_the_cards_size
from msanet.command_line.predict import PredictionJob, prediction_job
from msanet.command_line.train import train_config

__all__ = [
    "DemoJob",
    "EvaluationJob",
    "ExportJob",
    "PredictionJob",
    "at_the_cards_size",
    "demo_job",
    "evaluation_job",
    "export_job",
    "prediction_job",
    "train_config",
]
