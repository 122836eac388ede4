import json
import shutil

import pytest

from art_versatile import weights
from art_versatile.lineage import Listed, accuracy_matrix, find_weights
from art_versatile.pix2pix import CompactGenerator


def update(parent, before, after, held="h"):
    return {
        "parent": {"sha256": parent}, "added": {"N": {}}, "held": {"clean_sha256": held},
        "accuracy": {"before": before, "after": after},
    }  # fmt: skip


def listed(sha256, *updates):
    return Listed(sha256, {"weights": {"sha256": sha256}, "lineage": list(updates)})


def test_found(tmp_path):
    generator = CompactGenerator(widths=(4,), blocks=(1,), factor=2)
    for name in ("b", "a/best", ".hidden"):
        weights.save(generator, tmp_path / name, card={"lineage": [update("p", {}, {})]})
    shutil.copytree(tmp_path / "b", tmp_path / "w/x/y/z")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "card.json").write_text(json.dumps({"format": 99}))
    found = find_weights([tmp_path])
    shipped = [entry.name for entry in found[:-2]]
    assert shipped == ["compact", "super_resolution_small"]
    assert [entry.name for entry in found[-2:]] == [str(tmp_path / "a/best"), str(tmp_path / "b")]
    assert found[-1].sha256 == weights.sha256(generator, {})
    assert found[-1].updates[0]["parent"]["sha256"] == "p"
    assert find_weights([tmp_path / "b"])[-1].name == str(tmp_path / "b")


def test_a_child_and_its_parent():
    """Both on the pairs of that update; the parent's own figures are of others."""
    first = update("grandparent", {"clean": 1.0}, {"clean": 0.5, "A": 0.4}, held="other")
    parent = listed("parent", first)
    child = listed("child", first, update("parent", {"clean": 0.9, "N": 0.1}, {"clean": 0.8, "N": 0.7}))
    matrix = accuracy_matrix(parent, child)
    assert matrix.rows == {"clean": (0.9, 0.8), "N": (0.1, 0.7)}
    assert matrix.same_pairs
    backwards = accuracy_matrix(child, parent)
    assert backwards.rows == {"clean": (0.8, 0.9), "N": (0.7, 0.1)}
    earlier = accuracy_matrix(listed("grandparent"), child)
    assert earlier.rows == {"clean": (1.0, 0.8), "N": (None, 0.7)}
    assert not earlier.same_pairs


def test_siblings():
    a = listed("a", update("parent", {"clean": 0.9}, {"clean": 0.7, "A": 0.5}))
    b = listed("b", update("parent", {"clean": 0.9}, {"clean": 0.8, "B": 0.6}))
    assert accuracy_matrix(a, b).rows == {"clean": (0.7, 0.8), "B": (None, 0.6), "A": (0.5, None)}
    with pytest.raises(ValueError, match="no such figures"):
        accuracy_matrix(listed("stranger"), b)
