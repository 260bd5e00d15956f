"""Metrics: COCO, VOC, and what an assignment covers."""
