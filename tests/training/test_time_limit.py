from __future__ import annotations

import types

import pytest

from art_versatile.training.time_limit import TimeLimit


def test_it_ends_with_the_epoch_in_which_the_time_has_passed(monkeypatch):
    now = iter([100.0, 159.9, 160.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    limit = TimeLimit(1)
    limit.set_model(types.SimpleNamespace(stop_training=False))
    limit.on_train_begin()
    stopped = []
    for epoch in range(2):
        limit.on_epoch_end(epoch)
        stopped.append(limit.model.stop_training)
    assert stopped == [False, True]


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), "1"])
def test_refused(minutes):
    with pytest.raises(ValueError, match="Expected minutes"):
        TimeLimit(minutes)
