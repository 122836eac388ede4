"""Records printed: tables for Markdown and the terminal, one HTML page. Knows nothing of how they were made."""

from __future__ import annotations

from art_versatile.reports.html import Panel, Prediction, write_report
from art_versatile.reports.tables import PAPER_TABLE_2, AccuracyTable, PaperTable, accuracy_table

__all__ = [
    "PAPER_TABLE_2",
    "AccuracyTable",
    "Panel",
    "PaperTable",
    "Prediction",
    "accuracy_table",
    "write_report",
]
