from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import sys

import keras
import numpy as np
import pytest

from art_versatile import VersatilePurifier
from art_versatile.experiments.targets import attacked_classifier
from art_versatile.images import load_images
from art_versatile.pairs import PairStore, generate_pairs
from art_versatile.pix2pix import UNet256Generator
from art_versatile.training import PRESETS


@pytest.fixture(scope="module")
def make_store(tiny, colourful):
    def make(path, size, count=6):
        def build():
            chosen = {"names": ("FGSM", "PGD"), "budgets": {"0.1": 0.1}, "max_iter": 2, "effort": "quick"}
            return attacked_classifier(str(tiny), size, **chosen)

        images = load_images(colourful(path / "images", count, size), size)
        return generate_pairs(images, None, build, path / "store", verbose=False).path

    return make


@pytest.fixture(scope="module")
def store(make_store, tmp_path_factory):
    """Six pairs of 32x32, made once."""
    return make_store(tmp_path_factory.mktemp("pairs"), 32)


@pytest.fixture
def pictures(colourful, tmp_path):
    return colourful(tmp_path / "pictures", 4, 40)


@pytest.fixture
def small(tiny, weights):
    """Options of a quick run."""
    return ("--classifier", tiny, "--crop", 32, "--batch-size", 3, "--epochs", 1, "--no-adversarial",
            "--weights", weights)  # fmt: skip


def card(run):
    return json.loads((run / "last" / "card.json").read_text())


class TestPairs:
    def test_at_several_budgets(self, run, colourful, tiny, tmp_path):
        """Each attack at each budget; C&W, which has none, once."""
        command = ("pairs", colourful(tmp_path / "images", 5, 32), "--out", tmp_path / "store", "--attacks", "FGSM,C&W",
                   "--eps", "4/255, 16/255", "--split", 2, "--effort", "quick", "--classifier", tiny,
                   "--image-size", 32)  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        store = PairStore(tmp_path / "store")
        assert store.attacks == ("FGSM 4/255", "C&W", "FGSM 16/255")
        assert sum(store.counts.values()) == 10
        assert store.manifest["parameters"]["classifier"]["name"] == "tiny"
        pairs = store.arrays()
        change = np.abs(pairs.adversarial - pairs.clean).max(axis=(1, 2, 3))
        for name, budget in (("FGSM 4/255", 4 / 255), ("FGSM 16/255", 16 / 255)):
            np.testing.assert_allclose(change[pairs.indices == store.attacks.index(name)], budget, atol=5e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--eps", "8/255,8/255"), "Expected different budgets"),
            (("--effort", "full"), "effort"),
            (("--attacks", "x"), "names"),
            (("--split", "some"), "split"),
            (("--dtype", "int8"), "dtype"),
            (("--classifier", "missing"), "classifier"),
            (("--labels", "missing.csv"), "missing.csv"),
        ],
    )
    def test_refused(self, refuses, pictures, tiny, arguments, message):
        assert message in refuses(("pairs", pictures, "--classifier", tiny), *arguments)


class TestTrain:
    def test_run_and_resume(self, run, store, weights, tiny, tmp_path):
        out = tmp_path / "run"
        command = ("train", "--pairs", store, "--out", out, "--weights", weights, "--epochs", 2, "--schedule",
                   "1:100:20,1:100:1", "--validation", store, "--validation-limit", 4, "--clean-share", 0.5,
                   "--learning-rate", 0.001, "--seed", 3, "--classifier", tiny, "--crop", 32)  # fmt: skip
        result = run(*command, "--batch-size", 3)
        assert result.exit_code == 0, result.output
        assert f"2 epochs; weights in {out / 'last'} and {out / 'best'}" in result.output
        with (out / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2
        assert {"pixel", "perceptual", "adversarial", "val_recovered_accuracy", "val_accuracy/PGD"} < set(rows[0])
        purifier = VersatilePurifier.from_pretrained(out / "last")
        start = VersatilePurifier.from_pretrained(weights).generator.get_weights()
        assert any(not np.array_equal(a, b) for a, b in zip(start, purifier.generator.get_weights(), strict=True))
        facts = purifier.card["training"]
        assert facts["schedule"] == [[1, 100.0, 20.0], [1, 100.0, 1.0]]
        assert (facts["seed"], facts["clean_share"], facts["learning_rate"]) == (3, 0.5, 0.001)
        assert (facts["crop"], facts["batch_size"], facts["pairs"]) == (32, 3, 6)
        # What was trained further, not what the preset would have built.
        assert (facts["architecture"], facts["generator_options"]["widths"]) == ("compact", [8, 8])
        origin = json.loads((weights / "card.json").read_text())["weights"]
        assert purifier.card["initial_weights"] == {"name": "weights", "sha256": origin["sha256"]}
        assert str(tmp_path) not in json.dumps(purifier.card)
        assert [attack["name"] for attack in purifier.card["pairs"]["attacks"]] == ["FGSM", "PGD"]

        again = run(*command, "--batch-size", 3)
        assert again.exit_code == 2
        assert "Expected no run in" in again.output
        assert run(*command, "--batch-size", 3, "--resume").exit_code == 0
        other = run(*command, "--batch-size", 2, "--resume")
        assert other.exit_code == 2
        assert "batch_size: 3 there, 2 now" in other.output

    def test_from_images(self, run, pictures, small, tmp_path):
        """Attack, then train, in one command; a second call takes the pairs that are there."""
        command = ("train", "--images", pictures, "--out", tmp_path / "run", "--attacks", "FGSM,PGD", "--eps", "8/255",
                   "--image-size", 32, *small)  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        made = PairStore(tmp_path / "run" / "pairs")
        kept = made.arrays()
        assert (made.attacks, len(made), made.image_shape) == (("FGSM", "PGD"), 4, (32, 32, 3))
        assert 0.5 * 8 / 255 < np.abs(kept.adversarial - kept.clean).max() <= 8 / 255 + 1e-3
        assert card(tmp_path / "run")["training"]["discriminator"] is None
        assert not (tmp_path / "run" / "best").exists()
        assert run(*command, "--resume").exit_code == 0

    def test_several_stores_and_one_attack(self, run, store, small, tmp_path):
        command = ("train", "--pairs", store, "--pairs", store, *small)
        result = run(*command, "--only", "PGD", "--out", tmp_path / "run")
        assert result.exit_code == 0, result.output
        facts = card(tmp_path / "run")
        assert facts["training"]["pairs"] == 2 * PairStore(store).counts["PGD"] == 6
        assert facts["only"] == ["PGD"]
        assert [entry["images"] for entry in facts["pairs"]] == [6, 6]
        unknown = run(*command, "--only", "BIM", "--out", tmp_path / "other")
        assert unknown.exit_code == 2
        assert "Received 'BIM'" in unknown.output
        assert not (tmp_path / "other").exists()

    @pytest.mark.parametrize("mode", [("--fresh",), ("--inner", "fgsm"), ("--inner", "gaussian", "--sigma", 0.1)])
    def test_on_what_is_made_while_training(self, run, pictures, store, tiny, weights, tmp_path, mode):
        """Two folders, two classifiers; the time is over after the first epoch, and the run goes on."""
        other = tmp_path / "other.keras"
        shutil.copy(tiny, other)
        command = ("train", "--images", pictures, "--images", pictures, "--out", tmp_path / "run", *mode,
                   "--classifier", tiny, "--classifier", other, "--sides", "32,40", "--epoch-pairs", 8, "--batch-size",
                   4, "--weights", weights, "--epochs", 2, "--no-adversarial", "--validation", store,
                   "--eps", "4/255")  # fmt: skip
        result = run(*command, "--minutes", 1e-6)
        assert result.exit_code == 0, result.output
        assert "1 epochs; weights in" in result.output
        facts = card(tmp_path / "run")
        assert facts["pairs"]["classifiers"] == ["tiny", "other"]
        assert facts["training"]["perceptual"].startswith("RandomPerceptualLoss([PerceptualLoss('tiny'")
        assert (facts["training"]["inner"] or {}).get("class") == {
            "--fresh": None, "fgsm": "InnerAttack", "gaussian": "GaussianNoise",
        }[mode[min(1, len(mode) - 1)]]  # fmt: skip
        again = run(*command, "--resume")
        assert again.exit_code == 0, again.output
        assert "2 epochs" in again.output

    def test_watched_and_begun_with_pixels_alone(self, run, colourful, tiny, weights, tmp_path):
        """PGD on held images, in log and card; the first epochs have an optimizer and a folder of their own."""
        pictures, held = colourful(tmp_path / "pictures", 4, 40), colourful(tmp_path / "held", 5, 48)
        command = ("train", "--inner", "fgsm", "--images", pictures, "--out", tmp_path / "run", "--classifier", tiny,
                   "--sides", 32, "--epoch-pairs", 4, "--batch-size", 4, "--weights", weights, "--epochs", 2,
                   "--no-adversarial", "--eps", "4/255", "--eps-start", 0.25, "--raise-at", 0.0, "--pixel-start", 1,
                   "--watch", held, "--watch-eps", "8/255", "--watch-images", 3, "--image-size", 48,
                   "--features", "none")  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert f"{tmp_path / 'run' / 'last'} and {tmp_path / 'run' / 'best'}" in result.output
        with (tmp_path / "run" / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        # Raised each time, as anything is at least 0.
        assert [float(row["val_eps"]) for row in rows] == pytest.approx([1 / 255, 1.5 / 255])
        facts = card(tmp_path / "run")
        assert [row["val_pgd_accuracy"] for row in facts["measured"]] == [float(r["val_pgd_accuracy"]) for r in rows]
        watch = facts["training"]["watch"]
        assert (watch["eps"], watch["images"], watch["classifier"]) == (pytest.approx(8 / 255), 3, "tiny")
        assert facts["pixel_start"] == 1
        start = card(tmp_path / "run" / "start")["training"]
        assert (start["schedule"], start["watch"], start["inner"]["raise_at"]) == ([[1, 300.0, 0.0]], None, None)

    @pytest.mark.slow
    @pytest.mark.parametrize("features", ["classifier", "vgg19"])
    def test_the_papers_preset(self, run, make_store, tiny, tmp_path, features):
        """U-Net-256 and PatchGAN at 256x256, one step, over the classifier or over VGG19 with weights from a file."""
        small = VersatilePurifier(UNet256Generator(filters=2)).save(tmp_path / "weights")
        network = keras.applications.VGG19(include_top=False, weights=None)
        network.save_weights(tmp_path / "vgg19.weights.h5")
        result = run(
            "train", "--pairs", make_store(tmp_path, 256, count=2), "--out", tmp_path / "run", "--preset", "paper",
            "--weights", small, "--features", features, "--classifier", tiny, "--vgg19-weights",
            tmp_path / "vgg19.weights.h5", "--epochs", 1, "--steps-per-epoch", 1,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        facts = card(tmp_path / "run")["training"]
        assert facts["perceptual"].startswith(f"PerceptualLoss({'vgg19' if features == 'vgg19' else 'tiny'!r}")
        assert (facts["architecture"], facts["discriminator"], facts["batch_size"]) == ("unet256", 64, 1)
        assert facts["features_options"] == ({"weights": "vgg19.weights.h5"} if features == "vgg19" else {})

    def test_a_loss_that_is_not_finite(self, run, store, small, tmp_path):
        result = run("train", "--pairs", store, "--out", tmp_path / "run", "--learning-rate", 1e38, *small)
        assert result.exit_code == 2
        assert "error: Expected finite losses and weights. Received" in result.output
        assert not (tmp_path / "run" / "last").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "either --pairs or --images"),
            (("--pairs", "a", "--images", "b"), "either --pairs or --images"),
            (("--pairs", "missing"), "Expected a store of pairs at 'missing'"),
            (("--images", "missing"), "Expected an image file or a folder"),
            (("--images", "IMAGES", "--only", "PGD"), "--only with --pairs"),
            (("--pairs", "STORE", "--validation", "missing"), "Expected a store of pairs at 'missing'"),
            (("--pairs", "STORE", "--schedule", "40:100"), "Expected stages epochs:pixel:perceptual"),
            (("--pairs", "STORE", "--schedule", "0:1:1"), "Expected epochs"),
            (("--pairs", "STORE", "--preset", "big"), "preset"),
            (("--pairs", "STORE", "--features", "vgg"), "features"),
            (("--pairs", "STORE", "--weights", "missing"), "weights"),
            (("--pairs", "STORE", "--precision", "half"), "precision"),
            (("--pairs", "STORE", "--vgg19-weights", "missing.h5"), "--vgg19-weights"),
            (("--pairs", "STORE", "--fresh"), "--images with --fresh"),
            (("--images", "IMAGES", "--fresh", "--inner", "pgd"), "either --fresh or --inner"),
            (("--images", "IMAGES", "--inner", "cw"), "inner"),
            (("--images", "IMAGES", "--fresh", "--crop", 32), "--crop"),
            (("--images", "IMAGES", "--inner", "fgsm", "--raise-at", 0.5), "--raise-at with --watch"),
            (("--images", "IMAGES", "--inner", "fgsm", "--watch", "IMAGES"), "--watch to hold other images"),
            (("--images", "IMAGES", "--inner", "fgsm", "--watch", "missing"), "missing"),
            (("--images", "IMAGES", "--inner", "fgsm", "--watch-eps", "2"), "Expected eps to be a share"),
            (("--pairs", "STORE", "--pixel-start", 2), "--pixel-start with --fresh or --inner"),
            (("--images", "IMAGES", "--feature-network", "vgg16=x"), "--feature-network"),
            (("--images", "IMAGES", "--fresh", "--feature-network", "vgg16=x"), "Received 'x'"),
            (("--images", "IMAGES", "--fresh", "--feature-network", "vgg=x"), "feature-network"),
            (("--images", "IMAGES", "--fresh", "--sides", "8"), "sides"),
            (("--images", "IMAGES", "--classifier", "efficientnet_lite0"), "one --classifier"),
            (("--images", "IMAGES", "--fresh", "--classifier", "TINY"), "different names"),
        ],
    )
    def test_refused(self, refuses, store, pictures, tiny, arguments, message):
        known = {"STORE": store, "IMAGES": pictures, "TINY": tiny}
        given = [known.get(argument, argument) for argument in arguments]
        assert message in refuses(("train", "--classifier", tiny), *given)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--monitor", "x", "--validation", "STORE"), "monitor"),
            (("--patience", 2), "validation pairs or a watch with patience"),
            (("--crop", 28), "in multiples of 8 pixels for compact"),
            (("--clean-share", 2), "clean_share"),
            (("--tensorboard",), "Expected the package tensorboard"),
            (("--minutes", 0), "minutes"),
            (("--eps", "two"), "Expected a number such as 0.03 or 8/255"),
            (("--effort", "full"), "effort"),
        ],
    )
    def test_refused_before_images_are_attacked(self, refuses, store, pictures, small, monkeypatch, arguments, message):
        monkeypatch.setattr("art_versatile.pairs.generate_pairs", lambda *_, **__: pytest.fail("an attack"))
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        given = [store if argument == "STORE" else argument for argument in arguments]
        assert message in refuses(("train", "--images", pictures, "--image-size", 32), *small, *given)

    def test_a_run_is_found_before_images_are_attacked(self, run, pictures, tiny, tmp_path, monkeypatch):
        monkeypatch.setattr("art_versatile.pairs.generate_pairs", lambda *_, **__: pytest.fail("an attack"))
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
        (tmp_path / "checkpoints" / "ckpt-1.index").touch()
        result = run("train", "--images", pictures, "--out", tmp_path, "--classifier", tiny)
        assert result.exit_code == 2
        assert "resume=True goes on with it" in result.output

    @pytest.mark.parametrize("damaged", ["--pairs", "--validation"])
    def test_a_damaged_shard(self, run, store, small, tmp_path, damaged):
        """TensorFlow's error, in one line."""
        shutil.copytree(store, tmp_path / "store")
        shard = sorted((tmp_path / "store").rglob("*.tfrecord"))[0]
        content = bytearray(shard.read_bytes())
        content[100] ^= 255
        shard.write_bytes(content)
        stores = {"--pairs": store, "--validation": store, damaged: tmp_path / "store"}
        result = run(
            "train", "--out", tmp_path / "run", *small, *[part for option in stores.items() for part in option]
        )
        assert result.exit_code == 2, result.output
        (line,) = [line for line in result.output.splitlines() if "error" in line.lower()]
        assert re.fullmatch(r"error: DataLossError: corrupted record at \d+; the command pairs, called again .*", line)


def test_compare_schedules(run, store, tiny, tmp_path, monkeypatch):
    # The preset's own generator is large for a test.
    preset = dataclasses.replace(PRESETS["compact"], generator_options={"widths": (8,), "blocks": (1,)})
    monkeypatch.setitem(PRESETS, "compact", preset)
    command = ("compare-schedules", "--validation", store, "--out", tmp_path, "--epochs", 3, "--steps-per-epoch", 1,
               "--classifier", tiny, "--crop", 32, "--batch-size", 3)  # fmt: skip
    result = run(*command, "--pairs", store)
    assert result.exit_code == 0, result.output
    assert "recovered accuracy, %" in result.output
    assert {f.name for f in tmp_path.iterdir()} == {"multi-step", "fixed", "schedules.json"}
    missing = run(*command, "--pairs", "missing")
    assert missing.exit_code == 2
    assert "Expected a store of pairs" in missing.output


class TestTrainSuperResolution:
    def test_run(self, run, colourful, tmp_path):
        images = colourful(tmp_path / "images", 2, 48)
        command = ("train-super-resolution", images, "--out", tmp_path / "run", "--steps", 2, "--patch", 16,
                   "--batch-size", 2, "--steps-per-epoch", 1)  # fmt: skip
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert "2 epochs; weights in" in result.output
        assert (tmp_path / "run" / "last" / "card.json").is_file()
        assert run(*command).exit_code == 2
        assert run(*command, "--resume").exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--network", "large"), "network"),
            (("--decay", "none"), "decay"),
            (("--dtype", "int8"), "dtype"),
            (("--validation", "missing"), "missing"),
            (("--steps", 7, "--steps-per-epoch", 5), "multiple of steps_per_epoch"),
            (("--patch", 48), "at least 96x96"),
        ],
    )
    def test_refused(self, refuses, pictures, arguments, message):
        assert message in refuses(("train-super-resolution", pictures), *arguments)
