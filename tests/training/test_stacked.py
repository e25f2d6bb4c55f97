"""Seeds trained together end as each would alone: the same losses, weights, best epochs and stops."""

import math
from pathlib import Path

import pytest
import torch

import mmrobust
from mmrobust import recipe as recipes
from mmrobust.components.fusion import CrossAttention
from mmrobust.errors import InterruptedRun
from mmrobust.model.assemble import build
from mmrobust.training import Checkpoints, Interrupt, RunFolder, Seed, fit, load_trained, train, unstackable
from mmrobust.training.checkpoint import read

STILL = ["model.fusion.dropout=0"]
TOGETHER = [*STILL, "train.together=true"]


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(a, b):
    """Whether two trees of numbers agree to what float64 keeps when sums are made in another order."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a if key != "seconds")
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) if isinstance(a, float) else a == b


def same(a: RunFolder, b: RunFolder, seeds: list[int]) -> None:
    """Every line of the metrics, every checkpoint and every state of two runs agree."""
    assert a.seeds == b.seeds == seeds
    for seed in seeds:
        lines = [[line for line in run.read_metrics() if line["seed"] == seed] for run in (a, b)]
        assert len(lines[0]) == len(lines[1]) > 0
        assert all(close(x, y) for x, y in zip(*lines, strict=True))
        ours, theirs = Checkpoints(a.seed(seed)), Checkpoints(b.seed(seed))
        assert ours.epochs == theirs.epochs
        for epoch in ours.epochs:
            x, y = read(ours.path(epoch)), read(theirs.path(epoch))
            assert (x.state.epoch, x.state.step, x.state.waited, x.state.finished) == (
                y.state.epoch, y.state.step, y.state.waited, y.state.finished,
            )  # fmt: skip
            assert close(x.state.best, y.state.best)
            for part in ("model", "learning", "optimizer"):
                tensors, others = getattr(x, part), getattr(y, part)
                assert tensors.keys() == others.keys()
                for name in tensors:
                    assert tensors[name].dtype == others[name].dtype and tensors[name].shape == others[name].shape
                    torch.testing.assert_close(tensors[name], others[name], rtol=1e-7, atol=1e-10)


def test_whole_trajectories_are_those_of_each_seed_alone(tiny, tmp_path, double):
    # Seeds that learn nothing more stop one after the other, each at its own epoch.
    longer = ["train.epochs=7", "train.patience=2", "train.lr=2e-2", "train.seeds=[1, 4, 7]", "train.clip=0.5"]
    alone = train(tiny, [*STILL, *longer], out=tmp_path / "alone", quiet=True)
    both = train(tiny, [*TOGETHER, *longer], out=tmp_path / "both", quiet=True)
    same(both.folder, alone.folder, [1, 4, 7])
    ends = {seed: state.epoch for seed, state in alone.states.items()}
    assert len(set(ends.values())) > 1 and min(ends.values()) < 7  # one stopped early while others went on
    assert {seed: state.epoch for seed, state in both.states.items()} == ends
    assert {seed: s.best["epoch"] for seed, s in both.states.items()} == {
        seed: s.best["epoch"] for seed, s in alone.states.items()
    }
    assert "seeds 1, 4, 7 are trained together, as one stacked model\n" in both.folder.log.read_text()
    clipped = [line["gradient"] for line in alone.folder.read_metrics()]
    assert max(clipped) > 0.5  # the norms of the seeds differ, and each has a limit of its own


class Stop(Exception):
    pass


def test_a_run_that_was_killed_between_two_seeds_checkpoints_goes_on(tiny, tmp_path, double, monkeypatch):
    longer = ["train.epochs=4", "train.seeds=[1, 4, 7]"]
    alone = train(tiny, [*STILL, *longer], out=tmp_path / "alone", quiet=True)
    save, saved = Checkpoints.save, []

    def killed(self, state, *args):
        if len(saved) == 4:  # seed 1 stands at epoch 2, the others at epoch 1
            raise Stop
        saved.append((state.seed, state.epoch))
        save(self, state, *args)

    monkeypatch.setattr(Checkpoints, "save", killed)
    with pytest.raises(Stop):
        train(tiny, [*TOGETHER, *longer], out=tmp_path / "both", quiet=True)
    monkeypatch.undo()
    assert saved == [(1, 1), (4, 1), (7, 1), (1, 2)]
    both = train(resume=tmp_path / "both", quiet=True)
    same(both.folder, alone.folder, [1, 4, 7])
    log = both.folder.log.read_text()
    assert "seed 1: goes on after epoch 2" in log and "seed 7: goes on after epoch 1" in log
    # What was trained together goes on one after the other, and is evaluated, as any other run.
    changed = RunFolder(tmp_path / "both")
    changed.write(changed.resolved, changed.resolved.read_text().replace("together: true", "together: false"))
    assert load_trained(changed, 4).model is not None
    assert {seed: state.epoch for seed, state in train(resume=changed, quiet=True).states.items()} == {1: 4, 4: 4, 7: 4}


def test_memories_belong_to_their_seeds(tmp_path, double):
    from mmrobust import registry

    registry.load_file(Path(__file__).parent / "memory.py")
    path = tmp_path / "recalls.yaml"
    path.write_text(
        "recipe: 1\nname: recalls\nextends: normtr\n"
        "data: {use: synthetic_affect, train: 40, valid: 16, test: 16, length: 6, text: 8, audio: 4, vision: 5}\n"
        "model: {width: 16, fusion: {use: cross_attention, depth: 1, heads: 2}}\n"
        "learning: {views: {type_1: {objectives: [task, recall]}}}\n"
        "train: {epochs: 3, batch_size: 16, lr: 1.0e-2, seeds: 3}\n"
    )
    alone = train(path, out=tmp_path / "alone", quiet=True)
    both = train(path, ["train.together=true"], out=tmp_path / "both", quiet=True)
    assert "together, as one" in both.folder.log.read_text()
    same(both.folder, alone.folder, [1, 2, 3])
    memories = [Checkpoints(both.folder.seed(seed)).best().learning for seed in (1, 2)]
    names = [name for name in memories[0] if name.endswith(("memory", "mean"))]
    assert len(names) == 2 and all(not torch.equal(memories[0][name], memories[1][name]) for name in names)


def test_dropout_is_said_to_have_other_bits_and_still_learns(tiny, tmp_path):
    run = train(tiny, ["train.together=true", "train.seeds=2"], out=tmp_path / "run", quiet=True)
    log = run.folder.log.read_text()
    assert "seeds 1, 2 are trained together, as one stacked model; dropout has the same distribution as in a" in log
    again = train(tiny, ["train.together=true", "train.seeds=2"], out=tmp_path / "again", quiet=True)
    a, b = (r.folder.read_metrics() for r in (run, again))
    assert [{**line, "seconds": 0} for line in a] == [{**line, "seconds": 0} for line in b]


def test_a_seed_that_diverges_leaves_the_others_to_go_on(tiny, tmp_path, double):
    alone = train(tiny, [*STILL, "train.seeds=[1, 3]"], out=tmp_path / "alone", quiet=True)
    loaded = recipes.load(tiny, [*TOGETHER, "train.seeds=[1, 2, 3]"])
    folder = RunFolder.create(loaded, out=tmp_path / "both")
    seeds = {n: Seed(build(loaded, seed=n), folder, n, torch.device("cpu")) for n in (1, 2, 3)}
    with torch.no_grad():
        seeds[2].model.head.linear.weight.fill_(math.nan)  # type: ignore[union-attr]
    fit(list(seeds.values()))
    assert [seed.number for seed in seeds.values() if seed.state.finished] == [1, 3]
    text = str(seeds[2].diverged)
    assert text.startswith("training diverged: seed 2, epoch 1, step 1: not finite: ")
    assert "samples of the batch: train-" in text and not folder.seed(2).exists()
    for seed in (1, 3):
        best = [Checkpoints(run.seed(seed)).best() for run in (folder, alone.folder)]
        assert best[0].state.best["epoch"] == best[1].state.best["epoch"]
        for name, tensor in best[0].model.items():
            torch.testing.assert_close(tensor, best[1].model[name], rtol=1e-7, atol=1e-10)


def test_an_interrupt_is_looked_at_between_steps(tiny, tmp_path):
    loaded = recipes.load(tiny, [*TOGETHER, "train.seeds=2"])
    interrupt = Interrupt()
    interrupt.requested = True
    folder = RunFolder.create(loaded, tmp_path)
    seeds = [Seed(build(loaded, seed=n), folder, n, torch.device("cpu")) for n in (1, 2)]
    with pytest.raises(InterruptedRun, match="interrupted after epoch 0 of seed 1, 2; every finished epoch is saved"):
        fit(seeds, interrupt=interrupt)


def test_what_cannot_be_stacked_is_named_and_the_seeds_run_in_turn(tiny, tmp_path, monkeypatch):
    assert unstackable(build(recipes.load(tiny))) is None
    half = build(recipes.load(tiny, ["train.precision=fp16"]))
    assert unstackable(half) == "fp16 scales the loss of each seed on its own (bf16 needs no scaling)"
    monkeypatch.setattr(CrossAttention, "vmappable", False)
    said = "fusion 'cross_attention' cannot be stacked (CrossAttention declares vmappable = False)"
    assert unstackable(build(recipes.load(tiny))) == said
    run = train(tiny, [*TOGETHER, "train.seeds=2", "train.epochs=1"], out=tmp_path / "run", quiet=True)
    log = run.folder.log.read_text()
    assert "the seeds are not trained together: fusion 'cross_attention' cannot be stacked (CrossAttention" in log
    assert "are trained together" not in log and sorted(run.states) == [1, 2]


def test_a_part_that_breaks_its_promise_is_told_and_the_seeds_run_in_turn(tiny, tmp_path, monkeypatch):
    from mmrobust.components.head import MeanPoolLinear

    forward = MeanPoolLinear.forward

    def reads_numbers(self, stream):
        assert stream.x.sum().item() == stream.x.sum()
        return forward(self, stream)

    alone = train(tiny, [*STILL, "train.seeds=2", "train.epochs=1"], out=tmp_path / "alone", quiet=True)
    monkeypatch.setattr(MeanPoolLinear, "forward", reads_numbers)
    run = train(tiny, [*TOGETHER, "train.seeds=2", "train.epochs=1"], out=tmp_path / "run", quiet=True)
    log = run.folder.log.read_text()
    assert (
        "the seeds are trained one after the other, as they cannot be stacked (RuntimeError: " in log and "item" in log
    )
    for a, b in zip(run.folder.read_metrics(), alone.folder.read_metrics(), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}  # trying it has changed nothing


def test_jobs_ask_for_processes_instead(tiny, tmp_path):
    run = train(tiny, [*TOGETHER, "train.seeds=2", "train.epochs=1"], out=tmp_path / "run", jobs=1, quiet=True)
    assert "--jobs 1 trains the seeds in processes, not together" in run.folder.log.read_text()


def test_together_is_a_setting_that_is_checked(tiny):
    assert recipes.load(tiny).train.together == "auto"
    assert recipes.load(tiny, ["train.together=false"]).train.together is False
    with pytest.raises(
        mmrobust.errors.RecipeError, match=r"train.together has to be 'auto' or true or false, not 'both'"
    ):
        recipes.load(tiny, ["train.together=both"])
