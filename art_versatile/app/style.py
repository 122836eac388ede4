"""How the page looks: small additions to Gradio's own style, for light and dark alike."""

from __future__ import annotations

__all__ = ["CSS", "FONT", "FONT_MONO"]

# Fonts of the reader's system: nothing is fetched.
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
FONT_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
:root { --win: #0f766e; --lose: #b42318; --open: #57606a; }
.dark { --win: #2dd4bf; --lose: #ff8a7a; --open: #9aa7b8; }
.gradio-container { max-width: 1380px !important; margin: 0 auto !important; }
.masthead { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; padding: 6px 2px 2px; }
.masthead h1 { font-size: 1.45rem; font-weight: 700; letter-spacing: -0.015em; margin: 0; }
.masthead p { margin: 0; color: var(--body-text-color-subdued); }
#setup { min-width: min(320px, 100%) !important; }
#setup .gallery:not(.container) { display: grid; grid-template-columns: repeat(5, 1fr); gap: 6px; }
#setup .gallery-item span { display: block; width: 100%; }
#setup .gallery-item, #setup .gallery-item .container, #setup .gallery-item img { width: 100% !important;
  height: auto !important; aspect-ratio: 1; min-width: 0; max-width: none; object-fit: cover; }
.html-container { padding: 0 !important; }
.verdict { border-left: 5px solid var(--open); border-radius: 6px; padding: 12px 16px; min-height: 72px;
  display: flex; align-items: center; background: var(--background-fill-secondary); }
.verdict p { margin: 0; line-height: 1.5; } .verdict strong { font-size: 1.08rem; margin-right: 7px; }
.verdict.defence { border-color: var(--win); } .verdict.defence strong { color: var(--win); }
.verdict.attack { border-color: var(--lose); } .verdict.attack strong { color: var(--lose); }
.shots { display: grid !important; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); gap: 14px; }
.shot { min-width: 0 !important; }
.shot .image-container img, .shot .image-frame, .shot .image-frame img { width: 100%; height: 100%;
  object-fit: contain; }
.answer h2 { font-size: 1rem !important; padding: 4px 4px 8px !important; line-height: 1.25 !important;
  min-height: 2.6em; display: flex; align-items: center; justify-content: center; text-align: center; }
.answer .label, .answer .text, .answer .confidence { font-family: var(--font) !important;
  font-size: 0.86rem !important; }
.numbers { display: grid; grid-template-columns: auto auto; gap: 7px 10px; margin: 10px 6px; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; color: var(--body-text-color); }
.numbers dt { color: var(--body-text-color-subdued); }
.numbers dd { margin: 0; text-align: right; font-weight: 600; }
.tab-container button.selected { color: var(--win) !important; }
.hint { color: var(--body-text-color-subdued); font-size: 0.9rem; margin: 0; }
.chart { margin-top: 12px; }
.chart .panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 24px; }
.chart figure { margin: 0; } .chart h3 { margin: 0 0 6px; font-size: 1.05rem; }
.chart svg[role=img] { width: 100%; height: auto; } .chart svg text { fill: var(--body-text-color-subdued);
  font-size: 13px; stroke: none; } .chart .grid { stroke: var(--border-color-primary); }
.chart ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 8px 0 0; }
.chart li { display: flex; align-items: center; gap: 7px; margin: 0; font-size: 0.92rem; }
.chart .mark { width: 26px; height: 12px; } .chart .scroll { overflow-x: auto; }
.chart table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
.chart th, .chart td { text-align: left; padding: 4px 10px 4px 0;
  border-bottom: 1px solid var(--border-color-primary); }
.chart summary { cursor: pointer; padding: 4px 0; }
@media (max-width: 640px) { .masthead p { font-size: 0.92rem; }
  .shots { grid-template-columns: 1fr 1fr; gap: 10px; }
  .shot .block:has(.image-container, .empty) { height: 190px !important; } .numbers { font-size: 0.82rem; } }
"""
