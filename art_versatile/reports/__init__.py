"""Records printed: tables for Markdown and the terminal, one HTML page. Knows nothing of how they were made."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "html": ["write_report"],
        "paper": ["PAPER_TABLE_1", "PAPER_TABLE_2", "PaperTable"],
        "pictures": ["Panel", "Prediction"],
        "tables": ["AccuracyTable", "accuracy_table", "tables_by_threat_model"],
        "text": ["format_spread"],
    },
)
