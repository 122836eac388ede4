"""Certified accuracy of a classifier behind its defences: certificates, a table and a curve in one folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._files import write_text_atomically
from art_versatile.evaluation.certify import Certificates, certify

__all__ = ["certify_images"]


def certify_images(
    classifier: Any, x: np.ndarray, y: Sequence[int] | np.ndarray, out: str | Path, **settings: Any
) -> Certificates:
    """
    Certify images, and write ``certificates.json`` (one image after the other), ``certified.csv`` and
    ``certified.png``. Called again with the same folder it goes on where it stopped.

    :param classifier: ART ``TensorFlowV2Classifier``, defences included.
    :param x: Images, in ``clip_values``.
    :param y: Right classes, (N,).
    :param out: Folder for the files.
    :param settings: Passed to :func:`art_versatile.evaluation.certify.certify`: ``sigma``, ``n``, ``alpha``, ...
    :return: The certificates.
    """
    from art_versatile.reports.figures import certified_figure

    found = certify(classifier, x, y, out, **settings)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, ["image", "label", "predicted", "radius", "infinity_255", "votes", "draws"])
    writer.writeheader()
    for certificate in found.certificates:
        row = {name: value for name, value in vars(certificate).items() if name in writer.fieldnames}
        writer.writerow({**row, "infinity_255": 255 * found.infinity_radius(certificate.radius)})
    write_text_atomically(Path(out) / "certified.csv", table.getvalue())
    radii = [0.0, *sorted({c.radius for c in found.certificates if c.is_right and c.radius > 0})]
    certified_figure(
        radii,
        [found.accuracy(radius) for radius in radii],
        Path(out) / "certified.png",
        title=f"sigma {found.facts['sigma']:g}, {found.facts['n']} draws, {len(found.certificates)} images",
    )
    return found
