from __future__ import annotations

import numpy as np
import pytest
from art.attacks.evasion import CarliniL2Method, FastGradientMethod

from art_versatile.pairs import JoinedPairs, MemoryPairs, attack_in_memory, generate_pairs
from art_versatile.pairs.replay import UpdateSource, drawn, joined, split_off


def pairs(counts, images=None, labels=True, first=0.0):
    """Pairs whose clean image has its number as its level, of attacks by name."""
    total = sum(counts.values())
    level = np.float32(first) + np.arange(total, dtype=np.float32)[:, None, None, None] / 100
    clean = level * np.ones((1, 4, 4, 3), np.float32)
    return MemoryPairs(
        clean,
        clean,
        np.arange(total) if labels else None,
        np.repeat(np.arange(len(counts)), list(counts.values())),
        list(counts),
        images=images,
    )


def attacks(classifier, *eps):
    return {f"FGSM {value}": FastGradientMethod(classifier, eps=value) for value in eps}


def levels(found):
    return (100 * found.clean[:, 0, 0, 0]).round().astype(int).tolist()


class TestDrawn:
    def test_evenly_at_random_and_by_seed(self):
        found = drawn(pairs({"A": 2, "B": 20, "C": 20}), 12, seed=1)
        assert found.counts == {"A": 2, "B": 5, "C": 5}
        assert len(set(levels(found))) == 12
        assert levels(found) == found.labels.tolist()
        assert levels(drawn(pairs({"A": 2, "B": 20, "C": 20}), 12, seed=1)) == levels(found)
        assert levels(drawn(pairs({"A": 2, "B": 20, "C": 20}), 12, seed=2)) != levels(found)

    def test_of_stores(self, tiny_classifier, tiny_images, tmp_path):
        stores = [
            generate_pairs(
                tiny_images, tiny_classifier, attacks(tiny_classifier, *eps), tmp_path / str(n), split="every",
                dtype="float32", verbose=False,
            )
            for n, eps in enumerate([(0.1, 0.2), (0.2,)])
        ]  # fmt: skip
        found = drawn(JoinedPairs(stores), 8)
        assert found.counts == {"FGSM 0.1": 2, "FGSM 0.2": 6}
        assert drawn(stores[0], 4).counts == {"FGSM 0.1": 2, "FGSM 0.2": 2}

    def test_refused(self, tiny_images):
        with pytest.raises(ValueError, match="limit"):
            drawn(pairs({"A": 2}), 0)
        with pytest.raises(TypeError, match="Expected pairs in memory or in stores"):
            drawn(pairs({"A": 2}).only(["A"]), 1)


def test_joined():
    parts = [pairs({"A": 2, "B": 1}, images=np.array([0, 1, 1])), pairs({"B": 1, "C": 1}, images=np.array([0, 3]))]
    found = joined(parts)
    assert found.attacks == ("A", "B", "C")
    assert found.counts == {"A": 2, "B": 2, "C": 1}
    assert found.indices.tolist() == [0, 0, 1, 1, 2]
    assert found.images.tolist() == [0, 1, 1, 2, 5]
    assert levels(found) == [0, 1, 2, 0, 1]
    assert not joined([parts[0], pairs({"A": 1}, labels=False)]).has_labels
    assert joined([parts[0], pairs({"A": 1})]).images is None
    with pytest.raises(ValueError, match="one clip_values"):
        joined([parts[0], MemoryPairs(parts[0].clean, parts[0].clean, clip_values=(0, 255))])
    with pytest.raises(ValueError, match="at least one"):
        joined([])


def test_split_off_has_no_image_in_common():
    numbers = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    rest, held = split_off(pairs({"A": 5, "B": 5}, images=numbers), 0.4, seed=3)
    assert (len(rest), len(held)) == (6, 4)
    assert not set(rest.images) & set(held.images)
    assert held.counts == {"A": 2, "B": 2}
    assert [len(part) for part in split_off(pairs({"A": 2}), 0.0)] == [1, 1]
    with pytest.raises(ValueError, match="two images"):
        split_off(pairs({"A": 1}), 0.5)


class TestUpdateSource:
    def test_of_images(self, tiny_classifier, tiny_images):
        """A fifth is held, of both kinds; the memory is bounded; pairs are those of the attacks."""
        known, new = attacks(tiny_classifier, 0.1, 0.2), attacks(tiny_classifier, 0.05)
        source = UpdateSource(tiny_classifier, known, (tiny_images, None), new, memory=4, split="every", verbose=False)
        fresh, old, held = source.make()
        assert fresh.counts == {"FGSM 0.05": 6}
        assert old.counts == {"FGSM 0.1": 4, "FGSM 0.2": 4}
        assert held.counts == {"FGSM 0.05": 2, "FGSM 0.1": 2, "FGSM 0.2": 2}
        assert (source.new_names, source.replayed_names) == (("FGSM 0.05",), ("FGSM 0.1", "FGSM 0.2"))
        assert source.held_names == held.attacks
        assert source.image_shape == (32, 32, 3)
        seen = {image.tobytes() for image in fresh.clean}
        assert not seen & {image.tobytes() for image in held.clean}
        assert {image.tobytes() for image in old.clean} < seen
        assert seen < {image.tobytes() for image in tiny_images}
        expected = attack_in_memory(held.clean[:2], tiny_classifier, new, split="every", verbose=False)
        np.testing.assert_allclose(held.adversarial[:2], expected.adversarial, atol=1e-6)

    def test_without_a_memory_the_old_attacks_are_still_held(self, tiny_classifier, tiny_images):
        known, new = attacks(tiny_classifier, 0.1), attacks(tiny_classifier, 0.05)
        source = UpdateSource(tiny_classifier, known, (tiny_images, None), new, memory=0, verbose=False)
        _, old, held = source.make()
        assert old is None
        assert source.replayed_names == ()
        assert set(held.counts) == {"FGSM 0.05", "FGSM 0.1"}

    def test_of_pairs(self, tiny_classifier):
        fresh, old, held = UpdateSource(
            tiny_classifier, {}, pairs({"N": 10}), {}, old=pairs({"A": 10, "B": 30}, first=0.5), memory=8
        ).make()
        assert fresh.counts == {"N": 8}
        # 10 are drawn, a fifth of these is held.
        assert len(old) == 8
        assert sum(held.counts.values()) == 4
        assert min(old.clean.min(), held.clean[2:].min()) >= 0.5
        given = pairs({"N": 1, "A": 1})
        fresh, old, held = UpdateSource(tiny_classifier, {}, pairs({"N": 10}), {}, held=given).make()
        assert (len(fresh), old, levels(held)) == (10, None, levels(given))

    def test_held_images(self, tiny_classifier, tiny_images, tiny_labels):
        known, new = attacks(tiny_classifier, 0.1), attacks(tiny_classifier, 0.05)
        source = UpdateSource(
            tiny_classifier, known, (tiny_images[:5], None), new, held=(tiny_images[5:], tiny_labels[5:]), verbose=False
        )
        fresh, _, held = source.make()
        assert (len(fresh), len(held)) == (5, 6)
        assert sorted(held.labels) == sorted([*tiny_labels[5:], *tiny_labels[5:]])

    def test_attacks_without_a_budget(self, tiny_classifier, tiny_images, tmp_path):
        unbounded = {"C&W": CarliniL2Method(tiny_classifier, max_iter=1, binary_search_steps=1, verbose=False)}
        store = generate_pairs(tiny_images, tiny_classifier, unbounded, tmp_path / "store", verbose=False)
        new = attacks(tiny_classifier, 0.05)
        assert UpdateSource(tiny_classifier, {}, (tiny_images, None), new, old=store, memory=4).unscaled == ("C&W",)
        assert UpdateSource(tiny_classifier, unbounded, (tiny_images, None), new).unscaled == ("C&W",)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"memory": -1}, "memory"),
            ({"memory": 0, "old": "pairs"}, "memory of at least 1"),
            ({"attacks": {}}, "at least one attack"),
            ({"known": "same"}, "other names"),
            ({"old": "small"}, r"old pairs of \(32, 32, 3\)"),
            ({"new": "one"}, "Expected images"),
            ({"new": "pairs"}, "no attacks with pairs"),
        ],
    )
    def test_refused(self, tiny_classifier, tiny_images, changes, message):
        new = attacks(tiny_classifier, 0.05)
        big = MemoryPairs(tiny_images, tiny_images, attacks=["A"])
        given = {
            "pairs": big, "same": new, "small": pairs({"A": 2}), "one": (tiny_images[:1], None),
        }  # fmt: skip
        settings = {
            "known": attacks(tiny_classifier, 0.1), "new": (tiny_images, None), "attacks": new,
            **{key: given[value] if isinstance(value, str) else value for key, value in changes.items()},
        }  # fmt: skip
        with pytest.raises(ValueError, match=message):
            UpdateSource(tiny_classifier, **settings)
