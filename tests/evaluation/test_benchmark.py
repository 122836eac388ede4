from __future__ import annotations

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
from art_versatile.baselines import Identity, RandomResizing
from art_versatile.defended import defend, through
from art_versatile.evaluation.benchmark import PACKAGES, Benchmark, versions
from art_versatile.evaluation.records import load_records, record_key, save_records


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
        benchmark = make(y=tiny_labels, preset="quick", seed=7)
        benchmark.clean()
        assert [r.defence for r in benchmark.records] == ["none", "identity", "grey"]
        grey = Scale(0.25)(tiny_images)[0]
        for record, shown in zip(benchmark.records, (tiny_images, tiny_images, grey), strict=True):
            assert (record.attack, record.threat_model, record.norm, record.eps) == ("clean", "clean", None, None)
            assert record.attack_parameters == {}
            assert record.preset is None
            assert (record.dataset, record.classifier, record.n, record.seed) == ("patches", "tiny", 8, 7)
            assert record.correct == correct(tiny_classifier, shown, tiny_labels)
            assert record.versions == versions()
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
        benchmark = make(preset="paper", seed=3)
        x_adv = benchmark.static("FGSM", fgsm)
        np.testing.assert_array_equal(x_adv, fgsm.generate(tiny_images, y=np.eye(10)[tiny_labels]))
        none, identity, grey = benchmark.records
        assert none.correct == identity.correct == correct(tiny_classifier, x_adv, tiny_labels) < 8
        purified = Scale(0.25)(x_adv)[0]
        assert grey.correct == correct(tiny_classifier, purified, tiny_labels)
        for record, shown in ((none, x_adv), (identity, x_adv), (grey, purified)):
            assert_distances(record, shown, tiny_images)
            assert (record.attack, record.threat_model, record.preset, record.seed) == ("FGSM", "static", "paper", 3)
            assert (record.norm, record.eps, record.n) == ("inf", 8 / 255, 8)
            assert record.attack_parameters == attack_parameters(fgsm)
            assert record.seconds > 0

    def test_the_attack_sees_no_defence(self, make, fgsm, tiny_images):
        defence = Scale(0.25)
        benchmark = make(defences={"grey": defence})
        x_adv = benchmark.static("FGSM", fgsm)
        np.testing.assert_array_equal(defence.given[-1], x_adv)
        assert [len(given) for given in defence.given] == [2, 2, 8]  # twice the first two: is it random?
        np.testing.assert_array_equal(benchmark.x, tiny_images)

    def test_the_true_labels_are_attacked(self, make, tiny_images, tiny_labels):
        """An image that is already wrong must stay wrong, not be pushed away from the answer given."""
        y = (tiny_labels + 1) % 10
        seen = []

        class Spy:
            attack_params, targeted = (), False

            def generate(self, x, y):
                seen.append(y)
                return x

        make(y=y).static("spy", Spy())
        np.testing.assert_array_equal(seen[0], np.eye(10)[y])

    @pytest.mark.parametrize("threat_model", ["static", "transfer"])
    def test_threat_models(self, make, fgsm, threat_model):
        benchmark = make()
        benchmark.static("FGSM", fgsm, threat_model)
        assert {r.threat_model for r in benchmark.records} == {threat_model}

    @pytest.mark.parametrize("threat_model", ["clean", "adaptive", "query", "white-box"])
    def test_other_threat_models(self, make, fgsm, threat_model):
        expected = f"Expected threat_model to be one of ['static', 'transfer']. Received {threat_model!r}."
        with pytest.raises(ValueError, match=re.escape(expected)):
            make().static("FGSM", fgsm, threat_model)

    def test_an_unbounded_attack(self, make, tiny_classifier):
        attack = CarliniL2Method(tiny_classifier, max_iter=1, binary_search_steps=1, batch_size=8, verbose=False)
        benchmark = make()
        benchmark.static("C&W", attack)
        assert {(r.norm, r.eps) for r in benchmark.records} == {("2", None)}

    def test_nested_parameters(self, make, tiny_classifier, tiny_images, tiny_labels):
        attack = paper_attacks(tiny_classifier, effort="quick", max_iter=1)["AutoAttack"]
        benchmark = make(x=tiny_images[:2], y=tiny_labels[:2])
        benchmark.static("AutoAttack", attack)
        assert len(benchmark.records[0].attack_parameters["attacks"]) == 3

    def test_random_attacks_follow_the_seed_and_leave_the_global_state(self, make, tiny_classifier):
        attack = ProjectedGradientDescent(
            tiny_classifier, eps=0.1, eps_step=0.01, max_iter=1, num_random_init=1, batch_size=8, verbose=False
        )
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        made = [make(seed=seed).static("PGD", attack) for seed in (0, 0, 1)]
        np.testing.assert_array_equal(made[0], made[1])
        assert not np.array_equal(made[0], made[2])
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

    def test_an_attack_that_leaves_the_range_is_cut(self, make, tiny_images):
        class Beyond:
            attack_params, targeted = (), False

            def generate(self, x, y):
                return x + 0.5

        np.testing.assert_array_equal(make().static("beyond", Beyond()), np.clip(tiny_images + 0.5, 0, 1))

    def test_targeted_attacks(self, make, tiny_classifier):
        attack = FastGradientMethod(tiny_classifier, targeted=True)
        benchmark = make()
        through = FastGradientMethod(defend(tiny_classifier, benchmark.defences["identity"]), targeted=True)
        expected = r"Expected an untargeted attack\. Received a targeted FastGradientMethod\."
        with pytest.raises(ValueError, match=expected):
            benchmark.static("FGSM", attack)
        with pytest.raises(ValueError, match=expected):
            benchmark.adaptive("FGSM", "identity", through)
        assert benchmark.records == []


class TestAdaptive:
    @staticmethod
    def through(benchmark, defence, kind=FastGradientMethod, **arguments):
        defended = defend(benchmark.classifier, benchmark.defences[defence])
        return kind(defended, **{"eps": 8 / 255, "batch_size": 8, **arguments})

    def test_one_record_behind_one_defence(self, make, tiny_classifier, tiny_images, tiny_labels):
        benchmark = make()
        x_adv = benchmark.adaptive("FGSM through it", "grey", self.through(benchmark, "grey"))
        (record,) = benchmark.records
        assert (record.defence, record.threat_model, record.attack) == ("grey", "adaptive", "FGSM through it")
        purified = Scale(0.25)(x_adv)[0]
        assert record.correct == correct(tiny_classifier, purified, tiny_labels)
        assert record.attack_parameters["gradient"] == "the defence's own"
        assert record.attack_parameters["eot_samples"] == 1
        assert record.flags == ()
        assert_distances(record, purified, tiny_images)

    def test_bpda_and_eot_are_recorded(self, make, tiny_classifier):
        defence = RandomResizing(sizes=(28, 32), reference=32, output_size="input", seed=0)
        benchmark = make(defences={"resizing": defence})
        classifier = through(tiny_classifier, defence, gradient="bpda", eot_samples=3, seed=0)
        benchmark.adaptive("FGSM", "resizing", FastGradientMethod(classifier, eps=0.1, batch_size=8))
        parameters = benchmark.records[0].attack_parameters
        assert (parameters["gradient"], parameters["eot_samples"]) == ("identity (BPDA)", 3)

    def test_queries(self, make, tiny_classifier, tiny_images, tiny_labels):
        benchmark = make()
        attack = self.through(benchmark, "grey", SquareAttack, max_iter=5, nb_restarts=1, verbose=False)
        x_adv = benchmark.query("Square", "grey", attack)
        (record,) = benchmark.records
        assert (record.threat_model, record.defence, record.eps) == ("query", "grey", 8 / 255)
        assert record.correct == correct(tiny_classifier, Scale(0.25)(x_adv)[0], tiny_labels)
        assert "gradient" not in record.attack_parameters

    def test_the_wrong_kind(self, make):
        benchmark = make()
        square = self.through(benchmark, "grey", SquareAttack, max_iter=5, nb_restarts=1, verbose=False)
        with pytest.raises(ValueError, match=r"Expected an attack with gradients\. Received SquareAttack\."):
            benchmark.adaptive("Square", "grey", square)
        with pytest.raises(ValueError, match=r"Expected an attack without gradients\. Received FastGradientMethod\."):
            benchmark.query("FGSM", "grey", self.through(benchmark, "grey"))
        assert benchmark.records == []

    def test_an_attack_that_goes_round_the_defence(self, make, fgsm):
        """The commonest mistake of all: the attack does not know the defence, and the defence looks robust."""
        benchmark = make()
        other = self.through(benchmark, "identity")
        for attack in (fgsm, other):
            with pytest.raises(
                ValueError, match=r"Expected an attack built on the classifier behind 'grey' alone\. Received"
            ):
                benchmark.adaptive("FGSM", "grey", attack)
        with pytest.raises(ValueError, match="Expected a static attack to be built on the undefended classifier"):
            benchmark.static("FGSM", other)

    def test_behind_the_same_defence_another_classifier(self, make, tiny_classifier):
        benchmark = make()
        model = keras.models.clone_model(tiny_classifier.model)
        other = TestOtherClassifiers.wrap(model, input_shape=(32, 32, 3), clip_values=(0, 1))
        attack = FastGradientMethod(defend(other, benchmark.defences["grey"]))
        with pytest.raises(ValueError, match="Received one on another, equally defended"):
            benchmark.adaptive("FGSM", "grey", attack)

    def test_through_more_than_the_defence(self, make, tiny_classifier):
        benchmark = make(defences={"identity": Identity(), "other": Identity()})
        twice = defend(defend(tiny_classifier, benchmark.defences["identity"]), benchmark.defences["other"])
        with pytest.raises(ValueError, match=r"built on the classifier behind 'identity' alone"):
            benchmark.adaptive("FGSM", "identity", FastGradientMethod(twice))

    def test_a_defence_that_leaves_the_range(self, make):
        class Beyond(Scale):
            def __call__(self, x, y=None):
                return x + 1, y

        with pytest.raises(ValueError, match="Expected what 'beyond' makes of images inside clip_values"):
            make(defences={"beyond": Beyond()}).clean()

    def test_a_budget_a_pixel(self, make, tiny_classifier):
        eps = np.full((1, 1, 1, 1), 0.1)
        attack = FastGradientMethod(tiny_classifier, eps=eps, eps_step=eps)
        benchmark = make()
        benchmark.static("FGSM", attack)
        assert benchmark.records[0].eps is None

    def test_a_static_attack_on_another_classifier(self, make, tiny_classifier):
        model = keras.models.clone_model(tiny_classifier.model)
        other = FastGradientMethod(TestOtherClassifiers.wrap(model, input_shape=(32, 32, 3), clip_values=(0, 1)))
        with pytest.raises(ValueError, match=r"that is threat_model='transfer'"):
            make().static("FGSM", other)
        make().static("FGSM", other, "transfer")

    def test_a_masked_gradient_is_flagged(self, make, tiny_classifier):
        class Masked(Scale):
            def estimate_gradient(self, x, grad):
                return np.zeros_like(grad)

        benchmark = make(defences={"masked": Masked()})
        benchmark.adaptive("FGSM", "masked", self.through(benchmark, "masked"))
        assert benchmark.records[0].flags == ("masked gradient: zero at 8 of 8 images",)

    def test_an_attack_over_its_budget_is_flagged(self, make, fgsm):
        fgsm.generate = lambda x, y: np.clip(x + 0.05, 0, 1)
        benchmark = make()
        benchmark.static("FGSM", fgsm)
        assert benchmark.records[0].flags == ("over budget: 0.05 in place of 0.0313725",)

    def test_unknown_defences(self, make, fgsm):
        with pytest.raises(
            ValueError, match=r"Expected defence to be one of \['identity', 'grey'\]\. Received 'none'\."
        ):
            make().adaptive("FGSM", "none", fgsm)


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
        classifier = TestOtherClassifiers.wrap(
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
        assert not benchmark.done("FGSM", fgsm)
        benchmark.static("FGSM", fgsm)
        assert load_records(path) == benchmark.records
        again = make(file=path)
        assert again.records == []
        assert again.done("FGSM", fgsm)
        again.clean()
        assert sorted(again.records, key=record_key) == sorted(benchmark.records, key=record_key)
        assert not again.done("FGSM", FastGradientMethod(again.classifier, eps=4 / 255))
        assert not again.done("PGD", fgsm)
        assert not make(file=path, seed=1).done("FGSM", fgsm)
        assert not make(file=path, x=again.x[::-1]).done("FGSM", fgsm)  # other images of the same name
        again.static("FGSM", fgsm)  # the cell is filled once
        assert len(load_records(path)) == len(benchmark.records)

    def test_images_that_went_through_a_file(self, make, fgsm, tiny_classifier, tiny_labels):
        benchmark = make()
        x_adv = benchmark.static("FGSM", fgsm)
        rounded = (np.round(x_adv * 7) / 7).astype(np.float32)
        assert not benchmark.done("FGSM, rounded", fgsm, extra={"storage": "3 bits"})
        benchmark.stored("FGSM, rounded", fgsm, rounded, "3 bits")
        assert benchmark.done("FGSM, rounded", fgsm, extra={"storage": "3 bits"})
        floats, none = benchmark.records[0], benchmark.records[3]
        assert none.attack_parameters == {**floats.attack_parameters, "storage": "3 bits"}
        assert none.correct == correct(tiny_classifier, rounded, tiny_labels)
        assert none.flags == ()  # a rounded pixel may leave the budget
        with pytest.raises(ValueError, match=r"Expected x_adv of the shape of x, \(8, 32, 32, 3\)"):
            benchmark.stored("FGSM, rounded", fgsm, rounded[:7], "3 bits")

    def test_records_of_other_runs_are_kept_and_not_mixed_in(self, make, fgsm, tmp_path):
        path = tmp_path / "records.json"
        first = make(file=path)
        first.clean()
        other = make(file=path, dataset="others", defences={"grey": Scale(0.5)})
        other.clean()
        other.static("FGSM", fgsm)
        assert {record.dataset for record in other.records} == {"others"}
        assert load_records(path) == [*first.records, *other.records]

    def test_only_missing_clean_cells_are_measured(self, make, tmp_path):
        path = tmp_path / "records.json"
        make(file=path, defences={"grey": Scale(0.25)}).clean()
        benchmark = make(file=path)
        measured = []
        shown = benchmark._shown
        benchmark._shown = lambda defence, x: measured.append(defence) or shown(defence, x)
        benchmark.clean()
        assert measured == ["identity"]
        assert {record.defence for record in benchmark.records} == {"none", "identity", "grey"}

    def test_what_else_a_record_says(self, make, fgsm):
        benchmark = make()
        benchmark.static("FGSM", fgsm, "transfer", extra={"surrogate": "a"})
        assert benchmark.records[0].attack_parameters["surrogate"] == "a"
        assert benchmark.done("FGSM", fgsm, threat_model="transfer", extra={"surrogate": "a"})
        assert not benchmark.done("FGSM", fgsm, threat_model="transfer", extra={"surrogate": "b"})

    def test_revised(self, make, tmp_path):
        path = tmp_path / "records.json"
        benchmark = make(file=path)
        benchmark.clean()
        flagged = [dataclasses.replace(record, flags=("seen",)) for record in benchmark.records]
        benchmark.revise(flagged)
        assert benchmark.records == load_records(path) == flagged


class TestParts:
    def test_purified(self, make, tiny_images):
        np.testing.assert_array_equal(make().purified("grey", tiny_images), Scale(0.25)(tiny_images)[0])

    @pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 2]), (8, [8]), (100, [8])])
    def test_batches(self, tiny_classifier, tiny_images, tiny_labels, batch_size, sizes):
        seen = []

        def predict(x):
            seen.append(len(x))
            return tiny_classifier.predict(x)

        stub = types.SimpleNamespace(predict=predict, clip_values=(0, 1), preprocessing_defences=None, nb_classes=10)
        benchmark = Benchmark(
            classifier=stub,
            x=tiny_images,
            y=tiny_labels,
            defences={},
            dataset="patches",
            classifier_name="stub",
            batch_size=batch_size,
        )
        np.testing.assert_allclose(benchmark.predict(tiny_images), tiny_classifier.predict(tiny_images), atol=1e-4)
        assert seen == sizes
        benchmark.clean()
        assert [r.correct for r in benchmark.records] == [8]

    def test_a_file_of_the_records(self, make, fgsm, tmp_path):
        benchmark = make()
        benchmark.clean()
        benchmark.static("FGSM", fgsm)
        through_it = FastGradientMethod(defend(benchmark.classifier, benchmark.defences["grey"]), eps=8 / 255)
        benchmark.adaptive("FGSM through it", "grey", through_it)
        assert load_records(save_records(benchmark.records, tmp_path / "records.json")) == benchmark.records


class TestOtherClassifiers:
    @staticmethod
    def wrap(model, **arguments):
        return TensorFlowV2Classifier(
            model=model,
            nb_classes=10,
            loss_object=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
            **arguments,
        )

    def test_pixels_up_to_255(self, make, tiny_classifier, tiny_images):
        """The same attack in other units: the same figures, eps for pixels in [0, 1]."""
        image = keras.Input((32, 32, 3))
        model = keras.Model(image, tiny_classifier.model(keras.layers.Rescaling(1 / 255)(image)))
        classifier = self.wrap(model, input_shape=(32, 32, 3), clip_values=(0, 255))
        benchmark = make(classifier=classifier, x=255 * tiny_images, defences={})
        benchmark.static("FGSM", FastGradientMethod(classifier, eps=8.0, batch_size=8))
        reference = make(defences={})
        reference.static("FGSM", FastGradientMethod(tiny_classifier, eps=8 / 255, batch_size=8))
        (record,), (expected,) = benchmark.records, reference.records
        assert record.eps == pytest.approx(8 / 255)
        assert record.attack_parameters["eps"] == 8.0
        assert record.correct == expected.correct
        assert record.psnr == pytest.approx(expected.psnr, rel=1e-3)
        assert record.mae == pytest.approx(expected.mae, rel=1e-3)

    def test_channels_first(self, make, tiny_classifier, tiny_images):
        image = keras.Input((3, 32, 32))
        model = keras.Model(image, tiny_classifier.model(keras.layers.Permute((2, 3, 1))(image)))
        classifier = self.wrap(model, input_shape=(3, 32, 32), clip_values=(0, 1), channels_first=True)
        benchmark = make(classifier=classifier, x=tiny_images.transpose(0, 3, 1, 2))
        benchmark.static("FGSM", FastGradientMethod(classifier, eps=8 / 255, batch_size=8))
        reference = make()
        reference.static("FGSM", FastGradientMethod(tiny_classifier, eps=8 / 255, batch_size=8))
        for record, expected in zip(benchmark.records, reference.records, strict=True):
            assert record.correct == expected.correct
            assert record.ssim == pytest.approx(expected.ssim, rel=1e-4)
            assert record.psnr == pytest.approx(expected.psnr, rel=1e-4)


class TestErrors:
    def test_a_defended_classifier(self, make, tiny_classifier):
        defended = TensorFlowV2Classifier(
            model=tiny_classifier.model,
            nb_classes=10,
            input_shape=(32, 32, 3),
            clip_values=(0, 1),
            preprocessing_defences=[Scale()],
        )
        with pytest.raises(ValueError, match=r"Expected an undefended classifier\. Received one with \[.*Scale"):
            make(classifier=defended)

    @pytest.mark.parametrize("classifier", [object(), types.SimpleNamespace(clip_values=None)])
    def test_no_clip_values(self, make, classifier):
        with pytest.raises(ValueError, match=r"Expected an ART classifier with clip_values\. Received one without\."):
            make(classifier=classifier)

    def test_clip_values_of_each_channel(self, make, tiny_classifier):
        per_channel = (np.zeros(3), np.ones(3))
        classifier = TensorFlowV2Classifier(
            model=tiny_classifier.model, nb_classes=10, input_shape=(32, 32, 3), clip_values=per_channel
        )
        with pytest.raises(ValueError, match=r"Expected clip_values to be two finite numbers \(minimum, maximum\)"):
            make(classifier=classifier)

    def test_images(self, make, tiny_images):
        with pytest.raises(TypeError, match="Expected x to be an array of floats"):
            make(x=(255 * tiny_images).astype(np.uint8))
        with pytest.raises(ValueError, match="Expected x inside clip_values"):
            make(x=255 * tiny_images)

    @pytest.mark.parametrize("y", [np.zeros(7, int), np.zeros(8), np.eye(10)[:8], "labels"])
    def test_labels(self, make, y):
        with pytest.raises(ValueError, match=r"Expected y to be 8 class indices\. Received shape"):
            make(y=y)

    @pytest.mark.parametrize("wrong", [-1, 10])
    def test_labels_beyond_the_classes(self, make, tiny_labels, wrong):
        y = tiny_labels.copy()
        y[2] = wrong
        with pytest.raises(ValueError, match=rf"Expected y from 0 to 9\. Received .*{wrong}"):
            make(y=y)

    def test_a_defence_named_none(self, make):
        with pytest.raises(ValueError, match=r"Expected defences by names other than 'none'\. Received \['none'\]\."):
            make(defences={"none": Scale()})
