"""Which way imports go, read from the code itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import art_versatile

PACKAGE = Path(art_versatile.__file__).parent
# A module may import from those of its own row and from the rows above it.
ALLOWED = {
    "base": {"_checks", "_defence", "_files", "_numpy_pickle", "_version", "_torch_file"},
    "images": {"base"},
    "classifiers": {"base", "pix2pix"},
    "pix2pix": {"base"},
    "weights": {"base", "pix2pix"},
    "purifier": {"base", "weights", "pix2pix"},
    "attacks": {"base"},
    "pairs": {"base", "attacks", "images"},
    "training": {"base", "weights", "pix2pix", "pairs"},
    "trainer": {"base", "attacks", "pairs", "pix2pix", "purifier", "training"},
    "evaluation": {"base", "attacks"},
    "reports": {"base", "evaluation"},
    "baselines": {"base", "images", "weights", "training"},
    "experiments": {
        "base", "images", "classifiers", "pix2pix", "weights", "purifier", "attacks", "pairs", "training", "trainer",
        "evaluation", "reports", "baselines",
    },
}  # fmt: skip
FREE = {"cli", "__main__", "__init__"}


def home(name):
    return "base" if name in ALLOWED["base"] else name


def imports():
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = (
                    [f"{node.module}.{a.name}" for a in node.names] if node.module == "art_versatile" else [node.module]
                )
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative import in {file}"
            for name in names:
                if name.startswith("art_versatile."):
                    yield "/".join(parts), home(parts[0]), home(name.split(".")[1])


def test_imports_go_one_way():
    found = list(imports())
    assert len(found) > 20
    wrong = [
        (file, target)
        for file, source, target in found
        if source not in FREE and target != source and target not in ALLOWED[source] and target != "__init__"
    ]
    assert not wrong


def test_pix2pix_knows_nothing_of_art():
    for file in (PACKAGE / "pix2pix").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert not [m for m in modules if m and m.split(".")[0] == "art"], file


def test_reports_read_records_only():
    targets = set()
    for file in (PACKAGE / "reports").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("art_versatile.evaluation"):
                targets.add(node.module)
    assert targets <= {"art_versatile.evaluation.records"}


@pytest.mark.parametrize(
    "statement",
    [
        "import art_versatile",
        "import art_versatile.cli",
        "import art_versatile.reports",
        "import art_versatile.weights, art_versatile.images, art_versatile.evaluation.records",
        "import art_versatile.attacks, art_versatile.attacks.seeding",
        "import art_versatile.pairs",
    ],
)
def test_import_is_light(statement):
    code = f"{statement}; import sys; print([m for m in ('tensorflow', 'keras', 'art', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names_are_there():
    assert "VersatilePurifier" in dir(art_versatile)
    for name in art_versatile.__all__:
        assert getattr(art_versatile, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        art_versatile.Nothing  # noqa: B018
