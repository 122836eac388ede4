"""Synthetic photographs of a page: on a table, in any rotation, tilted, blurred, dim, noisy, stored as JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.transform import ProjectiveTransform, resize


def smooth_pictures(count: int, side: int, seed: int = 0) -> np.ndarray:
    """(count, side, side, 3) in [0, 1]: clouds of colour, which show a wrong crop, with little that blur takes away."""
    coarse = np.random.default_rng(seed).uniform(size=(count, 5, 5, 3))
    return np.stack([resize(picture, (side, side), order=3) for picture in coarse]).clip(0, 1).astype(np.float32)


def photograph(page: np.ndarray, seed: int, *, shape: tuple[int, int] = (1200, 1600)) -> np.ndarray:
    """
    A photograph of a page.

    The page fills 55 to 85% of the frame's shorter way, in any rotation; each corner is moved by up to 7% of the page;
    blur of up to 1.6 pixels, light from 0.25 to 1 that falls off to one side by up to half, coloured, on a table of any
    grey with grain; noise, JPEG.

    :param page: (H, W, 3) uint8.
    :param seed: Of everything.
    :param shape: Height and width of the photograph.
    :return: ``shape`` + (3,), uint8.
    """
    rng = np.random.default_rng(seed)
    height, width = page.shape[:2]
    corners = (np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) - 0.5 + rng.uniform(-0.07, 0.07, (4, 2))) * [width, height]
    angle = rng.uniform(0, 2 * np.pi)
    corners = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    spans = np.ptp(corners, axis=0)
    corners *= min(shape[1] / spans[0], shape[0] / spans[1]) * rng.uniform(0.85, 0.97)
    corners += np.array([shape[1], shape[0]]) / 2 - (corners.min(axis=0) + corners.max(axis=0)) / 2
    edges = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
    matrix = _four_points(corners, edges)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    places = ProjectiveTransform(matrix=matrix)(np.stack([x.ravel(), y.ravel()], axis=1))
    table = rng.uniform(0.05, 0.6) * rng.uniform(0.8, 1.2, 3)
    grain = ndimage.gaussian_filter(rng.normal(0, 0.2, shape), 2)
    result = np.empty((*shape, 3), np.float32)
    for k in range(3):
        seen = ndimage.map_coordinates(
            np.pad(page[..., k] / np.float32(255), 1, constant_values=-9), places[:, ::-1].T + 1, order=1, cval=-9
        ).reshape(shape)
        result[..., k] = np.where(seen >= 0, seen, table[k] + grain)
    blur, dark = rng.uniform(0, 1.6), rng.uniform(0.25, 1)
    result = ndimage.gaussian_filter(result, (blur, blur, 0))
    direction = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(direction) * (x / shape[1] - 0.5) + np.sin(direction) * (y / shape[0] - 0.5)
    light = dark * (1 - rng.uniform(0, 0.5) * (ramp + 0.7) / 1.4)
    result = result * light[..., None] * rng.uniform(0.85, 1.0, 3) + 0.03
    result += rng.normal(0, rng.uniform(0, 0.02), result.shape)
    stream = io.BytesIO()
    Image.fromarray(np.round(result.clip(0, 1) * 255).astype(np.uint8)).save(
        stream, "JPEG", quality=int(rng.integers(60, 96))
    )
    return np.asarray(Image.open(stream))


def _four_points(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The homography that takes four points to four points, by eight linear equations."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), values), 1.0).reshape(3, 3)
