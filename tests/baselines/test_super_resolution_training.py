"""Training on tiny images; PSNR against scikit-image."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from art_versatile import weights
from art_versatile.baselines import SuperResolution
from art_versatile.baselines import super_resolution_training as training
from art_versatile.baselines._edsr import NETWORKS, build_network
from art_versatile.baselines.super_resolution_training import super_resolution_psnr, train_super_resolution

SETTINGS = {"steps": 12, "steps_per_epoch": 4, "patch": 8, "batch_size": 4, "learning_rate": 5e-3, "verbose": False}


def tiny_network(seed=0):
    return build_network("small", blocks=1, features=8, seed=seed)


@pytest.fixture(scope="module")
def edges():
    """Eight images of discs, (33, 40, 3) float: sharp edges, which bicubic interpolation blurs."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:33, :40]
    images = []
    for _ in range(8):
        image = np.tile(rng.uniform(0, 1, 3), (33, 40, 1))
        for _ in range(6):
            inside = np.hypot(rows - rng.uniform(0, 33), columns - rng.uniform(0, 40)) < rng.uniform(4, 12)
            image[inside] = rng.uniform(0, 1, 3)
        images.append(image.astype(np.float32))
    return images


@pytest.fixture(scope="module")
def trained(edges, tmp_path_factory):
    """One short run, which several tests look at: (network, history, folder)."""
    folder = tmp_path_factory.mktemp("run") / "weights"
    settings = {**SETTINGS, "steps": 180, "steps_per_epoch": 60}
    network, history = train_super_resolution(
        edges, folder, network=tiny_network(), validation=edges, card={"training": {"data": "discs"}}, **settings
    )
    return network, history, folder


class TestPsnr:
    def test_against_scikit_image(self, edges):
        network = tiny_network()
        rng = np.random.default_rng(0)
        network.set_weights([w + rng.normal(0, 0.02, w.shape) for w in network.get_weights()])
        by_network, by_bicubic = super_resolution_psnr(network, edges)
        assert by_network.shape == by_bicubic.shape == (8,)
        for image, ours, bicubic in zip(edges, by_network, by_bicubic, strict=True):
            large = Image.fromarray((image[:32] * 255).round().astype(np.uint8))
            # Channel by channel in 32-bit floats: on 8 bits Pillow rounds between rows and columns.
            planes = [
                np.asarray(Image.fromarray(plane.astype(np.float32)).resize((20, 16), Image.Resampling.BICUBIC))
                for plane in np.moveaxis(np.asarray(large), 2, 0)
            ]
            small = np.clip(np.round(np.stack(planes, -1)), 0, 255).astype(np.float32)[None] / 255
            reference = np.asarray(large).astype(np.float32) / 255
            doubled = np.clip(tf.image.resize(small, (32, 40), "bicubic")[0], 0, 1)
            assert bicubic == pytest.approx(peak_signal_noise_ratio(reference, doubled, data_range=1), abs=0.05)
            answer = np.clip(network(small)[0], 0, 1)
            assert ours == pytest.approx(peak_signal_noise_ratio(reference, answer, data_range=1), abs=0.05)

    def test_an_untrained_small_network_is_bicubic(self, edges):
        by_network, by_bicubic = super_resolution_psnr(tiny_network(), edges)
        np.testing.assert_allclose(by_network, by_bicubic, atol=1e-3)

    def test_bytes_and_floats_and_files_are_the_same(self, edges, tmp_path):
        as_bytes = [(image * 255).round().astype(np.uint8) for image in edges]
        for i, image in enumerate(as_bytes):
            Image.fromarray(image).save(tmp_path / f"{i}.png")
        expected = super_resolution_psnr(tiny_network(), edges)
        np.testing.assert_array_equal(super_resolution_psnr(tiny_network(), as_bytes), expected)
        np.testing.assert_array_equal(super_resolution_psnr(tiny_network(), tmp_path), expected)


class TestPatches:
    def test_the_small_patch_is_the_large_one_halved(self):
        """On a linear ramp interpolation is exact: a small pixel is the mean of its four large ones."""
        rows, columns = np.mgrid[:64, :48].astype(np.float32)
        large = np.stack([3 * rows, 4 * columns, rows + columns], -1).round().astype(np.uint8)
        small = training._halved(large)
        assert small.shape == (32, 24, 3)
        x, y = training._patches([small], [large], 8, 16, np.random.default_rng(0))
        assert x.shape == (16, 8, 8, 3)
        assert y.shape == (16, 16, 16, 3)
        assert x.dtype == y.dtype == np.float32
        means = y.reshape(16, 8, 2, 8, 2, 3).mean((2, 4))
        # But for the edges of the image and the rounding to 8 bits.
        assert np.median(np.abs(means - x)) < 1 / 255
        # A quarter turn exchanges the channel that grows downwards with the one that grows sideways.
        downwards = np.sign((x[:, -1, 4] - x[:, 0, 4])[:, :2]).round()
        sideways = np.sign((x[:, 4, -1] - x[:, 4, 0])[:, :2]).round()
        assert len({tuple(np.concatenate(pair)) for pair in zip(downwards, sideways, strict=True)}) >= 6

    def test_a_draw_depends_on_its_generator_alone(self, edges):
        large = training._read(edges, 2)
        small = [training._halved(image) for image in large]
        first, again, other = (
            training._patches(small, large, 8, 4, np.random.default_rng(seed)) for seed in ([1, 5], [1, 5], [1, 6])
        )
        np.testing.assert_array_equal(first[1], again[1])
        assert not np.array_equal(first[1], other[1])


class TestTraining:
    def test_loss_falls_and_bicubic_is_beaten(self, trained):
        _, history, _ = trained
        assert len(history) == 3
        assert history[-1]["loss"] < 0.95 * history[0]["loss"]
        assert history[-1]["val_gain"] > 0.03  # untrained: 0

    def test_card(self, trained, edges):
        network, history, folder = trained
        card = json.loads((folder / "last" / "card.json").read_text())
        assert card["architecture"] == "edsr"
        assert card["training"] == {
            "images": 8,
            "low_resolution": "halved by antialiased bicubic interpolation (Keys, a = -0.5), rounded to 8 bits",
            "loss": "L1",
            "optimizer": "Adam, learning rate 0.005, cosine",
            "steps": 180,
            "patch": 8,
            "batch_size": 4,
            "augmentation": "flips and quarter turns",
            "seed": 0,
            "data": "discs",
        }
        by_network, by_bicubic = super_resolution_psnr(network, edges)
        figures = card["evaluation"]
        assert figures["n"] == 8
        assert figures["psnr"] == pytest.approx(by_network.mean(), abs=1e-2)
        assert figures["bicubic_psnr"] == pytest.approx(by_bicubic.mean(), abs=1e-2)
        assert figures["gain"] == pytest.approx(history[-1]["val_gain"], abs=1e-2)
        assert figures["images_better_than_bicubic"] == (by_network > by_bicubic).sum()

    def test_the_folder_is_a_network_of_the_defence(self, trained, edges):
        network, _, folder = trained
        x = np.stack(edges)
        assert {"last", "best", "checkpoints", "log.csv", "curves.png"} == {file.name for file in folder.iterdir()}
        loaded, direct = SuperResolution(folder / "last", sigma=0), SuperResolution(network, sigma=0)
        np.testing.assert_allclose(loaded(x)[0], direct(x)[0], atol=1e-6)

    def test_same_seed_same_weights(self, edges, tmp_path):
        def run(folder, seed):
            network, _ = train_super_resolution(
                edges, tmp_path / folder, network=tiny_network(), seed=seed, **{**SETTINGS, "steps": 4}
            )
            return np.concatenate([w.ravel() for w in network.get_weights()])

        np.random.seed(5)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        first, again, other = run("a", 1), run("b", 1), run("c", 2)
        np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
        np.testing.assert_allclose(first, again, atol=1e-6)
        assert np.abs(first - other).max() > 1e-3

    def test_an_interrupted_run_goes_on(self, edges, tmp_path, monkeypatch):
        """Killed in its second epoch, started again: the weights of a run that was not interrupted."""
        whole, _ = train_super_resolution(edges, tmp_path / "whole", network=tiny_network(), **SETTINGS)
        drawn, draw = [], training._patches

        def killed(*args):
            if len(drawn) == 6:
                raise RuntimeError("killed")
            drawn.append(args)
            return draw(*args)

        out = tmp_path / "two"
        monkeypatch.setattr(training, "_patches", killed)
        with pytest.raises((RuntimeError, tf.errors.OpError), match="killed"):
            train_super_resolution(edges, out, network=tiny_network(), **SETTINGS)
        monkeypatch.setattr(training, "_patches", draw)
        with pytest.raises(FileExistsError, match="Expected no run in"):
            train_super_resolution(edges, out, network=tiny_network(), **SETTINGS)
        with pytest.raises(ValueError, match="Received others: seed: 0 there, 9 now"):
            train_super_resolution(edges, out, network=tiny_network(), resume=True, seed=9, **SETTINGS)
        network, history = train_super_resolution(edges, out, network=tiny_network(), resume=True, **SETTINGS)
        assert [row["epoch"] for row in history] == [0, 1, 2]
        for a, b in zip(network.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        train_super_resolution(edges, out, network=tiny_network(), resume=True, **SETTINGS)  # finished: nothing to do
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before

    def test_float16_on_disk_is_what_comes_back(self, edges, tmp_path):
        settings = {**SETTINGS, "steps": 1}
        network, _ = train_super_resolution(edges, tmp_path, network=tiny_network(), dtype="float16", **settings)
        _, card = weights.load(tmp_path / "last", NETWORKS)
        assert card["weights"]["dtype"] == "float16"
        for w in network.get_weights():
            np.testing.assert_array_equal(w, w.astype(np.float16).astype(np.float32))

    @pytest.mark.parametrize(
        ("decay", "rate_at"),
        [
            ("cosine", {0: 5e-3, 6: 2.5e-3, 12: 0.0}),
            ("halving", {0: 5e-3, 199_999: 5e-3, 200_000: 2.5e-3, 400_000: 1.25e-3}),
        ],
    )
    def test_learning_rate(self, decay, rate_at):
        network = tiny_network()
        training._compile(network, 5e-3, decay, steps=12)
        for step, rate in rate_at.items():
            network.optimizer.iterations.assign(step)
            assert float(network.optimizer.learning_rate) == pytest.approx(rate, abs=1e-8)

    @pytest.mark.parametrize(("network", "rate"), [("edsr_baseline", 1e-4), ("small", 1e-3)])
    def test_presets(self, edges, tmp_path, network, rate):
        settings = {**SETTINGS, "learning_rate": None, "steps": 1, "batch_size": 1}
        made, _ = train_super_resolution(edges, tmp_path, network=network, seed=3, **settings)
        assert made.get_config() == build_network(network, seed=3).get_config()
        facts = json.loads((tmp_path / "last" / "card.json").read_text())["training"]
        assert f"learning rate {rate:g}" in facts["optimizer"]

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"steps": 0}, ValueError, "Expected steps to be an integer of at least 1. Received 0"),
            ({"steps": 10}, ValueError, "Expected steps to be a multiple of steps_per_epoch, 4. Received 10"),
            ({"patch": 17}, ValueError, r"Expected images .* of at least 34x34 pixels. Received \(33, 40, 3\)"),
            ({"patch": 1.5}, ValueError, "Expected patch to be an integer"),
            ({"batch_size": 0}, ValueError, "Expected batch_size"),
            ({"learning_rate": -1}, ValueError, "Expected learning_rate to be a positive finite number. Received -1"),
            ({"decay": "linear"}, ValueError, r"Expected decay to be one of \['cosine', 'halving'\]"),
            ({"dtype": "int8"}, ValueError, r"Expected dtype to be one of \['float32', 'float16'\]"),
            ({"network": "large"}, ValueError, r"Expected a network in \['edsr_baseline', 'small'\]"),
            ({"network": keras.Sequential()}, TypeError, "Expected network to be an EDSR or a name"),
            ({"images": []}, ValueError, "Expected at least one image. Received none"),
            ({"images": [np.zeros((40, 40, 3), int)]}, TypeError, "Expected images to be an array of floats"),
            ({"images": [np.full((40, 40, 3), 255.0)]}, ValueError, "Expected images inside clip_values"),
            ({"images": [np.zeros((40, 40, 4), np.uint8)]}, ValueError, "Expected images .*Received"),
        ],
        ids=str,
    )
    def test_errors_come_before_training(self, edges, tmp_path, kwargs, error, message):
        settings = {"images": edges, "network": tiny_network(), **SETTINGS, **kwargs}
        with pytest.raises(error, match=message):
            train_super_resolution(out=tmp_path / "out", **settings)
        assert not (tmp_path / "out").exists()
