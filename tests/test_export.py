"""Each format answers what the purifier and the classifier answer; what differs is refused, and nothing is written."""

import importlib.util
import json

import keras
import numpy as np
import pytest

from art_versatile import VersatilePurifier
from art_versatile.classifiers import wrap
from art_versatile.export import _LOADERS, FORMATS, check_export, export, load_exported
from art_versatile.pix2pix import CompactGenerator, UNet256Generator


def path_for(folder, format_):
    return folder / ("purifier" if format_ == "savedmodel" else f"purifier.{format_}")


def needed(format_):
    if format_ == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def purifier():
    """Untrained, but for the last layer's weights, which are not zero: it changes an image."""
    generator = CompactGenerator(widths=(8, 8), blocks=(1, 1), noise=0.02, output_noise=0.05)
    rng = np.random.default_rng(0)
    generator.set_weights([w + rng.normal(0, 0.05, w.shape).astype(np.float32) for w in generator.get_weights()])
    return VersatilePurifier(generator)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_purifier_of_any_size(purifier, tiny_images, tmp_path, format_):
    needed(format_)
    path = path_for(tmp_path, format_)
    made = export(purifier, path, format_, images=tiny_images)
    assert json.loads(made.report.read_text()) == made.facts
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.json"}
    assert (made.facts["n"], made.facts["image_size"], made.facts["same_labels"]) == (9, None, None)
    assert made.facts["bytes"] > 4 * purifier.generator.count_params()
    answer = load_exported(path, format_, threads=1)
    rng = np.random.default_rng(1)
    for shape in (
        (3, 32, 32, 3),
        (1, 45, 70, 3),
    ):  # the second no multiple of the generator's
        x = rng.uniform(size=shape).astype(np.float32)
        expected = purifier(x)[0]
        assert np.abs(expected - x).max() > 0.05
        np.testing.assert_allclose(answer(x), expected, atol=1e-5)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_purifier_with_a_classifier_of_one_size(purifier, tiny_classifier, tiny_images, tmp_path, format_):
    needed(format_)
    path = path_for(tmp_path, format_)
    facts = export(purifier, path, format_, classifier=tiny_classifier, images=tiny_images).facts
    assert (facts["n"], facts["image_size"], facts["same_labels"], facts["classifier"]) == (8, 32, 8, 10)
    expected = tiny_classifier.predict(purifier(tiny_images)[0])
    assert facts["largest_logit"] == pytest.approx(np.abs(expected).max())
    np.testing.assert_allclose(load_exported(path, format_)(tiny_images), expected, atol=1e-3)


def test_the_papers_generator(tiny_images, tmp_path):
    """Transposed convolutions and instance normalisation."""
    unet = VersatilePurifier(UNet256Generator(filters=2))
    facts = export(unet, tmp_path / "p.tflite", "tflite", image_size=32, images=tiny_images[:2]).facts
    assert facts["largest_difference"] < 1e-5


def test_the_names_in_an_onnx_file(purifier, tiny_images, tmp_path):
    needed("onnx")
    import onnxruntime

    path = export(purifier, tmp_path / "p.onnx", "onnx", images=tiny_images).path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [(value.name, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]
    assert found == [("image", ["N", "H", "W", 3]), ("purified", ["N", "H", "W", 3])]


def test_other_ranges_and_layouts_are_written_for_zero_to_one(purifier, tiny_images, tmp_path):
    other = VersatilePurifier(purifier.generator, clip_values=(0, 255), channels_first=True)
    export(other, tmp_path / "p", images=tiny_images)
    np.testing.assert_allclose(
        load_exported(tmp_path / "p", "savedmodel")(tiny_images), purifier(tiny_images)[0], atol=1e-6
    )


def test_images_without_the_demonstrations(purifier, monkeypatch, tmp_path):
    def missing(count, size):
        raise ModuleNotFoundError("foolbox")

    monkeypatch.setattr("art_versatile.images.demo_images", missing)
    made = [export(purifier, tmp_path / str(i), image_size=40, seed=seed).facts for i, seed in enumerate((0, 3))]
    assert [facts["images"] for facts in made] == [f"20 mosaics of random colours, seed {seed}" for seed in (0, 3)]
    assert [facts["n"] for facts in made] == [20, 20]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda y: np.roll(y, 1, axis=1), "labels the same"),
        (lambda y: y * np.nan, "largest difference of nan"),
        (lambda y: y + 0.01 * np.abs(y).max(), "and 8 labels the same"),
    ],
)
def test_other_answers_are_refused(purifier, tiny_classifier, tiny_images, monkeypatch, tmp_path, answers, message):
    def loaded(path, threads):
        return lambda x: answers(tiny_classifier.predict(purifier(x)[0]))

    monkeypatch.setitem(_LOADERS, "savedmodel", loaded)
    with pytest.raises(ValueError, match=message):
        export(purifier, tmp_path / "p", classifier=tiny_classifier, images=tiny_images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"format": "torch"}, ValueError, "Expected format to be one of"),
        ({"format": "tflite"}, ValueError, "Expected a file that ends in .tflite"),
        ({"purifier": 1}, TypeError, "Expected a VersatilePurifier"),
        ({"classifier": 1}, TypeError, "Expected an ART classifier of a Keras model"),
        ({"image_size": 0}, ValueError, "Expected image_size"),
        ({"image_size": 33}, ValueError, "Expected images of 32x32, as the classifier takes"),
        ({"images": np.zeros((1, 40, 40, 3), np.float32)}, ValueError, "Expected images of 32x32"),
        ({"images": np.full((1, 32, 32, 3), 2, np.float32)}, ValueError, "Expected images inside"),
    ],
)
def test_refused(purifier, tiny_classifier, tmp_path, changed, error, message):
    given = {"purifier": purifier, "path": tmp_path / "p", "classifier": tiny_classifier}
    with pytest.raises(error, match=message):
        export(**{**given, **changed})
    assert list(tmp_path.iterdir()) == []


def test_stochastic_purifiers_and_defended_classifiers_are_refused(purifier, tmp_path):
    with pytest.raises(ValueError, match="Expected a purifier that is not stochastic"):
        export(VersatilePurifier(purifier.generator, stochastic=True), tmp_path / "p")
    image = keras.Input((None, None, 3))
    classifier = wrap(keras.Model(image, keras.layers.GlobalAveragePooling2D()(image)), 32, 3)
    classifier.set_params(preprocessing_defences=[purifier])
    with pytest.raises(ValueError, match="Expected an undefended classifier"):
        export(purifier, tmp_path / "p", classifier=classifier)
    classifier.set_params(preprocessing_defences=None, preprocessing=(0.5, 1.0))
    with pytest.raises(ValueError, match="without preprocessing"):
        export(purifier, tmp_path / "p", classifier=classifier)


def test_what_is_there_is_left(purifier, tmp_path):
    (tmp_path / "p.tflite").write_text("mine")
    with pytest.raises(FileExistsError, match="Expected a path where nothing is"):
        export(purifier, tmp_path / "p.tflite", "tflite")
    assert (tmp_path / "p.tflite").read_text() == "mine"


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tf2onnx" else find(name))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'art-versatile\[export\]'.*without.*tf2onnx"):
        check_export(tmp_path / "p.onnx", "onnx")
