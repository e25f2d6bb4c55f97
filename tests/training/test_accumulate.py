"""Promise: `train.accumulate` makes one step of several batches, as of one large batch, and is resumed bit for bit."""

import json

import pytest
import torch

from mmrobust import recipe as recipes
from mmrobust.errors import RecipeError
from mmrobust.model.assemble import build
from mmrobust.training import Checkpoints, RunFolder, Seed, train
from mmrobust.training.checkpoint import read
from mmrobust.training.loop import take

STILL = ["model.fusion.dropout=0", "train.keep=3"]


def new_seed(tiny, out, *overrides):
    loaded = recipes.load(tiny, [*STILL, *overrides])
    return Seed(build(loaded, seed=1), RunFolder.create(loaded, out=out), 1, torch.device("cpu"))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_gradient_of_several_batches_is_that_of_one_with_all_their_samples(tiny, tmp_path, double):
    clean = ["learning.views.type_1.objectives=[task]", "~learning.views.type_2", "train.clip=null"]
    whole = new_seed(tiny, tmp_path / "whole", *clean, "train.batch_size=40")
    parts = new_seed(tiny, tmp_path / "parts", *clean, "train.batch_size=10", "train.accumulate=4")
    assert [len(seed.begin().updates) for seed in (whole, parts)] == [1, 1]
    assert [len(batch) for batch in parts.epoch.updates[0]] == [10] * 4
    views = [whole.train.batch(index) for index in parts.epoch.updates[0]]
    some, all_ = take([parts]), take([whole])
    some.trained.train()
    all_.trained.train()
    losses = some([{"type_1": batch} for batch in views], parts.progress())
    expected = all_([{"type_1": whole.train.batch(torch.cat(list(parts.epoch.updates[0])))}], whole.progress())
    torch.testing.assert_close(losses, expected)
    for name, p in all_.weights.items():
        torch.testing.assert_close(some.weights[name], p)


@pytest.mark.parametrize(
    ("size", "accumulate", "groups"),
    [(16, 1, [1, 1, 1]), (10, 4, [4]), (4, 4, [3, 4, 3]), (8, 2, [2, 1, 2]), (16, 8, [3])],
)
def test_an_epoch_s_batches_are_divided_among_its_steps(tiny, tmp_path, size, accumulate, groups):
    seed = new_seed(tiny, tmp_path / "run", f"train.batch_size={size}", f"train.accumulate={accumulate}")
    updates = seed.begin().updates
    assert [len(update) for update in updates] == groups and seed.steps_each == len(groups)
    assert sorted(torch.cat([index for update in updates for index in update]).tolist()) == list(range(40))


def test_the_schedule_counts_steps_of_the_optimizer(tiny, tmp_path):
    run = train(tiny, ["train.batch_size=4", "train.accumulate=4"], out=tmp_path / "run", quiet=True)
    alone = train(tiny, ["train.batch_size=16"], out=tmp_path / "alone", quiet=True)
    lines = [[(line["step"], line["lr"]) for line in one.folder.read_metrics()] for one in (run, alone)]
    assert lines[0] == lines[1] and lines[0][-1][0] == 9


def bits(folder: RunFolder, seeds) -> dict[str, object]:
    content: dict[str, object] = {}
    for path in sorted(folder.path.glob("checkpoints/*/*/*.safetensors")):
        content[str(path.relative_to(folder.path))] = path.read_bytes()
    for seed in seeds:
        state = json.loads((Checkpoints(folder.seed(seed)).path(3) / "state.json").read_text())
        content[f"state {seed}"] = [{k: v for k, v in line.items() if k != "seconds"} for line in state["metrics"]]
    return content


@pytest.mark.parametrize("together", ["false", "true"])
def test_a_resumed_run_ends_with_the_same_bits(tiny, tmp_path, together):
    more = ["train.keep=3", "train.batch_size=4", "train.accumulate=4", "train.seeds=2", f"train.together={together}"]
    whole = train(tiny, more, out=tmp_path / "whole", quiet=True, jobs=None if together == "true" else 1)
    run = train(tiny, more, out=tmp_path / "run", quiet=True, jobs=None if together == "true" else 1)
    for seed in (1, 2):
        for path in run.folder.seed(seed).glob("epoch-000[3]"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    again = train(resume=run.folder, quiet=True, jobs=None if together == "true" else 1)
    assert again.states[1].epoch == 3 and "goes on after epoch 2" in again.folder.log.read_text()
    assert bits(again.folder, [1, 2]) == bits(whole.folder, [1, 2])


def test_stacked_seeds_accumulate_as_each_does_alone(tiny, tmp_path, double):
    more = [*STILL, "train.batch_size=4", "train.accumulate=4", "train.seeds=2"]
    alone = train(tiny, more, out=tmp_path / "alone", quiet=True, jobs=1)
    both = train(tiny, [*more, "train.together=true"], out=tmp_path / "both", quiet=True)
    for seed in (1, 2):
        ours, theirs = (read(Checkpoints(run.folder.seed(seed)).path(3)) for run in (both, alone))
        for name, tensor in ours.model.items():
            torch.testing.assert_close(tensor, theirs.model[name], rtol=1e-7, atol=1e-10)


def test_a_number_of_batches_has_to_be_one(tiny):
    with pytest.raises(RecipeError, match=r"train.accumulate has to be at least 1, not 0"):
        recipes.load(tiny, ["train.accumulate=0"])
