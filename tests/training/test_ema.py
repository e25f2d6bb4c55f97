"""Promise: with `train.ema` the averaged weights are validated, kept and used, and a run is resumed bit for bit."""

import json
import shutil

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmrobust import measures
from mmrobust import recipe as recipes
from mmrobust.errors import RecipeError
from mmrobust.model.assemble import build
from mmrobust.robustness import evaluate
from mmrobust.training import Checkpoints, RunFolder, Seed, load_trained, open_data, predict_split, train
from mmrobust.training.checkpoint import read
from mmrobust.training.loop import take, train_epoch

EMA = ["train.ema=0.9", "train.lr=1e-2", "train.keep=3", "model.fusion.dropout=0"]


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_average_is_torch_s_and_training_goes_on_from_the_weights(tiny, tmp_path):
    loaded = recipes.load(tiny, EMA)
    seed = Seed(build(loaded, seed=1), RunFolder.create(loaded, out=tmp_path / "run"), 1, torch.device("cpu"))
    step = take([seed])
    reference = AveragedModel(seed.trained, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(2):
        train_epoch(step, [seed], lambda: reference.update_parameters(seed.trained))
        weights = {name: p.detach().clone() for name, p in seed.trained.named_parameters()}
        averages = dict(reference.module.named_parameters())
        checkpoint = read(seed.checkpoints.path(seed.state.epoch))
        for name, p in seed.model.named_parameters():
            torch.testing.assert_close(checkpoint.model[name], averages[f"model.{name}"].detach())
            assert torch.equal(checkpoint.optimizer[f"model.{name}/weight"], weights[f"model.{name}"])
            assert torch.equal(p, weights[f"model.{name}"])


def test_the_averaged_weights_are_what_is_validated_and_evaluated(tiny, tmp_path):
    run = train(tiny, EMA, out=tmp_path / "run", quiet=True)
    built = load_trained(run.folder, dataset=open_data(run.folder)[0])
    valid = built.dataset.splits["valid"]
    assert valid.label is not None
    score = measures.measure(built.context.task, predict_split(built.model, valid, 64), valid.label)["mae"]
    best = run.states[1].best
    assert score == best["value"] == run.folder.read_metrics()[best["epoch"] - 1]["valid"]["mae"]
    other = train(tiny, [*EMA, "train.ema=null"], out=tmp_path / "other", quiet=True)
    assert other.folder.read_metrics()[-1]["loss"] == run.folder.read_metrics()[-1]["loss"]  # the steps are the same
    assert other.folder.read_metrics()[-1]["valid"] != run.folder.read_metrics()[-1]["valid"]
    test = built.dataset.splits["test"]
    clean = evaluate(run.folder, quiet=True)["clean"]["mae"]["mean"]
    assert test.label is not None
    predicted = measures.measure(built.context.task, predict_split(built.model, test, 64), test.label)["mae"]
    assert clean == pytest.approx(predicted, rel=1e-5)


def bits(folder: RunFolder) -> dict[str, object]:
    content: dict[str, object] = {}
    for path in sorted(folder.path.glob("checkpoints/*/*/*")):
        name = str(path.relative_to(folder.path))
        if path.suffix == ".safetensors":
            content[name] = path.read_bytes()
        elif path.name == "state.json":
            metrics = json.loads(path.read_text())["metrics"]
            content[name] = [{k: v for k, v in line.items() if k != "seconds"} for line in metrics]
    return content


@pytest.mark.parametrize("more", [[], ["train.together=true", "train.seeds=2"], ["train.precision=fp16"]])
def test_a_resumed_run_ends_with_the_same_bits(tiny, tmp_path, more):
    whole = train(tiny, [*EMA, *more], out=tmp_path / "whole", quiet=True)
    run = train(tiny, [*EMA, *more], out=tmp_path / "run", quiet=True)
    for path in run.folder.path.glob("checkpoints/*/epoch-0003"):
        shutil.rmtree(path)
    again = train(resume=run.folder, quiet=True)
    assert "goes on after epoch 2" in again.folder.log.read_text()
    assert bits(again.folder) == bits(whole.folder)


def test_stacked_seeds_have_the_averages_that_each_has_alone(tiny, tmp_path, double):
    more = [*EMA, "train.seeds=[1, 4, 7]", "train.epochs=6", "train.patience=1"]
    alone = train(tiny, more, out=tmp_path / "alone", quiet=True, jobs=1)
    both = train(tiny, [*more, "train.together=true"], out=tmp_path / "both", quiet=True)
    ends = {seed: state.epoch for seed, state in alone.states.items()}
    assert {seed: state.epoch for seed, state in both.states.items()} == ends
    assert len(set(ends.values())) > 1  # the stack was divided and put together again
    for seed, epoch in ends.items():
        ours, theirs = (read(Checkpoints(run.folder.seed(seed)).path(epoch)) for run in (both, alone))
        for part in ("model", "learning", "optimizer"):
            for name, tensor in getattr(theirs, part).items():
                torch.testing.assert_close(getattr(ours, part)[name], tensor, rtol=1e-7, atol=1e-10)


def test_a_decay_has_to_be_a_share(tiny):
    with pytest.raises(RecipeError, match=r"train.ema has to be at least 0 and less than 1, not 1.5"):
        recipes.load(tiny, ["train.ema=1.5"])
