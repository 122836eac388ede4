"""Defences against attacks, measured: each figure is a record. Never imports a concrete defence."""

from __future__ import annotations

from art_versatile.evaluation.metrics import accuracy, hits, mae, psnr, ssim, wilson_interval
from art_versatile.evaluation.records import EvaluationRecord, load_records, record_key, save_records

__all__ = [
    "EvaluationRecord",
    "accuracy",
    "hits",
    "load_records",
    "mae",
    "psnr",
    "record_key",
    "save_records",
    "ssim",
    "wilson_interval",
]
