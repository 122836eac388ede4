from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
import skimage.data

from art_versatile import VersatilePurifier, weights
from art_versatile._version import __version__
from art_versatile.baselines._edsr import EDSR, NETWORKS
from art_versatile.pix2pix.generators import CompactGenerator, UNet256Generator

CONFIG = {
    "widths": [8, 12],
    "blocks": [1, 2],
    "factor": 2,
    "sigmas": [0.0, 1.0],
    "noise": 0.1,
    "raw_input": False,
    "raw_base": False,
    "encoder": None,
    "output_noise": 0.0,
    "strength": 1.0,
    "seed": 3,
}


def make_generator(seed=3):
    generator = CompactGenerator(**{**CONFIG, "seed": seed})
    rng = np.random.default_rng(seed)
    # The last layer starts at zero; a trained one does not.
    generator.set_weights([w + 0.01 * rng.standard_normal(w.shape) for w in generator.get_weights()])
    return generator


@pytest.fixture(scope="module")
def generator():
    return make_generator()


@pytest.fixture
def folder(generator, tmp_path):
    return weights.save(generator, tmp_path / "weights")


def signed(card):
    """The checksum as the format states it: of these four, as JSON in the order of their names, without spaces."""
    parts = {key: card.get(key) for key in ("architecture", "config", "parameters", "weights")}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return {**card, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def edit(folder, *, sign=True, **changes):
    card = {**json.loads((folder / "card.json").read_text()), **changes}
    (folder / "card.json").write_text(json.dumps(signed(card) if sign else card))


def put(folder, block, **changes):
    """Another weights file, with a card that vouches for it."""
    file = weights_file(folder)
    file.write_bytes(block)
    entry = json.loads((folder / "card.json").read_text())["weights"]
    edit(folder, weights={**entry, "sha256": hashlib.sha256(block).hexdigest(), "bytes": len(block), **changes})


def weights_file(folder) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def assert_equal(generator, other):
    for a, b in zip(generator.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


class TestRoundTrip:
    def test_float32_is_exact(self, generator, folder):
        read, card = weights.load(folder)
        assert isinstance(read, CompactGenerator)
        assert read.get_config() == generator.get_config() == CONFIG
        assert_equal(read, generator)
        x = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
        np.testing.assert_array_equal(read(x), generator(x))
        assert card["weights"]["dtype"] == "float32"

    def test_float16_halves_the_file_and_rounds(self, generator, folder, tmp_path):
        half = weights.save(generator, str(tmp_path / "half"), dtype="float16")
        sizes = [weights_file(f).stat().st_size for f in (half, folder)]
        assert sizes[0] < 0.7 * sizes[1]
        read, card = weights.load(str(half))
        assert card["weights"]["dtype"] == "float16"
        for a, b in zip(read.get_weights(), generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32), strict=True)

    def test_the_other_architecture(self, tmp_path):
        generator = UNet256Generator(filters=1, seed=5)
        read, card = weights.load(weights.save(generator, tmp_path / "unet"))
        assert card["architecture"] == "unet256"
        assert isinstance(read, UNet256Generator)
        assert_equal(read, generator)

    def test_keras_global_policy_does_not_count(self, generator, folder):
        x = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            read, _ = weights.load(folder)
            assert keras.config.dtype_policy().name == "mixed_bfloat16"
            assert {w.dtype for w in read.weights} == {"float32"}
            np.testing.assert_array_equal(read(x), generator(x))
        finally:
            keras.config.set_dtype_policy(before)

    def test_equal_weights_make_equal_files(self, folder, tmp_path):
        again = weights.save(make_generator(), tmp_path / "again")
        assert sorted(f.name for f in again.iterdir()) == sorted(f.name for f in folder.iterdir())
        for file in folder.iterdir():
            assert file.read_bytes() == (again / file.name).read_bytes()

    def test_the_card(self, generator, tmp_path):
        folder = weights.save(generator, tmp_path / "deep" / "weights", card={"data": "natural", "steps": 7})
        card = json.loads((folder / "card.json").read_text())
        file = weights_file(folder)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert card == signed({
            "format": 2,
            "art_versatile": __version__,
            "architecture": "compact",
            "config": CONFIG,
            "parameters": generator.count_params(),
            "weights": {"file": file.name, "sha256": digest, "dtype": "float32", "bytes": file.stat().st_size},
            "data": "natural",
            "steps": 7,
        })  # fmt: skip
        assert set(weights.RESERVED) == set(card) - {"data", "steps"}
        assert weights.load(folder)[1] == card

    def test_saving_again_replaces_what_the_card_named_and_no_other(self, folder):
        old, foreign = weights_file(folder), folder / "generator-mine.safetensors"
        foreign.write_bytes(b"of someone else")
        other = make_generator(seed=4)
        weights.save(other, folder)
        assert not old.exists()
        assert foreign.read_bytes() == b"of someone else"
        assert len(list(folder.iterdir())) == 3
        assert_equal(weights.load(folder)[0], other)

    @pytest.mark.parametrize("victim", ["card.json", "generator-"])
    def test_a_save_that_fails_leaves_the_old_ones_whole(self, generator, folder, monkeypatch, victim):
        replace = os.replace

        def fail(source, target):
            if Path(target).name.startswith(victim):
                raise OSError("disk full")
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            weights.save(make_generator(seed=4), folder)
        assert not list(folder.glob(".*"))
        assert_equal(weights.load(folder)[0], generator)


class TestSaveErrors:
    def test_another_model(self, tmp_path):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="other")
        with pytest.raises(ValueError, match=r"Expected a generator made by build_generator .* Received 'other'"):
            weights.save(model, tmp_path)

    @pytest.mark.parametrize("key", weights.RESERVED)
    def test_reserved_keys(self, generator, tmp_path, key):
        with pytest.raises(ValueError, match=rf"Expected a card without the keys .* Received \['{key}'\]"):
            weights.save(generator, tmp_path / "new", card={key: 1, "data": "x"})
        assert not (tmp_path / "new").exists()

    @pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
    @pytest.mark.parametrize(
        ("value", "dtype", "message"),
        [
            (np.nan, "float32", r"Expected finite weights that float32 can hold\. Received NaN"),
            (1e5, "float16", "Expected finite weights that float16 can hold"),
            (1e30, "float32", r"Expected weights of up to 1e\+06\. Received 1e\+30"),
        ],
    )
    def test_weights_out_of_bounds(self, tmp_path, value, dtype, message):
        broken = make_generator()
        broken.set_weights([np.full_like(w, value) for w in broken.get_weights()])
        with pytest.raises(ValueError, match=message):
            weights.save(broken, tmp_path, dtype=dtype)
        assert not list(tmp_path.iterdir())


class TestLoadErrors:
    def test_nothing_there(self, tmp_path):
        expected = rf"Expected one of \[.*\] or a folder with a card\.json\. Received '{tmp_path / 'none'}'\."
        with pytest.raises(FileNotFoundError, match=expected):
            weights.load(tmp_path / "none")

    def test_a_run_points_to_its_weights(self, generator, tmp_path):
        weights.save(generator, tmp_path / "run" / "last")
        with pytest.raises(FileNotFoundError, match=rf"its weights are in {tmp_path / 'run' / 'last'}\."):
            weights.load(tmp_path / "run")

    @pytest.mark.parametrize(
        "text",
        ["{", "[1]", "null", "{}", '{"format": 1}', '{"format": 2}', "\x00", "[" * 10**6, '{"x":' * 10**5, "1" * 2**25],
        ids=lambda text: text[:12],
    )
    def test_what_is_no_card(self, folder, text):
        (folder / "card.json").write_text(text)
        with pytest.raises(ValueError, match=r"Expected a card of format 2\. Received .*card\.json"):
            weights.load(folder)

    @pytest.mark.parametrize("key", ["architecture", "config", "parameters", "weights", "sha256"])
    @pytest.mark.parametrize("value", [None, ["compact"]])
    def test_a_card_that_lacks_something(self, folder, key, value):
        edit(folder, sign=False, **{key: value})
        with pytest.raises(ValueError, match=rf"Expected a card of format 2\. Received .*{key} is "):
            weights.load(folder)

    @pytest.mark.parametrize(
        "changes",
        [
            {"config": {**CONFIG, "output_noise": 0.99}},
            {"config": {**CONFIG, "seed": 4}},
            {"config": {**CONFIG, "sigmas": [0.0, 1.5]}},
            {"parameters": 1},
        ],
    )
    def test_a_card_that_was_changed(self, folder, changes):
        """The same tensors would be another function."""
        edit(folder, sign=False, **changes)
        with pytest.raises(ValueError, match=r"Expected architecture, config, parameters and weights with SHA-256 "):
            weights.load(folder)

    def test_a_missing_weights_file(self, folder):
        file = weights_file(folder)
        file.unlink()
        with pytest.raises(FileNotFoundError, match=f"Expected the weights file {file.name}, which the card names"):
            weights.load(folder)

    @pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"\x00", lambda b: b[:-9] + b"\x01" + b[-8:]])
    def test_a_damaged_weights_file(self, folder, damage):
        file = weights_file(folder)
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(ValueError, match=rf"Expected {file.name} .* Received .*: the file is corrupted"):
            weights.load(folder)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: b"no safetensors" * 9999, "to be a safetensors file"),
            (lambda a: {**a, "000": np.full_like(a["000"], np.nan)}, "Expected finite weights"),
            (lambda a: {**a, "000": np.full_like(a["000"], 1e30)}, r"Expected weights of up to 1e\+06"),
            (lambda a: {k: v.astype(np.float64) for k, v in a.items()}, r"float32. Received .* \['float64'\]"),
            (lambda a: {**a, "more": np.ones(1, np.float32)}, "Expected .* to hold .* float32"),
            (lambda a: {k: v.reshape(-1) for k, v in a.items()}, r"Expected the weights of compact\("),
        ],
        ids=["text", "nan", "large", "float64", "more", "flat"],
    )  # fmt: skip
    def test_a_weights_file_of_something_else(self, folder, change, message):
        changed = change(safetensors.numpy.load(weights_file(folder).read_bytes()))
        put(folder, changed if isinstance(changed, bytes) else safetensors.numpy.save(changed))
        with pytest.raises(ValueError, match=message):
            weights.load(folder)

    @pytest.mark.parametrize("entry", [{"dtype": "float16"}, {"bytes": 10}, {"dtype": "int8"}, {"file": "../x"}])
    def test_what_the_card_says_of_the_file(self, folder, entry):
        declared = json.loads((folder / "card.json").read_text())["weights"]
        edit(folder, weights={**declared, **entry})
        with pytest.raises(ValueError, match="Expected"):
            weights.load(folder)

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture": "unet256", "config": {"filters": 1}},
            {"architecture": "unet256", "config": {"filters": 10**6}},
            *(
                {"config": {**CONFIG, **config}}
                for config in (
                    {"widths": [8, 16]},
                    {"blocks": [1, 1]},
                    {"unknown": 1},
                    {"widths": [10**6] * 2},
                    {"widths": "ab"},
                    {"blocks": [100_000, 1]},
                    {"sigmas": [0, 1e6]},
                    {"sigmas": [64.0] * 16, "factor": 16},
                    {"factor": 1e200},
                    {"seed": -1},
                )
            ),
            {"config": {key: value for key, value in CONFIG.items() if key != "raw_base"}},
        ],
        ids=str,
    )
    def test_weights_of_another_network(self, folder, changes):
        """However large the network would be, nothing is built of it."""
        edit(folder, **changes)
        with pytest.raises(ValueError, match=r"Expected the weights of \w+\(.*\)\. Received generator-"):
            weights.load(folder)

    def test_another_architecture(self, folder):
        edit(folder, architecture="resnet")
        expected = r"Expected weights of an architecture in \['compact', 'unet256'\]\. Received those of 'resnet'"
        with pytest.raises(ValueError, match=expected):
            weights.load(folder)


@pytest.mark.parametrize(
    ("network", "left_out"),
    [
        (lambda: CompactGenerator(**{**CONFIG, "raw_input": True, "raw_base": True}), lambda w: w.ndim == 1),
        (lambda: CompactGenerator(widths=(8, 4, 6), blocks=(1, 2, 3), sigmas=(0.5,)), lambda w: w.ndim == 1),
        (lambda: UNet256Generator(filters=3), lambda w: w.ndim == 1),
        (lambda: EDSR(blocks=3, features=4, upsampler="pixelshuffledirect"), lambda w: w.ndim == 1 or w.shape[3] == 12),
        (lambda: EDSR(blocks=2, features=4), lambda w: w.ndim == 1 or w.shape[3] in (16, 3)),
    ],
)
def test_the_least_parameters_are_those_of_the_kernels(network, left_out):
    network = network()
    expected = sum(w.size for w in network.get_weights() if not left_out(w))
    assert network.least_parameters(network.get_config()) == expected


class TestShipped:
    def test_names(self, generator, tmp_path, monkeypatch):
        monkeypatch.setattr(weights, "_PRETRAINED", tmp_path)
        assert weights.pretrained_names() == []
        for name in ("b", "a"):
            weights.save(generator, tmp_path / name)
        (tmp_path / "not_weights").mkdir()
        assert weights.pretrained_names() == ["a", "b"]
        assert_equal(weights.load("b")[0], generator)
        with pytest.raises(FileNotFoundError, match=r"Expected one of \['a', 'b'\] or a folder .* Received 'c'"):
            weights.load("c")

    def test_a_folder_of_a_shipped_name(self, generator, tmp_path, monkeypatch):
        """Which of the two is meant has to be said; a working folder is not where the default looks."""
        monkeypatch.chdir(tmp_path)
        weights.save(generator, "compact")
        with pytest.raises(ValueError, match=r"Expected one meaning of 'compact'\. Received two: .* '\./compact'"):
            VersatilePurifier.from_pretrained("compact")
        for named in ("./compact", Path("compact")):
            assert_equal(VersatilePurifier.from_pretrained(named).generator, generator)
        assert VersatilePurifier().generator.count_params() != generator.count_params()

    def test_networks_of_another_registry_are_kept_apart(self, generator, tmp_path, monkeypatch):
        monkeypatch.setattr(weights, "_PRETRAINED", tmp_path)
        others = {"other": CompactGenerator}
        weights.save(generator, tmp_path / "a")
        monkeypatch.setattr(CompactGenerator, "architecture", "other")
        weights.save(generator, tmp_path / "b", networks=others)
        assert (weights.pretrained_names(), weights.pretrained_names(others)) == (["a"], ["b"])
        assert weights.load("b", others)[1]["architecture"] == "other"
        for name, networks in (("b", None), ("a", others)):
            with pytest.raises(FileNotFoundError, match=f"Received '{name}'"):
                weights.load(name, networks)
            with pytest.raises(ValueError, match=r"Expected weights of an architecture in .* Received those of"):
                weights.load(tmp_path / name, networks)

    def test_each_loads(self):
        for networks in (None, NETWORKS):
            for name in weights.pretrained_names(networks):
                network, card = weights.load_shipped(name, networks)
                assert network.count_params() == card["parameters"]
                assert np.isfinite(network.predict_on_batch(np.full((1, 64, 64, 3), 0.5, np.float32))).all()

    def test_the_shipped_purifier_looks_at_the_image(self):
        """A network of dead units answers with one constant mixture, whatever the image."""
        generator, _ = weights.load_shipped("compact")
        head = [layer for layer in generator.layers if isinstance(layer, keras.layers.Conv2D)][-1]
        probe = keras.Model(generator.input, [head.input, head.output])
        images = np.stack([skimage.data.astronaut()[:128, 64:192], skimage.data.astronaut()[128:256, 128:256]])
        features, answer = (np.asarray(part) for part in probe(images.astype(np.float32) / 255))
        assert (features.std(axis=(0, 1, 2)) > 0.1 * features.std()).mean() > 0.5
        assert answer.std(axis=(0, 1, 2)).mean() > 0.05
