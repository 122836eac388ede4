"""Defences against attacks, measured: each figure is a record. Never imports a concrete defence."""

from __future__ import annotations

from art_versatile.evaluation.checks import CHECKS, masking_checks, verdict, with_flags
from art_versatile.evaluation.metrics import accuracy, hits, mae, psnr, ssim, wilson_interval
from art_versatile.evaluation.records import Check, EvaluationRecord, load_records, record_key, save_records

__all__ = [
    "CHECKS",
    "Check",
    "EvaluationRecord",
    "accuracy",
    "hits",
    "load_records",
    "mae",
    "masking_checks",
    "psnr",
    "record_key",
    "save_records",
    "ssim",
    "verdict",
    "wilson_interval",
    "with_flags",
]
