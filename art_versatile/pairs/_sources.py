"""What is attacked: images in memory or in files, their labels and classes, and which attack gets which."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from art_versatile._checks import check_choice, check_images, check_integer
from art_versatile.pairs.store import file_sha256

__all__ = ["Source", "attacks_per_image", "check_split", "deal", "find_classes", "find_image_shape", "find_labels"]

SPLITS = ("one_per_image", "every")


def check_split(split: str | int) -> str | int:
    """Check how many attacks each image is given: a name in ``SPLITS``, or a number of at least 1."""
    return check_choice("split", split, SPLITS) if isinstance(split, str) else check_integer("split", split)


def attacks_per_image(split: str | int, n_attacks: int) -> int:
    """How many attacks each image is given, out of so many."""
    each = split if isinstance(split, int) else {"one_per_image": 1, "every": n_attacks}[split]
    if each > n_attacks:
        raise ValueError(f"Expected split of at most {n_attacks}, the number of attacks. Received {each}.")
    return each


class Source:
    """Clean images in memory or in files. Pixels are read when asked for."""

    def __init__(self, images: Any) -> None:
        self.array: np.ndarray | None = None
        self.files: list[Path] = []
        self.folders: list[str] | None = None
        if isinstance(images, np.ndarray):
            self.array = check_images(images, name="images")
            self.names = [f"array[{row}]" for row in range(len(images))]
            return
        from art_versatile.images import list_images

        if isinstance(images, str | Path):
            root = Path(images).absolute()  # workers may have another working directory
            self.files = list_images(root)
            root = root if root.is_dir() else root.parent
        elif isinstance(images, list | tuple) and images and all(isinstance(file, str | Path) for file in images):
            self.files = [Path(file).absolute() for file in images]
            root = Path(os.path.commonpath([file.parent for file in self.files]))
        else:
            raise TypeError(
                "Expected images to be an array (N, H, W, 3), the path of a folder of images, or a list of paths. "
                f"Received {type(images).__name__}."
            )
        places = [file.relative_to(root) for file in self.files]
        self.names = [place.as_posix() for place in places]
        if all(len(place.parts) > 1 for place in places):
            self.folders = [place.parts[0] for place in places]

    def __len__(self) -> int:
        return len(self.names)

    def sha256(self, row: int) -> str:
        """Of the file, or of the pixels as little-endian float32."""
        if self.array is None:
            return file_sha256(str(self.files[row]))
        return hashlib.sha256(self.array[row].astype("<f4").tobytes()).hexdigest()

    def take(self, rows: np.ndarray) -> np.ndarray | list[str]:
        """Images that a unit needs: pixels, or paths that the unit reads itself."""
        return [str(self.files[row]) for row in rows] if self.array is None else self.array[rows]


def find_image_shape(source: Source, image_size: Any, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, 3) of the stored images; ``input_shape`` is the classifier's, channels last."""
    if image_size is not None:
        image_size = check_integer("image_size", image_size)
    height, width = input_shape[:2] if source.array is None else source.array.shape[1:3]
    if image_size is not None and source.array is not None and (height, width) != (image_size, image_size):
        raise ValueError(
            f"Expected an array of images {image_size} x {image_size}: image_size resizes files only. Received "
            f"{height} x {width}."
        )
    if image_size is None and source.array is None and (height != width or not isinstance(height, int)):
        raise ValueError(
            f"Expected image_size, as the classifier's input_shape {input_shape} is not square. Received None."
        )
    return (height, width, 3) if image_size is None else (image_size, image_size, 3)


def find_labels(labels: Any, source: Source, nb_classes: int) -> np.ndarray | None:
    """Labels as int64 (N,), or None."""
    if labels is None:
        return None
    if isinstance(labels, str):
        if labels != "folders":
            raise ValueError(f"Expected labels to be None, an array, a mapping or 'folders'. Received {labels!r}.")
        if source.folders is None:
            raise ValueError("Expected one folder for each class, with labels='folders'. Received other images.")
        labels = {name: number for number, name in enumerate(sorted(set(source.folders)))}
    if isinstance(labels, Mapping):
        folders = source.folders if source.folders is not None else [""] * len(source)
        # A file by its path, by its name, or by its class.
        keys = [(name, name.rpartition("/")[2], folder) for name, folder in zip(source.names, folders, strict=True)]
        found = [next((labels[key] for key in choice if key in labels), None) for choice in keys]
        if missing := [name for name, label in zip(source.names, found, strict=True) if label is None]:
            raise ValueError(f"Expected a label for each image. Received none for {len(missing)}: {missing[:5]}.")
        by_name = [choice[:2] for choice in keys if choice[0] not in labels and choice[1] in labels]
        counts = Counter(bare for _, bare, _ in keys)
        if several := [name for name, bare in by_name if counts[bare] > 1]:
            raise ValueError(
                "Expected labels by path where several images have one name. Received one by name alone for "
                f"{several[:5]}."
            )
        labels = found
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == nb_classes:
        array = array.argmax(axis=1)
    if array.shape != (len(source),) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"Expected labels to be integers ({len(source)},) or one-hot ({len(source)}, {nb_classes}). Received "
            f"{array.dtype} of shape {array.shape}."
        )
    if array.min() < 0 or array.max() >= nb_classes:
        raise ValueError(f"Expected labels from 0 to {nb_classes - 1}. Received {array.min()} to {array.max()}.")
    return array.astype(np.int64)


def find_classes(source: Source, labels: np.ndarray | None, per_class: int | None) -> list[np.ndarray]:
    """Rows of each class; one class where none is known."""
    keys = source.folders if source.folders is not None else labels
    if keys is None:
        if per_class is not None:
            raise ValueError("Expected one folder for each class, or labels, with per_class. Received neither.")
        return [np.arange(len(source))]
    keys = np.asarray(keys)
    classes = {str(key): np.flatnonzero(keys == key) for key in np.unique(keys)}
    for key, rows in classes.items():
        if per_class is not None and len(rows) < per_class:
            raise ValueError(f"Expected at least {per_class} images of each class. Received {len(rows)} of {key!r}.")
    return list(classes.values())


def deal(
    classes: list[np.ndarray], n_attacks: int, *, split: str | int, per_class: int | None, seed: int
) -> list[np.ndarray]:
    """
    Rows for each attack, in random order.

    With one or several attacks an image, the attacks are dealt to the images like cards, class after class: every class
    is spread evenly, and so is the whole. With 18 of each class and six attacks, every attack gets three of each.
    """
    each = attacks_per_image(split, n_attacks)
    rng = np.random.default_rng([seed, 0])
    rows = np.concatenate([rng.permutation(members)[:per_class] for members in classes])
    if len(rows) * each < n_attacks:
        raise ValueError(f"Expected at least one image for each of {n_attacks} attacks. Received {len(rows)}.")
    owner = np.arange(len(rows) * each) % n_attacks
    hands = [rows[np.flatnonzero(owner == attack) // each] for attack in range(n_attacks)]
    return [rng.permutation(hand) for hand in hands]
