from __future__ import annotations

import copy
import dataclasses
import math
import re
import types
from importlib.metadata import version

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks.evasion import CarliniL2Method, FastGradientMethod, ProjectedGradientDescent, SquareAttack
from art.defences.preprocessor import Preprocessor
from art.estimators.classification import TensorFlowV2Classifier
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from art_versatile._version import __version__
from art_versatile.attacks import attack_parameters, isolated_seed, paper_attacks
from art_versatile.baselines import RandomResizing
from art_versatile.defended import defend, through
from art_versatile.evaluation import Benchmark, load_records
from art_versatile.evaluation.benchmark import PACKAGES, versions

QUICK = {"effort": "quick"}


class Scale(Preprocessor):
    """Contrast times a factor, about the middle; 1 is the identity."""

    params = ["factor", "model"]  # noqa: RUF012

    def __init__(self, factor=1.0):
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.factor, self.model = factor, types.SimpleNamespace
        self.given = []

    def __call__(self, x, y=None):
        self.given.append(x.copy())
        if self.factor == 1:  # 0.5 + (x - 0.5) would round
            return x.copy(), y
        return np.clip(0.5 + self.factor * (x - 0.5), 0, 1).astype(np.float32), y


class Fake:
    """An attack that computes on no classifier."""

    attack_params, targeted = (), False

    def __init__(self, generate):
        self.generate = generate


def refusing(attack):
    """The same attack, which may not be made again."""
    refusing = copy.copy(attack)
    refusing.generate = lambda *_, **__: (_ for _ in ()).throw(AssertionError("attacked again"))
    return refusing


def wrap(model, **arguments):
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True)
    return TensorFlowV2Classifier(model=model, nb_classes=10, loss_object=loss, **arguments)


@pytest.fixture
def other_classifier(tiny_classifier):
    model = keras.models.clone_model(tiny_classifier.model)
    return wrap(model, input_shape=(32, 32, 3), clip_values=(0, 1))


@pytest.fixture
def make(tiny_classifier, tiny_images, tiny_labels):
    def make(**arguments):
        defaults = {
            "classifier": tiny_classifier,
            "x": tiny_images,
            "y": tiny_labels,
            "defences": {"identity": Scale(), "grey": Scale(0.25)},
            "dataset": "patches",
            "classifier_name": "tiny",
        }
        return Benchmark(**{**defaults, **arguments})

    return make


@pytest.fixture
def fgsm(tiny_classifier):
    return FastGradientMethod(tiny_classifier, eps=8 / 255, batch_size=8)


def correct(classifier, x, y):
    return int((classifier.predict(x).argmax(1) == y).sum())


def assert_distances(record, shown, clean):
    """The three distances, straight from scikit-image, image by image."""
    if np.array_equal(shown, clean):
        assert record.psnr == math.inf
    else:
        ratios = [peak_signal_noise_ratio(c, s, data_range=1) for c, s in zip(clean, shown, strict=True)]
        assert record.psnr == pytest.approx(np.mean(ratios), rel=1e-4)
    assert record.mae == pytest.approx(np.abs(shown - clean).mean(), rel=1e-4)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = [
        structural_similarity(c, s, data_range=1, channel_axis=-1, **window) for c, s in zip(clean, shown, strict=True)
    ]
    assert record.ssim == pytest.approx(np.mean(values), rel=1e-4)


def test_versions():
    found = versions()
    assert tuple(found) == PACKAGES
    assert found["art-versatile"] == __version__
    assert found["tensorflow"] == tf.__version__
    assert found["keras"] == keras.__version__
    assert found["scikit-image"] == version("scikit-image")


class TestClean:
    def test_records(self, make, tiny_classifier, tiny_images, tiny_labels):
        tiny_labels = tiny_labels.copy()
        tiny_labels[:3] = (tiny_labels[:3] + 1) % 10
        benchmark = make(y=tiny_labels, effort="quick", seed=7)
        benchmark.clean()
        assert [r.defence for r in benchmark.records] == ["none", "identity", "grey"]
        grey = Scale(0.25)(tiny_images)[0]
        for record, shown in zip(benchmark.records, (tiny_images, tiny_images, grey), strict=True):
            assert (record.attack, record.threat_model, record.norm, record.eps) == ("clean", "clean", None, None)
            assert record.attack_parameters == {}
            assert record.effort is None
            assert (record.dataset, record.classifier, record.n, record.seed) == ("patches", "tiny", 8, 7)
            assert record.correct == correct(tiny_classifier, shown, tiny_labels)
            assert record.versions == versions()
            assert record.classes == 10
            assert_distances(record, shown, tiny_images)
        assert [r.correct for r in benchmark.records[:2]] == [5, 5]

    def test_parameters_of_the_defences_are_plain_data(self, make):
        benchmark = make()
        benchmark.clean()
        none, identity, grey = benchmark.records
        assert none.defence_parameters == {}
        assert identity.defence_parameters == {"factor": 1.0, "model": "SimpleNamespace"}
        assert grey.defence_parameters["factor"] == 0.25

    def test_defences_of_other_weights_are_told_apart(self, make):
        defence = Scale()
        defence.fingerprint = "abc"
        benchmark = make(defences={"scale": defence})
        benchmark.clean()
        assert benchmark.records[1].defence_parameters["fingerprint"] == "abc"


class TestStatic:
    def test_records(self, make, fgsm, tiny_classifier, tiny_images, tiny_labels):
        benchmark = make(effort="paper", seed=3)
        none, identity, grey = benchmark.run("FGSM", fgsm)
        assert benchmark.records == [none, identity, grey]
        x_adv = fgsm.generate(tiny_images, y=np.eye(10)[tiny_labels])
        np.testing.assert_array_equal(benchmark.defences["grey"].given[-1], x_adv)  # attacked without the defence
        assert none.correct == identity.correct == correct(tiny_classifier, x_adv, tiny_labels) < 8
        purified = Scale(0.25)(x_adv)[0]
        assert grey.correct == correct(tiny_classifier, purified, tiny_labels)
        for record, shown in ((none, x_adv), (identity, x_adv), (grey, purified)):
            assert_distances(record, shown, tiny_images)
            assert (record.attack, record.threat_model, record.effort, record.seed) == ("FGSM", "static", "paper", 3)
            assert (record.norm, record.eps, record.iterations, record.n) == ("inf", 8 / 255, 1, 8)
            assert record.gradient is record.eot_samples is record.surrogate is record.file_format is None
            assert record.attack_parameters == attack_parameters(fgsm)
            assert record.seconds > 0

    def test_the_true_labels_are_attacked(self, make, tiny_labels):
        """An image that is already wrong must stay wrong, not be pushed away from the answer given."""
        y = (tiny_labels + 1) % 10
        seen = []
        make(y=y).run("spy", Fake(lambda x, y: seen.append(y) or x))
        np.testing.assert_array_equal(seen[0], np.eye(10)[y])

    def test_transfer(self, make, other_classifier):
        attack = FastGradientMethod(other_classifier)
        with pytest.raises(ValueError, match=r"that is threat_model='transfer'"):
            make().run("FGSM", attack)
        records = make().run("FGSM", attack, "transfer", surrogate="another")
        assert {(r.threat_model, r.surrogate) for r in records} == {("transfer", "another")}

    def test_an_unbounded_attack(self, make, tiny_classifier):
        attack = CarliniL2Method(tiny_classifier, max_iter=1, binary_search_steps=1, batch_size=8, verbose=False)
        assert {(r.norm, r.eps) for r in make().run("C&W", attack)} == {("2", None)}

    def test_a_budget_a_pixel(self, make, tiny_classifier):
        eps = np.full((1, 1, 1, 1), 0.1)
        assert make().run("FGSM", FastGradientMethod(tiny_classifier, eps=eps, eps_step=eps))[0].eps is None

    def test_nested_parameters(self, make, tiny_classifier, tiny_images, tiny_labels):
        attack = paper_attacks(tiny_classifier, max_iter=1, **QUICK)["AutoAttack"]
        record = make(x=tiny_images[:2], y=tiny_labels[:2]).run("AutoAttack", attack)[0]
        assert len(record.attack_parameters["attacks"]) == 3

    def test_random_attacks_follow_the_seed_and_leave_the_global_state(self, make, tiny_classifier):
        attack = ProjectedGradientDescent(
            tiny_classifier, eps=0.1, eps_step=0.01, max_iter=1, num_random_init=1, batch_size=8, verbose=False
        )
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        made = [make(seed=seed).run("PGD", attack)[0].mae for seed in (0, 0, 1)]
        assert made[0] == made[1] != made[2]
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

    def test_an_attack_that_leaves_the_range_is_cut(self, make, tiny_images):
        benchmark = make()
        benchmark.run("beyond", Fake(lambda x, y: x + 0.5))
        np.testing.assert_array_equal(benchmark.defences["grey"].given[-1], np.clip(tiny_images + 0.5, 0, 1))

    def test_an_attack_over_its_budget_is_flagged(self, make, fgsm):
        fgsm.generate = lambda x, y: np.clip(x + 0.05, 0, 1)
        assert make().run("FGSM", fgsm)[0].flags == ("over budget: 0.05 in place of 0.0313725",)

    def test_images_that_went_through_files(self, make, fgsm, tiny_classifier, tiny_images, tiny_labels):
        def rounded(x):
            return (np.round(x * 7) / 7).astype(np.float32)

        records = make(file_formats={"3 bits": rounded}).run("FGSM", fgsm)
        assert [(r.file_format, r.defence) for r in records] == [
            (kind, name) for kind in (None, "3 bits") for name in ("none", "identity", "grey")
        ]
        x_adv = rounded(fgsm.generate(tiny_images, y=np.eye(10)[tiny_labels]))
        assert records[3].correct == correct(tiny_classifier, x_adv, tiny_labels)
        assert records[3].attack_parameters == records[0].attack_parameters
        assert records[3].flags == ()  # a rounded pixel may leave the budget


class TestAdaptive:
    @staticmethod
    def through(benchmark, defence, kind=FastGradientMethod, **arguments):
        defended = defend(benchmark.classifier, benchmark.defences[defence])
        return kind(defended, **{"eps": 8 / 255, "batch_size": 8, **arguments})

    def test_one_record_behind_one_defence(self, make, tiny_classifier, tiny_images, tiny_labels):
        benchmark = make()
        attack = self.through(benchmark, "grey")
        (record,) = benchmark.run("FGSM", attack, "adaptive", "grey")
        assert (record.defence, record.threat_model, record.attack) == ("grey", "adaptive", "FGSM")
        x_adv = attack.generate(tiny_images, y=np.eye(10)[tiny_labels])
        purified = Scale(0.25)(x_adv)[0]
        assert record.correct == correct(tiny_classifier, purified, tiny_labels)
        assert (record.gradient, record.eot_samples, record.flags) == ("exact", 1, ())
        assert_distances(record, purified, tiny_images)

    def test_bpda_and_eot_are_recorded(self, make, tiny_classifier):
        defence = RandomResizing(sizes=(28, 32), reference=32, output_size="input", seed=0)
        benchmark = make(defences={"resizing": defence})
        classifier = through(tiny_classifier, defence, gradient="bpda", eot_samples=3, seed=0)
        attack = FastGradientMethod(classifier, eps=0.1, batch_size=8)
        (record,) = benchmark.run("FGSM", attack, "adaptive", "resizing")
        assert (record.gradient, record.eot_samples) == ("bpda", 3)

    def test_queries(self, make, tiny_classifier, tiny_images, tiny_labels):
        benchmark = make()
        attack = self.through(benchmark, "grey", SquareAttack, max_iter=5, nb_restarts=1, verbose=False)
        (record,) = benchmark.run("Square", attack, "query", "grey")
        assert (record.threat_model, record.defence, record.eps, record.iterations) == ("query", "grey", 8 / 255, 5)
        x_adv = benchmark.defences["grey"].given[-1]
        assert record.correct == correct(tiny_classifier, Scale(0.25)(x_adv)[0], tiny_labels)
        assert record.gradient is None

    def test_an_attack_of_another_threat_model(self, make, fgsm, tiny_classifier, other_classifier):
        """One that goes round the defence is the commonest mistake of all: the defence then looks robust."""
        benchmark = make()
        grey, other = self.through(benchmark, "grey"), self.through(benchmark, "identity")
        square = self.through(benchmark, "grey", SquareAttack, max_iter=5, nb_restarts=1, verbose=False)
        twice = FastGradientMethod(defend(grey.estimator, benchmark.defences["identity"]))
        foreign = FastGradientMethod(defend(other_classifier, benchmark.defences["grey"]))
        targeted = FastGradientMethod(tiny_classifier, targeted=True)
        for attack, threat_model, defence, message in (
            (fgsm, "adaptive", "grey", "behind 'grey' alone"),
            (other, "adaptive", "grey", "behind 'grey' alone"),
            (twice, "adaptive", "identity", "behind 'identity' alone"),
            (other, "static", None, "built on the undefended classifier"),
            (foreign, "adaptive", "grey", "Received one on another"),
            (square, "adaptive", "grey", "with gradients"),
            (grey, "query", "grey", "without gradients"),
            (grey, "adaptive", "none", "Expected defence "),
            (grey, "adaptive", None, "Expected defence "),
            (fgsm, "static", "grey", "Expected defence "),
            (fgsm, "clean", None, "Expected threat_model "),
            (targeted, "static", None, "untargeted"),
        ):
            with pytest.raises(ValueError, match=re.escape(message)):
                benchmark.run("attack", attack, threat_model, defence)
        assert benchmark.records == []

    def test_a_defence_that_leaves_the_range(self, make):
        class Beyond(Scale):
            def __call__(self, x, y=None):
                return x + 1, y

        with pytest.raises(ValueError, match="Expected what 'beyond' makes of images inside clip_values"):
            make(defences={"beyond": Beyond()}).clean()

    def test_a_masked_gradient_is_flagged(self, make):
        class Masked(Scale):
            def estimate_gradient(self, x, grad):
                return np.zeros_like(grad)

        benchmark = make(defences={"masked": Masked()})
        (record,) = benchmark.run("FGSM", self.through(benchmark, "masked"), "adaptive", "masked")
        assert record.flags == ("masked gradient: zero at 8 of 8 images",)


class TestRandomDefences:
    class Noise(Scale):
        """Noise from NumPy's global generator, as ART's own defences draw."""

        def __call__(self, x, y=None):
            return np.clip(x + np.random.normal(0, 0.3, x.shape), 0, 1).astype(np.float32), y  # noqa: NPY002

    def test_every_evaluation_counts(self, make, tiny_classifier, tiny_images, tiny_labels):
        benchmark = make(defences={"noise": self.Noise(), "grey": Scale(0.25)}, evaluations=4, seed=3)
        benchmark.clean()
        none, noise, grey = benchmark.records
        assert none.evaluations == grey.evaluations == ()
        assert len(noise.evaluations) == 4
        with isolated_seed(np.random.SeedSequence([3, 1])):
            answers = [tiny_classifier.predict(self.Noise()(tiny_images)[0]).argmax(1) == tiny_labels for _ in range(4)]
        assert noise.evaluations == tuple(answer.sum() for answer in answers)
        assert noise.right == "".join("01"[int(r)] for r in np.all(answers, axis=0))
        assert noise.accuracy == pytest.approx(np.mean(answers))
        assert noise.correct == round(np.mean(answers) * 8)

    def test_which_are_random(self, make):
        resizing = RandomResizing(sizes=(28, 32), reference=32, seed=0)
        benchmark = make(defences={"noise": self.Noise(), "grey": Scale(0.25), "resizing": resizing})
        assert [benchmark.is_random(name) for name in benchmark.defences] == [True, False, True]

    def test_a_defence_that_changes_the_size(self, make, tiny_classifier):
        image = keras.Input((None, None, 3))
        features = keras.layers.GlobalAveragePooling2D()(image)
        classifier = wrap(
            keras.Model(image, keras.layers.Dense(10)(features)), input_shape=(32, 32, 3), clip_values=(0, 1)
        )
        resizing = RandomResizing(sizes=(28, 32), reference=28, seed=0)
        benchmark = make(classifier=classifier, defences={"resizing": resizing}, evaluations=2)
        benchmark.clean()
        record = benchmark.records[1]
        assert (record.psnr, record.mae, record.ssim) == (None, None, None)
        assert len(record.evaluations) == 2


class TestFile:
    def test_an_interrupted_run_goes_on(self, make, fgsm, tmp_path):
        path = tmp_path / "records.json"
        benchmark = make(file=path)
        benchmark.clean()
        benchmark.run("FGSM", fgsm)
        assert load_records(path) == benchmark.records
        again = make(file=path)
        assert again.records == []
        again.clean()
        again.run("FGSM", refusing(fgsm))
        assert again.records == benchmark.records
        assert load_records(path) == benchmark.records
        for changes, name, attack in (
            ({}, "FGSM", FastGradientMethod(again.classifier, eps=4 / 255)),
            ({}, "PGD", fgsm),
            ({"seed": 1}, "FGSM", fgsm),
            ({"x": again.x[::-1]}, "FGSM", fgsm),  # other images of the same name
        ):
            with pytest.raises(AssertionError, match="attacked again"):
                make(file=path, **changes).run(name, refusing(attack))

    def test_only_missing_cells_are_measured(self, make, fgsm, tmp_path):
        path = tmp_path / "records.json"
        fewer = make(file=path, defences={"grey": Scale(0.25)})
        fewer.clean()
        fewer.run("FGSM", fgsm)
        benchmark = make(file=path)
        benchmark.clean()
        benchmark.run("FGSM", fgsm)
        assert benchmark.defences["grey"].given == []
        assert [(r.attack, r.defence) for r in benchmark.records] == [
            (attack, name) for attack in ("clean", "FGSM") for name in ("none", "identity", "grey")
        ]

    def test_records_of_other_runs_are_kept_and_not_mixed_in(self, make, fgsm, tmp_path):
        path = tmp_path / "records.json"
        first = make(file=path)
        first.clean()
        other = make(file=path, dataset="others", defences={"grey": Scale(0.5)})
        other.clean()
        other.run("FGSM", fgsm)
        assert {record.dataset for record in other.records} == {"others"}
        assert load_records(path) == [*first.records, *other.records]

    def test_revised(self, make, tmp_path):
        path = tmp_path / "records.json"
        benchmark = make(file=path)
        flagged = [dataclasses.replace(record, flags=("seen",)) for record in benchmark.clean()]
        benchmark.revise(flagged)
        assert benchmark.records == load_records(path) == flagged


class TestPictures:
    def test_the_next_of_those_that_are_right(self, make, fgsm, tiny_images, tiny_labels, tmp_path):
        y = tiny_labels.copy()
        y[[0, 2]] = (y[[0, 2]] + 1) % 10
        benchmark = make(y=y, file=tmp_path / "records.json", pictures=True)
        benchmark.clean()
        benchmark.run("FGSM", fgsm)
        benchmark.run("again", fgsm)
        assert [(p.record.attack, p.index) for p in benchmark.kept_pictures] == [("FGSM", 1), ("again", 3)]
        x_adv = fgsm.generate(tiny_images, y=np.eye(10)[y])
        for picture in benchmark.kept_pictures:
            np.testing.assert_array_equal(picture.image, x_adv[picture.index])
        again = make(y=y, file=tmp_path / "records.json", pictures=True)
        again.clean()
        for name in ("FGSM", "again"):
            again.run(name, refusing(fgsm))
        for one, two in zip(benchmark.kept_pictures, again.kept_pictures, strict=True):
            assert (one.record, one.index) == (two.record, two.index)
            np.testing.assert_array_equal(one.image, two.image)

    def test_none_without_being_asked_for(self, make, fgsm, tmp_path):
        benchmark = make(file=tmp_path / "records.json")
        benchmark.run("FGSM", fgsm)
        assert benchmark.kept_pictures == []
        assert [path.name for path in tmp_path.iterdir()] == ["records.json"]


class TestParts:
    def test_purified(self, make, tiny_images):
        np.testing.assert_array_equal(make().purified("grey", tiny_images), Scale(0.25)(tiny_images)[0])

    @pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 2]), (8, [8]), (100, [8])])
    def test_batches(self, make, tiny_classifier, tiny_images, batch_size, sizes):
        seen = []

        def predict(x):
            seen.append(len(x))
            return tiny_classifier.predict(x)

        stub = types.SimpleNamespace(predict=predict, clip_values=(0, 1), preprocessing_defences=None, nb_classes=10)
        benchmark = make(classifier=stub, defences={}, batch_size=batch_size)
        np.testing.assert_allclose(benchmark.predict(tiny_images), tiny_classifier.predict(tiny_images), atol=1e-4)
        assert seen == sizes
        assert [r.correct for r in benchmark.clean()] == [8]


class TestOtherClassifiers:
    def test_pixels_up_to_255(self, make, tiny_classifier, tiny_images):
        """The same attack in other units: the same figures, eps for pixels in [0, 1]."""
        image = keras.Input((32, 32, 3))
        model = keras.Model(image, tiny_classifier.model(keras.layers.Rescaling(1 / 255)(image)))
        classifier = wrap(model, input_shape=(32, 32, 3), clip_values=(0, 255))
        benchmark = make(classifier=classifier, x=255 * tiny_images, defences={})
        benchmark.run("FGSM", FastGradientMethod(classifier, eps=8.0, batch_size=8))
        reference = make(defences={})
        reference.run("FGSM", FastGradientMethod(tiny_classifier, eps=8 / 255, batch_size=8))
        (record,), (expected,) = benchmark.records, reference.records
        assert record.eps == pytest.approx(8 / 255)
        assert record.attack_parameters["eps"] == 8.0
        assert record.correct == expected.correct
        assert record.psnr == pytest.approx(expected.psnr, rel=1e-3)
        assert record.mae == pytest.approx(expected.mae, rel=1e-3)

    def test_channels_first(self, make, tiny_classifier, tiny_images):
        image = keras.Input((3, 32, 32))
        model = keras.Model(image, tiny_classifier.model(keras.layers.Permute((2, 3, 1))(image)))
        classifier = wrap(model, input_shape=(3, 32, 32), clip_values=(0, 1), channels_first=True)
        benchmark = make(classifier=classifier, x=tiny_images.transpose(0, 3, 1, 2))
        benchmark.run("FGSM", FastGradientMethod(classifier, eps=8 / 255, batch_size=8))
        reference = make()
        reference.run("FGSM", FastGradientMethod(tiny_classifier, eps=8 / 255, batch_size=8))
        for record, expected in zip(benchmark.records, reference.records, strict=True):
            assert record.correct == expected.correct
            assert record.ssim == pytest.approx(expected.ssim, rel=1e-4)
            assert record.psnr == pytest.approx(expected.psnr, rel=1e-4)


class TestErrors:
    @pytest.mark.parametrize("classifier", [object(), types.SimpleNamespace(clip_values=None)])
    def test_no_clip_values(self, make, classifier):
        with pytest.raises(ValueError, match=r"Expected an ART classifier with clip_values\."):
            make(classifier=classifier)

    def test_a_classifier_that_is_defended_or_of_several_ranges(self, make, tiny_classifier):
        with pytest.raises(ValueError, match=r"Expected an undefended classifier\. Received one with \[.*Scale"):
            make(classifier=defend(tiny_classifier, Scale()))
        several = wrap(tiny_classifier.model, input_shape=(32, 32, 3), clip_values=(np.zeros(3), np.ones(3)))
        with pytest.raises(ValueError, match="Expected clip_values to be two finite numbers"):
            make(classifier=several)

    @pytest.mark.parametrize(
        ("arguments", "error", "name"),
        [
            ({"x": np.zeros((8, 32, 32, 3), np.uint8)}, TypeError, "x"),
            ({"x": np.full((8, 32, 32, 3), 255.0)}, ValueError, "x"),
            *(({"y": y}, ValueError, "y") for y in (np.zeros(7, int), np.zeros(8), np.eye(10)[:8], "labels")),
            *(({"y": np.full(8, y)}, ValueError, "y") for y in (-1, 10)),
            ({"defences": {"none": Scale()}}, ValueError, "defences"),
            ({"evaluations": 0}, ValueError, "evaluations"),
            ({"batch_size": 0}, ValueError, "batch_size"),
        ],
    )
    def test_bad_values(self, make, arguments, error, name):
        with pytest.raises(error, match=f"Expected {name} "):
            make(**arguments)
