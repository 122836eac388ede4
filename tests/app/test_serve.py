import keras
import numpy as np
import pytest

from art_versatile.app.serve import launch, workbench


def test_a_keras_file_gives_logits(tmp_path, tiny_images):
    """By the one reader of such files, which leaves a softmax out."""
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")])
    model.save(tmp_path / "mine.keras")
    answer = workbench(tmp_path / "mine.keras").classify(tiny_images[0], "mine")
    np.testing.assert_allclose([share for _, share in answer.top], np.sort(model(tiny_images[:1])[0])[::-1], rtol=1e-4)
    assert answer.index == np.argmax(model(tiny_images[:1])[0])


def test_what_is_given_comes_first(tmp_path, tiny_classifier):
    keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()]).save(tmp_path / "mine.keras")
    assert workbench().classifiers[0] == "efficientnet_lite0"
    assert workbench().purifiers[0] == "compact"
    assert workbench("efficientnet_lite2").classifiers[0] == "efficientnet_lite2"
    assert workbench(tmp_path / "mine.keras").classifiers[0] == "mine"
    bench = workbench(tiny_classifier)
    assert bench.classifiers[0] == "your classifier"
    assert bench.image_size("your classifier") == 32


def test_a_folder_of_weights_is_offered_by_its_name_and_read_when_used(tmp_path):
    (tmp_path / "robust").mkdir()
    (tmp_path / "robust" / "card.json").write_text("{}")
    bench = workbench(weights=[tmp_path / "robust", "compact"])
    assert bench.purifiers == ["robust", "compact"]
    with pytest.raises(ValueError, match="card"):
        bench.purify(np.full((32, 32, 3), 0.5, np.float32), "robust")


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"classifier": "resnet"}, ValueError, "classifier"),
        ({"classifier": "none.keras"}, FileNotFoundError, "keras"),
        ({"weights": "none"}, FileNotFoundError, "card.json"),
        ({"image_size": 8}, ValueError, "image_size"),
        ({"port": -1}, ValueError, "port"),
        ({"port": 65536}, ValueError, "port"),
    ],
)
def test_launch_refuses(changed, error, says):
    if "port" not in changed:
        pytest.importorskip("gradio")
    with pytest.raises(error, match=says):
        launch(**changed)
