"""What the documentation names imports as it says."""

import importlib

import pytest

NAMES = {
    "art_versatile.evaluation": {"Benchmark", "EvaluationRecord", "load_records", "masking_checks", "verdict"},
    "art_versatile.experiments": {"Plan", "evaluate", "reproduce", "run_demo"},
    "art_versatile.reports": {"accuracy_table", "tables_by_threat_model", "write_report"},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name):
    module = importlib.import_module(name)
    assert set(module.__all__) >= NAMES[name]
    for public in module.__all__:
        assert getattr(module, public) is not None
        assert public in dir(module)
    with pytest.raises(AttributeError):
        module.Nothing  # noqa: B018
