from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage.data

from art_versatile import VersatilePurifier, weights
from art_versatile._version import __version__
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


def edit(folder, **changes):
    card = json.loads((folder / "card.json").read_text())
    card.update(changes)
    (folder / "card.json").write_text(json.dumps(card))


def weights_file(folder) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


class TestRoundTrip:
    def test_float32_is_exact(self, generator, folder):
        read, card = weights.load(folder)
        assert isinstance(read, CompactGenerator)
        assert read.get_config() == generator.get_config() == CONFIG
        for a, b in zip(read.get_weights(), generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
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
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32))

    def test_the_other_architecture(self, tmp_path):
        generator = UNet256Generator(filters=1, seed=5)
        read, card = weights.load(weights.save(generator, tmp_path / "unet"))
        assert card["architecture"] == "unet256"
        assert isinstance(read, UNet256Generator)
        for a, b in zip(read.get_weights(), generator.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16"])
    def test_keras_global_policy_does_not_count(self, generator, folder, policy):
        x = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
        expected, shipped = generator(x).numpy(), VersatilePurifier()(x)[0]
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            read, _ = weights.load(folder)
            assert keras.config.dtype_policy().name == policy
            assert {w.dtype for w in read.weights} == {"float32"}
            np.testing.assert_array_equal(read(x), expected)
            np.testing.assert_array_equal(VersatilePurifier()(x)[0], shipped)
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
        assert card == {
            "format": 1,
            "art_versatile": __version__,
            "architecture": "compact",
            "config": CONFIG,
            "parameters": generator.count_params(),
            "weights": {"file": file.name, "sha256": digest, "dtype": "float32", "bytes": file.stat().st_size},
            "data": "natural",
            "steps": 7,
        }
        assert set(weights.RESERVED) == set(card) - {"data", "steps"}
        assert weights.load(folder)[1] == card

    def test_saving_again_replaces(self, folder):
        old = weights_file(folder)
        other = make_generator(seed=4)
        weights.save(other, folder)
        assert not old.exists()
        assert sorted(f.name for f in folder.iterdir()) == sorted(["card.json", weights_file(folder).name])
        np.testing.assert_array_equal(weights.load(folder)[0].get_weights()[0], other.get_weights()[0])

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
        np.testing.assert_array_equal(weights.load(folder)[0].get_weights()[0], generator.get_weights()[0])


class TestSaveErrors:
    def test_dtype(self, generator, tmp_path):
        with pytest.raises(ValueError, match=r"Expected dtype to be one of \['float32', 'float16'\]\. Received 'int8'"):
            weights.save(generator, tmp_path, dtype="int8")

    def test_another_model(self, tmp_path):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="other")
        with pytest.raises(ValueError, match=r"Expected a generator made by build_generator .* Received 'other'"):
            weights.save(model, tmp_path)

    @pytest.mark.parametrize("key", weights.RESERVED)
    def test_reserved_keys(self, generator, tmp_path, key):
        with pytest.raises(ValueError, match=rf"Expected a card without the keys .* Received \['{key}'\]"):
            weights.save(generator, tmp_path / "new", card={key: 1, "data": "x"})
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_weights_that_are_not_finite(self, tmp_path, value):
        broken = make_generator()
        broken.set_weights([np.full_like(w, value) for w in broken.get_weights()])
        with pytest.raises(ValueError, match=r"Expected finite weights that float32 can hold\. Received NaN"):
            weights.save(broken, tmp_path)

    @pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
    def test_weights_beyond_float16(self, tmp_path):
        large = make_generator()
        large.set_weights([np.full_like(w, 1e5) for w in large.get_weights()])
        with pytest.raises(ValueError, match="Expected finite weights that float16 can hold"):
            weights.save(large, tmp_path, dtype="float16")
        weights.save(large, tmp_path)


class TestLoadErrors:
    def test_nothing_there(self, tmp_path):
        expected = rf"Expected one of \[.*\] or a folder with a card\.json\. Received '{tmp_path / 'none'}'"
        with pytest.raises(FileNotFoundError, match=expected):
            weights.load(tmp_path / "none")

    @pytest.mark.parametrize("text", ["{", "[1]", "null", "{}", '{"format": 1}', '{"format": 2}', "\x00"])
    def test_what_is_no_card(self, folder, text):
        (folder / "card.json").write_text(text)
        with pytest.raises(ValueError, match=r"Expected a card of format 1\. Received .*card\.json"):
            weights.load(folder)

    @pytest.mark.parametrize("key", ["architecture", "config", "weights"])
    def test_a_card_that_lacks_something(self, folder, key):
        card = json.loads((folder / "card.json").read_text())
        del card[key]
        (folder / "card.json").write_text(json.dumps(card))
        with pytest.raises(ValueError, match=rf"Expected a card of format 1\. Received .*KeyError\('{key}'\)"):
            weights.load(folder)

    def test_a_missing_weights_file(self, folder):
        file = weights_file(folder)
        file.unlink()
        with pytest.raises(FileNotFoundError, match=f"Expected the weights file {file.name}, which the card names"):
            weights.load(folder)

    @pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"\x00", lambda b: b[:-9] + b"\x01" + b[-8:]])
    def test_a_damaged_weights_file(self, folder, damage):
        file = weights_file(folder)
        block = file.read_bytes()
        file.write_bytes(damage(block))
        assert file.read_bytes() != block
        digest = hashlib.sha256(block).hexdigest()
        expected = rf"Expected {file.name} with SHA-256 {digest}\. Received .*: the file is corrupted"
        with pytest.raises(ValueError, match=expected):
            weights.load(folder)

    def test_a_weights_file_that_is_none(self, folder):
        file = weights_file(folder)
        file.write_bytes(b"no safetensors")
        entry = {"file": file.name, "sha256": hashlib.sha256(b"no safetensors").hexdigest()}
        edit(folder, weights=entry)
        with pytest.raises(ValueError, match=rf"Expected the weights of compact\(.*\)\. Received {file.name}"):
            weights.load(folder)

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture": "unet256", "config": {"filters": 1}},
            {"config": {**CONFIG, "widths": [8, 16]}},
            {"config": {**CONFIG, "blocks": [1, 1]}},
            {"config": {**CONFIG, "unknown": 1}},
            {"config": {key: value for key, value in CONFIG.items() if key != "raw_base"}},
        ],
    )
    def test_weights_of_another_network(self, folder, changes):
        edit(folder, **changes)
        with pytest.raises(ValueError, match=r"Expected the weights of \w+\(.*\)\. Received generator-"):
            weights.load(folder)

    @pytest.mark.parametrize("name", ["resnet", ["compact"], None])
    def test_another_architecture(self, folder, name):
        edit(folder, architecture=name)
        expected = r"Expected weights of an architecture in \['compact', 'unet256'\]\. Received those of "
        with pytest.raises(ValueError, match=expected + re.escape(repr(name))):
            weights.load(folder)

    def test_the_card_names_a_file_of_its_own_folder_only(self, folder, tmp_path):
        file = weights_file(folder)
        file.rename(tmp_path / file.name)
        card = json.loads((folder / "card.json").read_text())
        edit(folder, weights={**card["weights"], "file": f"../{file.name}"})
        with pytest.raises(FileNotFoundError, match=f"Expected the weights file {re.escape(file.name)}"):
            weights.load(folder)


class TestShipped:
    def test_names(self, generator, tmp_path, monkeypatch):
        monkeypatch.setattr(weights, "_PRETRAINED", tmp_path)
        assert weights.pretrained_names() == []
        for name in ("b", "a"):
            weights.save(generator, tmp_path / name)
        (tmp_path / "not_weights").mkdir()
        assert weights.pretrained_names() == ["a", "b"]
        np.testing.assert_array_equal(weights.load("b")[0].get_weights()[0], generator.get_weights()[0])
        with pytest.raises(FileNotFoundError, match=r"Expected one of \['a', 'b'\] or a folder .* Received 'c'"):
            weights.load("c")

    def test_networks_of_another_registry_are_kept_apart(self, generator, tmp_path, monkeypatch):
        monkeypatch.setattr(weights, "_PRETRAINED", tmp_path)
        others = {"other": CompactGenerator}
        weights.save(generator, tmp_path / "a")
        monkeypatch.setattr(CompactGenerator, "architecture", "other")
        weights.save(generator, tmp_path / "b", networks=others)
        assert (weights.pretrained_names(), weights.pretrained_names(others)) == (["a"], ["b"])
        read, card = weights.load("b", others)
        assert card["architecture"] == "other"
        np.testing.assert_array_equal(read.get_weights()[0], generator.get_weights()[0])
        for name, networks in (("b", None), ("a", others)):
            with pytest.raises(FileNotFoundError, match=f"Received '{name}'"):
                weights.load(name, networks)
            with pytest.raises(ValueError, match=r"Expected weights of an architecture in .* Received those of"):
                weights.load(tmp_path / name, networks)

    @pytest.mark.parametrize("name", weights.pretrained_names())
    def test_each_loads(self, name):
        generator, card = weights.load(name)
        assert generator.count_params() == card["parameters"]
        assert np.isfinite(generator.predict_on_batch(np.full((1, 64, 64, 3), 0.5, np.float32))).all()

    def test_the_shipped_purifier_looks_at_the_image(self):
        """A network of dead units answers with one constant mixture, whatever the image."""
        generator, _ = weights.load("compact")
        head = [layer for layer in generator.layers if isinstance(layer, keras.layers.Conv2D)][-1]
        probe = keras.Model(generator.input, [head.input, head.output])
        images = np.stack([skimage.data.astronaut()[:128, 64:192], skimage.data.astronaut()[128:256, 128:256]])
        features, answer = (np.asarray(part) for part in probe(images.astype(np.float32) / 255))
        assert (features.std(axis=(0, 1, 2)) > 0.1 * features.std()).mean() > 0.5
        assert answer.std(axis=(0, 1, 2)).mean() > 0.05
