"""Adversaries in training: their gradient is limited, their figures are logged, and they are resumed and stacked."""

from __future__ import annotations

import pytest
import torch

from mmrobust.training import train
from mmrobust.training.loop import take, train_epoch
from mmrobust.training.step import Step
from tests.training.test_loop import new_seed

OWN = (
    "learning.views.type_1.objectives=[task, {use: modality_adversary, unit: step, standardize: true, pinned: false, "
    "reach: extractor, steps: 2, lr_factor: 5}]"
)
LITERAL = "learning.views.type_1.objectives=[task, {use: modality_adversary, explain: after}]"


def test_a_limited_adversary_moves_the_generic_extractor_alone_and_no_further_than_the_task(tiny, tmp_path):
    heavy = "learning.views.type_1.objectives=[task, {use: modality_discriminant, weight: 1e6}]"
    seed = new_seed(tiny, tmp_path, heavy, "model.fusion.dropout=0")
    step: Step = take([seed])
    seed.begin()
    seed.trained.train()
    views = seed.draw(seed.epoch.updates[0][0])
    plain, full, norms = {}, {}, {}
    for gradients, adversaries in ((plain, False), (full, True)):
        step.backward(views, seed.progress())
        if adversaries:
            norms = dict(zip(step.norms, step._oppose(), strict=True))
        gradients |= {name: p.grad.clone() for name, p in step.weights.items() if p.grad is not None}
        step.optimizer.zero_grad()
        step.opposing.clear()
    moved = {name for name in plain if not torch.equal(plain[name], full[name])}
    assert moved and all(name.startswith("model.generic.") for name in moved)
    length = torch.stack([(full[name] - plain[name]).norm() for name in moved]).norm()
    task = norms["task.gradient"].item()
    assert norms["type_1.modality_discriminant.gradient"].item() > 100 * task
    assert length.item() <= (len(step.norms) - 1) * task * 1.001 and length.item() > 0.5 * task


def test_figures_of_an_adversary_stand_in_metrics_and_one_that_does_nothing_is_named(tiny, tmp_path):
    run = train(tiny, [LITERAL, "train.epochs=12", "train.lr=1e-2"], runs=tmp_path, quiet=True)
    figures = run.folder.read_metrics()[-1]["figures"]
    for name in ("accuracy", "cross_entropy", "chance", "mf_accuracy", "mf_cross_entropy", "gradient"):
        assert figures[f"type_1.modality_adversary.{name}"] >= 0
    assert figures["task.gradient"] > 0 and figures["type_2.noise_discriminant.gradient"] > 0
    log = (run.folder.path / "log.txt").read_text()
    assert "D1 can win without looking" in log
    assert figures["type_1.modality_adversary.accuracy"] > 0.95
    assert "the discriminator names the modality of the NRGF in 100% (chance 33%): the adversary does nothing" in log


def test_a_discriminator_with_steps_of_its_own_is_resumed_bit_for_bit(tiny, tmp_path):
    whole = new_seed(tiny, tmp_path / "whole", OWN, "train.epochs=3")
    step = take([whole])
    for _ in range(3):
        train_epoch(step, [whole])
    first = new_seed(tiny, tmp_path / "parts", OWN, "train.epochs=3")
    step = take([first])
    train_epoch(step, [first])
    again = new_seed(tiny, tmp_path / "again", OWN)
    again.checkpoints = first.checkpoints
    again.resume()
    step = take([again])
    for _ in range(2):
        train_epoch(step, [again])
    ours, theirs = whole.trained.state_dict(), again.trained.state_dict()
    assert any("adam.mean" in name and value.any() for name, value in ours.items())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("overrides", [[], [OWN], [LITERAL]], ids=["closed form", "steps of its own", "literal"])
def test_stacked_seeds_have_the_adversaries_of_each_alone(tiny, tmp_path, overrides):
    few = [*overrides, "train.seeds=[1,2]", "train.epochs=1", "model.fusion.dropout=0"]
    alone = train(tiny, [*few, "train.together=false"], runs=tmp_path / "alone", quiet=True)
    stack = train(tiny, [*few, "train.together=true"], runs=tmp_path / "stack", quiet=True)
    lines = [sorted(run.folder.read_metrics(), key=lambda line: line["seed"]) for run in (alone, stack)]
    for one, other in zip(*lines, strict=True):
        assert other["figures"] == pytest.approx(one["figures"], rel=2e-3, abs=2e-3)
        assert other["loss"]["total"] == pytest.approx(one["loss"]["total"], rel=1e-3)
