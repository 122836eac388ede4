"""Which way imports go, read from the code itself."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import art_versatile

PACKAGE = Path(art_versatile.__file__).parent
# A module may import from those of its own row and from the rows above it.
ALLOWED = {
    "base": {"_checks", "_defence", "_files", "_numpy_pickle", "_torch_file", "_version"},
    "images": {"base"},
    "classifiers": {"base", "pix2pix"},
    "pix2pix": {"base"},
    "weights": {"base", "pix2pix"},
    "purifier": {"base", "weights", "pix2pix"},
    "export": {"base", "images", "pix2pix", "purifier"},
    "lineage": {"weights"},
    "compiled": {"base"},
    "defended": {"base", "compiled"},
    "attacks": {"base", "compiled", "defended"},
    "pairs": {"base", "attacks", "images"},
    "training": {"base", "weights", "pix2pix", "attacks", "pairs"},
    "trainer": {"base", "weights", "attacks", "compiled", "defended", "pairs", "pix2pix", "purifier", "training"},
    "evaluation": {"base", "attacks"},
    "physical": {"base", "images", "attacks", "compiled"},
    "reports": {"base", "evaluation", "physical"},
    "baselines": {"base", "images", "pix2pix", "weights", "training"},
    "app": {
        "base", "images", "classifiers", "weights", "purifier", "attacks", "compiled", "defended", "evaluation",
        "reports",
    },
    "experiments": {
        "base", "images", "classifiers", "pix2pix", "weights", "purifier", "compiled", "attacks", "pairs", "training",
        "trainer", "evaluation", "reports", "baselines", "physical",
    },
}  # fmt: skip
FREE = {"cli", "__main__", "__init__"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def home(parts):
    """A floor: the first folder or module, but that attacks/compiled is one of its own."""
    if tuple(parts[:2]) == ("attacks", "compiled"):
        return "compiled"
    return "base" if parts[0] in ALLOWED["base"] else parts[0]


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
                    yield "/".join(parts), home(parts), home(name.split(".")[1:])


def test_imports_go_one_way():
    found = list(imports())
    assert len(found) > 20
    wrong = [
        (file, target)
        for file, source, target in found
        if source not in FREE and target != source and target not in ALLOWED[source] and target != "__init__"
    ]
    assert not wrong


# What a new version of ART may rename without a word.
PRIVATE = {
    "_apply_fit", "_apply_predict", "_apply_preprocessing", "_attack", "_compute", "_compute_tf", "_estimator",
    "_estimator_requirements", "_forward_pass", "_generate_batch", "_loss_object", "_random_eps",
    "_reduce_labels", "_set_targets", "_targeted", "__class__",
}  # fmt: skip


def test_private_parts_of_art_are_touched_in_one_place():
    for file in sorted(PACKAGE.rglob("*.py")):
        if (PACKAGE / "attacks" / "compiled") in file.parents:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "attr", getattr(node, "value", None))
            assert not isinstance(name, str) or name not in PRIVATE, (file, name)


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
        "import art_versatile.reports.html, art_versatile.experiments.robustness",
        "import art_versatile.weights, art_versatile.images, art_versatile.evaluation.records",
        "import art_versatile.attacks, art_versatile.attacks.seeding",
        "import art_versatile.pairs",
        "import art_versatile.baselines",
        "import art_versatile.physical",
        "import art_versatile.app",
        "import art_versatile.export",
    ],
)
def test_import_is_light(statement):
    heavy = ("tensorflow", "keras", "art", "torch", "skimage")
    code = f"{statement}; import sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names_are_there():
    expected = {
        "LossSchedule", "PAPER_SCHEDULE", "VersatilePurifier", "VersatileTrainer", "__version__", "adaptive_attacks",
        "compile_attack", "compile_classifier", "evaluate", "generate_pairs", "paper_attacks", "train",
    }  # fmt: skip
    assert set(art_versatile.__all__) == expected
    assert "VersatilePurifier" in dir(art_versatile)


@pytest.mark.parametrize("file", [PACKAGE / "__init__.py", *PACKAGE.glob("*/__init__.py")], ids=lambda f: f.parent.name)
def test_names_are_the_same_for_a_type_checker(file):
    """Where names are lazy, the imports that only a type checker sees name the same, in the same modules."""
    package = importlib.import_module(".".join(file.parent.relative_to(PACKAGE.parent).parts))
    seen = {
        (alias.name, node.module)
        for block in ast.parse(file.read_text()).body
        if isinstance(block, ast.If)
        for node in block.body
        for alias in node.names
    }
    for name, module in seen:
        assert getattr(package, name) is getattr(importlib.import_module(module), name), name
    if seen:
        assert {name for name, _ in seen} == set(package.__all__) - {"__version__"}
        with pytest.raises(AttributeError, match="Nothing"):
            package.Nothing  # noqa: B018


def test_every_name_that_is_written_of_is_there():
    """In README and in the docstrings: dotted names, and what the code between fences imports."""
    readme = PACKAGE.parent / "README.md"
    texts = {readme: readme.read_text()} if readme.is_file() else {}
    imported = re.findall(r"```python\n(.*?)```", "".join(texts.values()), re.S)
    for file in PACKAGE.rglob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, DOCUMENTED)]
        texts[file] = "\n".join(ast.get_docstring(node) or "" for node in nodes)
    missing = []
    for file, text in texts.items():
        names = set(re.findall(r"\bart_versatile(?:\.\w+)+", text))
        if file == readme:
            for node in (node for block in imported for node in ast.walk(ast.parse(block))):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "art_versatile":
                    names |= {f"{node.module}.{alias.name}" for alias in node.names}
        missing += [(file.name, name) for name in sorted(names) if not found(name)]
    assert not missing


def found(name):
    """Whether a dotted name is a module, or an attribute of one."""
    module, *rest = name.split(".")
    thing = importlib.import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        try:
            thing = getattr(thing, part)
        except AttributeError:
            try:
                thing = importlib.import_module(module)
            except ModuleNotFoundError:
                return False
    return True
