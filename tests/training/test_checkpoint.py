"""A checkpoint is given back exactly, or refused: nothing that happened to it goes unnoticed."""

import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmrobust.errors import CheckpointError, ReadError
from mmrobust.training import Checkpoints, State
from mmrobust.training.checkpoint import read, restore

FILES = ("model.safetensors", "learning.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def parts(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model[2].weight = torch.nn.Parameter(model[0].weight.detach()[:2, :].repeat(1, 2)[:, :4])
    learning = torch.nn.ModuleDict({"view/task": torch.nn.Linear(2, 1)})
    model.register_module("tied", model[0])  # safetensors alone refuses weights that share memory
    return model, learning


def stepped(steps=2):
    model, learning = parts()
    moments = {f"model.{name}/exp_avg": torch.randn_like(p) for name, p in model.named_parameters()}
    return model, learning, {**moments, "learning.view/task.bias/step": torch.tensor(float(steps))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("seed-1"))
    checkpoints.save(State(1, epoch=1, best={"epoch": 1, "measure": "mae", "value": 0.1 + 0.2}), *stepped())
    return checkpoints.path(1)


def test_everything_comes_back_exactly(saved):
    model, learning, moments = stepped()
    other = parts(seed=9)
    checkpoint = read(saved)
    restore(checkpoint, *other)
    for a, b in ((model, other[0]), (learning, other[1])):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert checkpoint.optimizer.keys() == moments.keys()
    assert all(torch.equal(tensor, moments[name]) for name, tensor in checkpoint.optimizer.items())
    assert checkpoint.state == State(1, epoch=1, best={"epoch": 1, "measure": "mae", "value": 0.1 + 0.2})


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.integers(0), st.integers(0, 7))
def test_any_flipped_bit_is_found(saved, tmp_path, name, at, bit):
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(saved, copy)
    data = bytearray((copy / name).read_bytes())
    data[at % len(data)] ^= 1 << bit
    (copy / name).write_bytes(data)
    try:
        harmed = read(copy)
    except CheckpointError as error:
        assert str(copy) in str(error)
    else:  # only what means nothing in the manifest may differ
        assert name == "manifest.json" and harmed.state == read(saved).state


def test_another_model_s_checkpoint_is_refused(saved):
    _, learning = parts()
    with pytest.raises(CheckpointError, match="epoch-0001 does not fit the recipe's model"):
        restore(read(saved), torch.nn.Linear(1, 1), learning)


def test_what_cannot_be_read_is_not_taken_for_damaged(tmp_path):
    """A folder in the place of a file is there and cannot be read, for root as well."""
    checkpoints = Checkpoints(tmp_path / "seed-1")
    for epoch in (1, 2):
        checkpoints.save(State(1, epoch=epoch, best={"epoch": 1}), *stepped())
    for name in FILES:
        path = checkpoints.path(2) / name
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        for look in (checkpoints.newest, checkpoints.last, checkpoints.best):
            with pytest.raises(ReadError, match=f"{name} is there but cannot be read .*; nothing was changed"):
                look()
        path.rmdir()
        path.write_bytes(content)
    assert checkpoints.best().state.epoch == 1


def test_a_damaged_last_checkpoint_never_gives_way_to_an_older_one(tmp_path):
    """Training goes on from the one before; whoever wants the trained model gets no other instead."""
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints" / "seed-1")
    for epoch in (1, 2):
        checkpoints.save(State(1, epoch=epoch, best={"epoch": epoch}), *stepped())
    (checkpoints.path(2) / "state.json").unlink()
    assert checkpoints.newest().state.epoch == 1
    for look in (checkpoints.last, checkpoints.best):
        with pytest.raises(CheckpointError, match=r"state.json is missing; mmrobust train --resume .*/run trains it"):
            look()


def test_without_any_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "seed-1")
    assert checkpoints.newest() is None
    with pytest.raises(CheckpointError, match="holds no checkpoint; train first"):
        checkpoints.best()
