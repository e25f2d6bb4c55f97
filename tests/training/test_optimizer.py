"""Promise: optimizers, clipping and schedules are torch's own, work in a stack, and are resumed bit for bit."""

import shutil

import pytest
import torch

from mmrobust import recipe as recipes
from mmrobust.errors import RecipeError
from mmrobust.model.assemble import build
from mmrobust.model.checks import selection
from mmrobust.training import Checkpoints, RunFolder, Seed, train, unstackable
from mmrobust.training.checkpoint import read
from mmrobust.training.loop import take

STILL = ["model.fusion.dropout=0", "train.keep=3"]
OPTIMIZERS = {
    "adam": "{use: adam, amsgrad: true, weight_decay: 0.1}",
    "sgd": "{use: sgd, momentum: 0.9, nesterov: true, weight_decay: 0.1, lr: 0.01}",
    "plain sgd": "sgd",
    "rmsprop": "{use: rmsprop, momentum: 0.5, centered: true}",
}


def new_seed(tiny, out, *overrides):
    loaded = recipes.load(tiny, [*STILL, *overrides])
    return Seed(build(loaded, seed=1), RunFolder.create(loaded, out=out), 1, torch.device("cpu"))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_weights_move_as_torch_moves_them(tiny, tmp_path, double):
    alone = [f"learning.views.{view}.objectives=[task]" for view in ("type_1", "type_2")]
    seed = new_seed(tiny, tmp_path / "run", f"train.optimizer={OPTIMIZERS['sgd']}", "train.clip=null", *alone)
    seed.begin()
    views = [seed.draw(torch.arange(20)), seed.draw(torch.arange(20, 40))]
    copies = {name: p.detach().clone().requires_grad_() for name, p in seed.trained.named_parameters()}
    matrices = [p for p in copies.values() if p.dim() >= 2]
    others = [p for p in copies.values() if p.dim() < 2]
    reference = torch.optim.SGD(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others}], lr=0.01, momentum=0.9, nesterov=True
    )
    step = take([seed])
    step.set_rate(0.01)
    for batch in views:
        total, _, _, _ = torch.func.functional_call(seed.trained, copies, (batch, seed.progress()))
        total.backward()
        reference.step()
        reference.zero_grad()
        step([batch], seed.progress())
    for name, p in seed.trained.named_parameters():
        torch.testing.assert_close(p, copies[name])


def test_each_number_of_the_gradient_is_cut_off(tiny, tmp_path):
    seed = new_seed(tiny, tmp_path / "run", "train.clip={by: value, at: 1e-3}", "train.optimizer={use: sgd, lr: 1}")
    seed.begin()
    before = {name: p.detach().clone() for name, p in seed.trained.named_parameters()}
    step = take([seed])
    step.set_rate(1.0)
    step([seed.draw(torch.arange(40))], seed.progress())
    moved = torch.cat([(p - before[name]).detach().flatten() for name, p in seed.trained.named_parameters()]).abs()
    assert moved.max() == pytest.approx(1e-3, rel=1e-3) and (moved > 9.9e-4).sum() > 10


@pytest.mark.parametrize("together", ["false", "true"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_ends_with_the_same_bits(tiny, tmp_path, optimizer, together):
    more = [*STILL, f"train.optimizer={OPTIMIZERS[optimizer]}", f"train.together={together}", "train.ema=0.9"]
    seeds = [1, 2] if together == "true" else [1]
    whole = train(tiny, more, seeds=seeds, out=tmp_path / "whole", quiet=True).folder
    run = train(tiny, more, seeds=seeds, out=tmp_path / "run", quiet=True).folder
    for path in run.path.glob("checkpoints/*/epoch-000[23]"):
        shutil.rmtree(path)
    train(resume=run, quiet=True)
    assert "goes on after epoch 1" in run.log.read_text()
    for seed in seeds:
        ours, theirs = (read(Checkpoints(folder.seed(seed)).path(3)) for folder in (run, whole))
        for part in ("model", "learning", "optimizer"):
            assert getattr(ours, part).keys() == getattr(theirs, part).keys()
            assert all(torch.equal(x, getattr(theirs, part)[name]) for name, x in getattr(ours, part).items())


@pytest.mark.parametrize("clip", ["{by: value, at: 0.01}", "0.5"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stacked_seeds_move_as_each_does_alone(tiny, tmp_path, double, optimizer, clip):
    more = [*STILL, f"train.optimizer={OPTIMIZERS[optimizer]}", f"train.clip={clip}", "train.epochs=2"]
    alone = train(tiny, more, seeds=2, jobs=1, out=tmp_path / "alone", quiet=True).folder
    both = train(tiny, [*more, "train.together=true"], seeds=2, out=tmp_path / "both", quiet=True).folder
    assert "as one stacked model" in both.log.read_text()
    for seed in (1, 2):
        ours, theirs = (read(Checkpoints(folder.seed(seed)).path(2)) for folder in (both, alone))
        for part in ("model", "optimizer"):
            for name, tensor in getattr(theirs, part).items():
                torch.testing.assert_close(
                    getattr(ours, part)[name], tensor, rtol=1e-6, atol=1e-7
                )  # centered: nearly 0 over nearly 0


def test_on_a_plateau_the_rate_falls_and_a_resumed_run_knows_it(tiny, tmp_path):
    flat = [*STILL, "train.schedule={use: plateau, factor: 0.5, patience: 1}", "train.warmup=0", "train.lr=1e-30",
            "train.epochs=7", "train.keep=7"]  # fmt: skip
    run = train(tiny, flat, out=tmp_path / "run", quiet=True).folder
    rates = [line["lr"] for line in run.read_metrics()]
    assert rates == [1e-30, 1e-30, 1e-30, 5e-31, 5e-31, 2.5e-31, 2.5e-31]
    for path in run.path.glob("checkpoints/*/epoch-000[567]"):
        shutil.rmtree(path)
    train(resume=run, quiet=True)
    assert [line["lr"] for line in run.read_metrics()] == rates
    assert unstackable(build(recipes.load(tiny, flat))) == (
        "train.schedule 'plateau' lowers the learning rate of each seed on its own"
    )


def test_a_plateau_needs_scores(tiny):
    built = build(recipes.load(tiny, ["train.schedule=plateau"]), seed=1)
    built.dataset.splits = {"train": built.dataset.splits["train"]}
    with pytest.raises(
        RecipeError, match=r"error: the schedule 'plateau' needs a labelled split 'valid'"
    ):
        selection(built.recipe, built.dataset)
