"""Prediction and evaluation on a cluster of Ray: `aweigh.cluster.predict_files`, `predict`, `status`."""

from aweigh.cluster.dataset import predict
from aweigh.cluster.evaluation import evaluate
from aweigh.cluster.job import Counts, Status
from aweigh.cluster.job import status_of as status
from aweigh.cluster.prediction import predict_files
from aweigh.cluster.ray_cluster import Workers

__all__ = ["Counts", "Status", "Workers", "evaluate", "predict", "predict_files", "status"]
