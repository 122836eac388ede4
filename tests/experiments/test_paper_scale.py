from __future__ import annotations

import dataclasses

import pytest

from art_versatile.experiments.paper_scale import SCALES, Costs, Scale, file_name, plan_stages, plan_table
from art_versatile.reports.paper import SEEN

COSTS = Costs((1e9, 10), (4e9, 20), (2e9, 30), (8e9, 40), 1000, 500)


def test_the_paper():
    """Sections 3.1.3, 3.1.4, 3.2 and 3.3.3."""
    paper = SCALES["paper"]
    assert (paper.classifier, paper.image_size, paper.photographs, paper.per_class) == ("inception_v3", 256, 18000, 18)
    assert (paper.eps, paper.iterations, paper.epochs, paper.measured) == (16 / 255, 40, 100, 5000)
    assert paper.strength_eps == (2 / 255, 5 / 255, 10 / 255)
    assert (paper.strength_iterations[0], paper.strength_iterations[-1]) == (10, 100)
    assert (paper.architecture, paper.filters, paper.steps) == ("unet256", 64, 1_800_000)


@pytest.mark.parametrize("name", SCALES)
def test_stages(name):
    scale = SCALES[name]
    stages = plan_stages(scale, COSTS)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    own = {file_name(attack) for attack in scale.specific}
    assert {n for n in names if n.startswith("pairs/")} == {f"pairs/{n}" for n in (*scale.budgets(), *own)}
    trained = [stage for stage in stages if stage.kind == "training"]
    assert {stage.steps for stage in trained} == {scale.steps}  # equal steps
    assert {stage.pairs for stage in stages if stage.kind != "measuring"} == {scale.photographs}  # equal pairs
    assert {"training/versatile", *(f"training/{n}" for n in own)} <= set(names)
    assert names[-3:] == ["measuring/tables", "measuring/variants", "measuring/demonstration"]


def test_seven_purifiers_and_the_variants():
    runs = SCALES["mini"].trainings()
    assert list(runs)[:7] == ["versatile", *map(file_name, SEEN)]
    assert runs["CW"] == ("CW", None)
    assert dict(list(runs.items())[7:]) == {
        "fixed-weights": ("versatile", "fixed weights"),
        "versatile-4-255": ("versatile-4-255", "weaker attacks"),
        "versatile-8-255": ("versatile-8-255", "weaker attacks"),
        "no-discriminator": ("versatile", "no discriminator"),
        "fewer-filters": ("versatile", "fewer filters"),
        "smoothed-labels": ("versatile", "smoothed labels"),
        "R1": ("versatile", "R1"),
    }


def test_costs_by_hand():
    scale = dataclasses.replace(SCALES["smoke"], photographs=12, batch_size=3, epochs=5, steps_per_epoch=2)
    stages = {stage.name: stage for stage in plan_stages(scale, COSTS)}
    pgd, training = stages["pairs/PGD"], stages["training/PGD"]
    assert pgd.flops == 12 * 2 * 2 * 1e9  # 2 iterations of 2 passes
    assert pgd.disk == 12 * 2 * 32 * 32 * 3 * 2
    assert pgd.memory == 4 * 32 * 10
    assert training.steps == 10
    assert training.flops == 10 * 3 * (3 * 4e9 + 7 * 2e9 + 3 * 8e9)
    # Weights, gradients, Adam's two averages; activations of generator, discriminator and perceptual network.
    assert training.memory == 4 * 4 * 1500 + 4 * 3 * (20 + 2 * 30 + 2 * 40)
    # FGSM 3 passes, BIM, PGD and MI-FGSM 2 x 2, C&W 8 x 1 x 2, AutoAttack 3 x 2.
    assert stages["pairs/versatile"].flops == pytest.approx(12 * 1e9 * (3 + 4 + 4 + 4 + 16 + 6) / 6)
    table = plan_table(stages.values(), scale, COSTS, peak=1e12, share=0.5)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["training/PGD"][2] == "10"
    assert rows["training/PGD"][-1] == f"{training.flops / 0.5e12 / 3600:.3g}"
    assert rows["all"][3] == f"{sum(stage.flops for stage in stages.values()) / 1e12:,.4g}"
    assert "50% are assumed" in table.note
    for wrong in ({"peak": 0, "share": 0.5}, {"peak": 1e12, "share": 0}, {"peak": 1e12, "share": 2}):
        with pytest.raises(ValueError, match="Expected"):
            plan_table(stages.values(), scale, COSTS, **wrong)


def test_what_a_stage_depends_on():
    """Another number of steps leaves the pairs, and changes every training and what is measured of it."""
    before = {stage.name: stage.digest for stage in plan_stages(SCALES["mini"], COSTS)}
    longer = dataclasses.replace(SCALES["mini"], epochs=30)
    after = {stage.name: stage.digest for stage in plan_stages(longer, COSTS)}
    assert {n for n in before if before[n] == after[n]} == {n for n in before if n.startswith("pairs/")}
    others = {stage.name: stage.digest for stage in plan_stages(SCALES["mini"], COSTS, {"photographs": "others"})}
    assert not {n for n in before if before[n] == others[n]}


def test_changed():
    scale = SCALES["mini"].changed(
        {"filters": "16", "eps": "8/255", "weaker": "2/255, 4/255", "variants": "R1", "specific": "", "effort": "quick"}
    )
    assert (scale.filters, scale.eps, scale.weaker) == (16, 8 / 255, (2 / 255, 4 / 255))
    assert (scale.variants, scale.specific, scale.effort) == (("R1",), (), "quick")
    assert scale.photographs == SCALES["mini"].photographs


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"filtres": "1"}, "Expected a size to be one of"),
        ({"filters": "many"}, "Expected filters as 32 is. Received 'many'."),
        ({"filters": "1,2"}, "Expected one value of filters"),
        ({"eps": "8/0"}, "Expected eps as"),
        ({"variants": "x"}, "Expected variants to be one of"),
        ({"epochs": "2"}, "Expected epochs to be an integer of at least 3"),
        ({"photographs": "5"}, "Expected photographs to be an integer of at least 6"),
        ({"demonstration": "21"}, "Expected demonstration"),
        ({"eps": "0"}, "Expected eps above 0"),
        ({"strength_iterations": "0"}, "Expected strength_iterations"),
        ({"architecture": "resnet"}, "Expected architecture"),
    ],
)
def test_what_may_not_be(texts, message):
    with pytest.raises(ValueError, match=message):
        Scale(filters=32).changed(texts)
