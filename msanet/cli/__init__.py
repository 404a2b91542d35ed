"""The command lines of launcher/, one module each."""

from msanet.cli.demo import DemoJob, demo_job
from msanet.cli.evaluate import EvaluationJob, evaluation_job
from msanet.cli.export import ExportJob, export_job
from msanet.cli.parser import with_metadata_resize
from msanet.cli.predict import PredictionJob, prediction_job
from msanet.cli.train import train_config

__all__ = [
    "DemoJob",
    "EvaluationJob",
    "ExportJob",
    "PredictionJob",
    "with_metadata_resize",
    "demo_job",
    "evaluation_job",
    "export_job",
    "prediction_job",
    "train_config",
]
