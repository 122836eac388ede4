"""
Certified accuracy by randomised smoothing with a purifier in front of the classifier: denoised smoothing.

Cohen, Rosenfeld and Kolter 2019 (arXiv 1902.02918); Salman et al. 2020 (arXiv 2003.01908) for the denoiser. The
smoothed classifier answers the class that the defended one most often gives under Gaussian noise. Where it has the
share p of the votes, no change of an L2 length below ``sigma * Phi^-1(p)`` alters that answer: a proof, up to the
chance alpha that the sample of votes deceives, and for the smoothed classifier alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats
from tqdm.auto import tqdm

from art_versatile._checks import check_batch_size, check_bool, check_images, check_integer, check_number
from art_versatile._files import write_text_atomically

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "ABSTAINED",
    "RADII",
    "Certificate",
    "Certificates",
    "certify",
    "certify_counts",
    "lower_confidence_bound",
]

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The radii that are published, in units of a pixel range of 1."""

ABSTAINED = -1
"""The class of an image for which no class has won for certain."""

FILE, FORMAT = "certificates.json", 1


@dataclass(frozen=True)
class Certificate:
    """
    What is proven of one image.

    :param image: Its number.
    :param label: Its right class.
    :param predicted: The class of the smoothed classifier, or ``ABSTAINED``.
    :param radius: L2 radius, in units of a pixel range of 1, within which that answer holds; 0 where it abstains.
    :param votes: Of the class that the first sample chose, among ``draws``.
    :param draws: Noisy images of the second sample.
    """

    image: int
    label: int
    predicted: int
    radius: float
    votes: int
    draws: int

    @property
    def is_right(self) -> bool:
        """Whether the smoothed classifier answers the right class."""
        return self.predicted == self.label


@dataclass(frozen=True)
class Certificates:
    """
    Those of a set of images, and what they were made with.

    :param certificates: One an image.
    :param facts: sigma, n0, n, alpha, seed, image shape, and the checksums of images and classifier.
    """

    certificates: tuple[Certificate, ...]
    facts: dict[str, Any]

    def accuracy(self, radius: float = 0.0) -> float:
        """
        Certified accuracy: share of all images, abstentions among the wrong, that are right within the radius.

        :param radius: L2, in units of a pixel range of 1; 0 is the smoothed classifier's accuracy.
        """
        return sum(c.is_right and c.radius >= radius for c in self.certificates) / len(self.certificates)

    @property
    def abstained(self) -> float:
        """Share of the images on which it abstained."""
        return sum(c.predicted == ABSTAINED for c in self.certificates) / len(self.certificates)

    def infinity_radius(self, radius: float) -> float:
        """
        The L-infinity radius that an L2 one of ``radius`` includes: ``radius / sqrt(values of an image)``.

        :param radius: L2, in units of a pixel range of 1.
        """
        return radius / math.sqrt(math.prod(self.facts["image_shape"]))

    def rows(self, radii: Iterable[float] = RADII) -> list[dict[str, float]]:
        """
        The table.

        :param radii: L2, in units of a pixel range of 1.
        :return: Radius, the same in L-infinity in 255ths, certified accuracy, images.
        """
        return [
            {
                "radius": radius,
                "infinity_255": 255 * self.infinity_radius(radius),
                "accuracy": self.accuracy(radius),
                "images": len(self.certificates),
            }
            for radius in radii
        ]


def lower_confidence_bound(votes: int, draws: int, alpha: float) -> float:
    """
    Clopper and Pearson's one-sided lower bound of a probability.

    :param votes: How often it happened.
    :param draws: Of so many.
    :param alpha: The chance that the bound is too high.
    """
    return float(stats.beta.ppf(alpha, votes, draws - votes + 1)) if votes else 0.0


def certify_counts(first: np.ndarray, second: np.ndarray, sigma: float, alpha: float) -> tuple[int, float, int]:
    """
    Algorithm CERTIFY of arXiv 1902.02918.

    :param first: Votes of each class (K,) in the sample that chooses the class.
    :param second: Votes of each class (K,) in another sample, which bounds its share.
    :param sigma: Standard deviation of the noise.
    :param alpha: Chance of error.
    :return: Class or ``ABSTAINED``, radius in units of sigma's, votes of the chosen class in the second sample.
    """
    chosen = int(np.argmax(first))
    votes = int(second[chosen])
    bound = lower_confidence_bound(votes, int(np.sum(second)), alpha)
    if bound <= 0.5:
        return ABSTAINED, 0.0, votes
    return chosen, float(sigma * stats.norm.ppf(bound)), votes


def certify(
    classifier: Any,
    x: np.ndarray,
    y: Sequence[int] | np.ndarray,
    out: str | Path | None = None,
    *,
    sigma: float = 0.25,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    batch_size: int = 50,
    seed: int = 0,
    verbose: bool = True,
) -> Certificates:
    """
    Certify images one by one. Called again with the same ``out`` and arguments, it goes on where it was.

    The noise is added to the image as it comes, before every defence, and is not clipped: defences see pixels outside
    of ``clip_values``. It is what ART's ``TensorFlowV2RandomizedSmoothing.certify`` does, compiled and seeded: draws of
    an image depend on the seed and its number alone, whatever ``batch_size`` is.

    :param classifier: ART ``TensorFlowV2Classifier`` (or its smoothed subclass), defences included, all of them in
        TensorFlow.
    :param x: Images, (N, H, W, 3) or with ``channels_first`` (N, 3, H, W), in ``clip_values``.
    :param y: Right classes, (N,).
    :param out: Folder of ``certificates.json``, written after each image; None writes nothing.
    :param sigma: Standard deviation of the noise, as a share of the pixel range.
    :param n0: Draws that choose the class.
    :param n: Draws that bound its share; 10,000 for a figure to publish.
    :param alpha: Chance, for each image, that its certificate is wrong.
    :param batch_size: Noisy images in one call.
    :param seed: Of the noise.
    :param verbose: Show a bar with the time left.
    :return: The certificates.
    :raises TypeError: If the classifier is of another kind, or has a defence that is not TensorFlow's.
    :raises ValueError: If an argument is out of its range, or ``out`` holds certificates of something else.
    """
    sigma, alpha = check_number("sigma", sigma, 1e-6, 10), check_number("alpha", alpha, 1e-9, 0.5)
    n0, n, seed = check_integer("n0", n0), check_integer("n", n), check_integer("seed", seed, 0)
    check_batch_size(batch_size)
    check_bool("verbose", verbose)
    votes = _Votes(classifier, sigma, batch_size, seed)
    x = check_images(x, classifier.clip_values, channels_first=bool(classifier.channels_first), name="x")
    labels = np.asarray(y)
    if labels.shape != (len(x),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Expected y to be {len(x)} class indices. Received {labels.dtype} {labels.shape}.")
    if not ((labels >= 0) & (labels < classifier.nb_classes)).all():
        raise ValueError(f"Expected classes from 0 to {classifier.nb_classes - 1}. Received {labels.max()}.")
    facts = {
        "sigma": sigma,
        "n0": n0,
        "n": n,
        "alpha": alpha,
        "seed": seed,
        "image_shape": list(x.shape[1:]),
        "images_sha256": hashlib.sha256(np.ascontiguousarray(x, np.float32).data.cast("B")).hexdigest(),
        "labels": labels.tolist(),
        "classifier_sha256": votes.sha256(),
    }
    file = None if out is None else Path(out) / FILE
    done = [] if file is None else _known(file, facts)
    for image in tqdm(range(len(done), len(x)), desc="certify", unit="image", initial=len(done), total=len(x),
                      disable=not verbose):  # fmt: skip
        predicted, radius, count = certify_counts(
            votes(x[image], image, n0, 0), votes(x[image], image, n, 1), sigma, alpha
        )
        done.append(Certificate(image, int(labels[image]), predicted, radius, count, n))
        if file is not None:
            content = {"format": FORMAT, "facts": facts, "certificates": [asdict(c) for c in done]}
            write_text_atomically(file, json.dumps(content, indent=1))
    return Certificates(tuple(done), facts)


def _known(file: Path, facts: dict[str, Any]) -> list[Certificate]:
    """The certificates of an earlier call."""
    if not file.exists():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        found = [Certificate(**entry) for entry in content["certificates"]]
        known = dict(content["facts"])
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise ValueError(f"Expected certificates; delete the file to begin anew. Received {file}: {err!r}") from err
    if other := sorted(key for key in facts if known.get(key) != facts[key]):
        raise ValueError(
            f"Expected certificates of the same images, classifier and settings in {file}. Received others: {other}."
        )
    return found


class _Votes:
    """Counts, for an image, how often the defended classifier answers each class under Gaussian noise."""

    def __init__(self, classifier: Any, sigma: float, batch_size: int, seed: int) -> None:
        import tensorflow as tf
        from art.estimators.classification import TensorFlowV2Classifier

        if not isinstance(classifier, TensorFlowV2Classifier):
            raise TypeError(f"Expected an ART TensorFlowV2Classifier. Received {type(classifier).__name__}.")
        if classifier.clip_values is None:
            raise ValueError("Expected the classifier to have clip_values, the range of the pixels. Received None.")
        if not classifier.all_framework_preprocessing:
            names = [type(step).__name__ for step in classifier.preprocessing_operations]
            raise TypeError(f"Expected defences in TensorFlow alone, as ART calls them. Received {names}.")
        low, high = (float(np.min(classifier.clip_values[0])), float(np.max(classifier.clip_values[1])))
        self._classifier, self._batch_size, self._seed = classifier, batch_size, seed
        self._stddev = sigma * (high - low)

        def count(image: tf.Tensor, first: tf.Tensor, total: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
            numbers = tf.range(first, tf.minimum(first + batch_size, total))
            noise = tf.map_fn(
                lambda number: self.noise(image.shape, seeds, number), numbers, fn_output_signature=tf.float32
            )
            answers = self._answers(image + noise)
            return tf.math.bincount(tf.argmax(answers, axis=-1, output_type=tf.int32), minlength=classifier.nb_classes)

        self._count = tf.function(count, reduce_retracing=True)

    def noise(self, shape: Sequence[int], seeds: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """
        One draw.

        :param shape: Of an image.
        :param seeds: (2,), of the image and the sample.
        :param number: Of the draw.
        """
        import tensorflow as tf

        key = tf.random.experimental.stateless_fold_in(seeds, number)
        return tf.random.stateless_normal(shape, key, stddev=self._stddev)

    def _answers(self, images: tf.Tensor) -> tf.Tensor:
        for step in self._classifier.preprocessing_operations:
            if step.apply_predict:
                images, _ = step.forward(images)
        return self._classifier.model(images, training=False)

    def __call__(self, image: np.ndarray, number: int, draws: int, sample: int) -> np.ndarray:
        """
        Votes of each class, (K,).

        :param image: One image.
        :param number: Its number.
        :param draws: Of so many noisy ones.
        :param sample: 0 chooses, 1 bounds: other draws.
        """
        import tensorflow as tf

        seeds = tf.constant(np.random.SeedSequence([self._seed, number, sample]).generate_state(2).view(np.int32))
        pixels = tf.constant(image, tf.float32)
        votes = np.zeros(self._classifier.nb_classes, np.int64)
        for first in range(0, draws, self._batch_size):
            votes += self._count(pixels, tf.constant(first), tf.constant(draws), seeds).numpy()
        return votes

    def sha256(self) -> str:
        """Of the classifier's weights, and of its defences: their parameters, and their networks' weights."""
        digest = hashlib.sha256()
        parts = [self._classifier.model]
        for step in self._classifier.preprocessing_operations:
            known = {name: repr(getattr(step, name, None)) for name in getattr(step, "params", [])}
            digest.update(f"{type(step).__name__} {known}".encode())
            parts += [value for value in vars(step).values() if hasattr(value, "get_weights")]
        for part in parts:
            for array in part.get_weights() if hasattr(part, "get_weights") else []:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
