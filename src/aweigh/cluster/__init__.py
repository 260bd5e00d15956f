"""Prediction and evaluation on a cluster of Ray: `aweigh.cluster.predict_files`, `predict`, `status`."""

from aweigh.cluster.job import Counts, Status
from aweigh.cluster.job import status_of as status
from aweigh.cluster.predict import Workers, predict_files

__all__ = ["Counts", "Status", "Workers", "predict_files", "status"]
