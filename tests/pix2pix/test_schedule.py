from __future__ import annotations

import re

import pytest

import art_versatile
from art_versatile.pix2pix.schedule import PAPER_SCHEDULE, LossSchedule, Stage


@pytest.mark.parametrize(
    ("epoch", "weights"),
    [
        (0, (100, 100)),
        (39, (100, 100)),
        (40, (100, 50)),
        (69, (100, 50)),
        (70, (100, 1)),
        (99, (100, 1)),
        (100, (100, 1)),
        (1000, (100, 1)),
    ],
)
def test_the_papers_boundaries(epoch, weights):
    assert PAPER_SCHEDULE(epoch) == weights


def test_the_papers_length():
    assert PAPER_SCHEDULE.epochs == 100
    assert art_versatile.PAPER_SCHEDULE is PAPER_SCHEDULE


def test_one_stage_is_a_fixed_weight():
    fixed = LossSchedule([Stage(1, pixel=100.0, perceptual=1.0)])
    assert {fixed(epoch) for epoch in range(5)} == {(100.0, 1.0)}


def test_triples_and_stages_are_the_same():
    stages = [(2, 1.0, 0.0), (1, 0.0, 2.5)]
    schedule = LossSchedule(iter(stages))
    assert schedule == LossSchedule([Stage(*s) for s in stages])
    assert hash(schedule) == hash(LossSchedule(stages))
    assert schedule != LossSchedule(stages[:1])
    assert schedule != stages
    assert [schedule(e) for e in range(4)] == [(1.0, 0.0), (1.0, 0.0), (0.0, 2.5), (0.0, 2.5)]
    assert repr(schedule) == "LossSchedule([(2, 1.0, 0.0), (1, 0.0, 2.5)])"


@pytest.mark.parametrize("epochs", [10, 20, 50, 100, 200])
def test_scaled_in_proportion(epochs):
    scaled = PAPER_SCHEDULE.scaled_to(epochs)
    assert [s.epochs for s in scaled.stages] == [epochs * 4 // 10, epochs * 3 // 10, epochs * 3 // 10]
    assert [(s.pixel, s.perceptual) for s in scaled.stages] == [(100, 100), (100, 50), (100, 1)]


@pytest.mark.parametrize("lengths", [(40, 30, 30), (98, 1, 1), (1, 98, 1), (1, 1, 98), (1, 1, 1), (7, 50, 2, 1, 40)])
@pytest.mark.parametrize("epochs", range(1, 12))
def test_scaled_to_few_epochs_every_stage_keeps_one_where_there_are_enough(lengths, epochs):
    schedule = LossSchedule([(n, float(k), 0.0) for k, n in enumerate(lengths)])
    scaled = schedule.scaled_to(epochs)
    assert scaled.epochs == epochs
    kept = [s.pixel for s in scaled.stages]
    assert kept == sorted(kept)
    if epochs >= len(lengths):
        assert len(scaled.stages) == len(lengths)


@pytest.mark.parametrize("epochs", [0, 1.0, True, None])
def test_numbers_of_epochs(epochs):
    expected = re.escape(f"Expected epochs to be an integer of at least 1. Received {epochs!r}.")
    with pytest.raises(ValueError, match=expected):
        Stage(epochs, 1.0, 1.0)
    with pytest.raises(ValueError, match=expected):
        PAPER_SCHEDULE.scaled_to(epochs)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1"])
@pytest.mark.parametrize("name", ["pixel", "perceptual"])
def test_weights(name, value):
    with pytest.raises(ValueError, match=rf"Expected {name} to be a number from 0 .* Received {value!r}"):
        Stage(**{"epochs": 1, "pixel": 1.0, "perceptual": 1.0, name: value})


def test_no_stage():
    with pytest.raises(ValueError, match=r"Expected at least one stage\. Received none\."):
        LossSchedule([])


def test_a_negative_epoch():
    with pytest.raises(ValueError, match=r"Expected an epoch of at least 0\. Received -1\."):
        PAPER_SCHEDULE(-1)
