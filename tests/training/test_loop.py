"""The loop trains every sample once an epoch, chooses by the validation split, and says why it stops."""

import dataclasses
import math
import traceback

import pytest
import torch

from mmrobust import measures
from mmrobust import recipe as recipes
from mmrobust.errors import DivergedError, InterruptedRun, RecipeError, UsageError
from mmrobust.model.assemble import build
from mmrobust.training import Interrupt, Run, RunFolder, Seed, fit, load_trained, open_data, predict_split, train
from mmrobust.training.device import choose_device, slow_precision
from mmrobust.training.loop import take, train_epoch


def new_seed(tiny, tmp_path, *overrides, number=1, kind=Seed):
    loaded = recipes.load(tiny, overrides)
    return kind(build(loaded, seed=number), RunFolder.create(loaded, tmp_path), number, torch.device("cpu"))


def weights(run, seed=1):
    checkpoints = sorted(run.folder.seed(seed).glob("epoch-*/[mo]*.safetensors"))  # objectives may hold nothing
    assert checkpoints
    return {p.relative_to(run.folder.path): p.read_bytes() for p in checkpoints}


def numbers(run):
    """The metrics without what time it took."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.folder.read_metrics()]


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_randomness_alone(tiny, tmp_path):
    before = torch.random.get_rng_state()
    a = train(tiny, runs=tmp_path, quiet=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    b = train(tiny, runs=tmp_path, quiet=True)
    assert a.folder.path != b.folder.path
    assert weights(a) == weights(b) and numbers(a) == numbers(b)


def test_seeds_differ_and_one_of_several_is_what_it_is_alone(tiny, tmp_path):
    both = train(tiny, ["train.epochs=1"], seeds=[1, 5], runs=tmp_path, quiet=True)
    alone = train(tiny, ["train.epochs=1"], seeds=[5], runs=tmp_path, quiet=True)
    assert list(both.states) == [1, 5]
    assert weights(both, 5) == weights(alone, 5)
    ours, others = ([w for path, w in weights(both, n).items() if path.name.startswith("model")] for n in (1, 5))
    assert ours and set(ours).isdisjoint(others)
    assert recipes.load(both.folder.resolved).train.seeds == (1, 5)
    again = train(recipes.load(tiny, ["train.epochs=1"]), seeds=2, runs=tmp_path, quiet=True)
    assert recipes.load(again.folder.resolved).train.seeds == (1, 2)


@pytest.mark.parametrize(("size", "sizes"), [(16, [14, 13, 13]), (40, [40]), (39, [20, 20]), (64, [40])])
def test_an_epoch_holds_every_sample_once_in_batches_of_nearly_one_size(tiny, tmp_path, size, sizes):
    class Watched(Seed):
        def draw(self, index):
            seen.append(index)
            return super().draw(index)

    seen: list[torch.Tensor] = []
    watched = new_seed(tiny, tmp_path, f"train.batch_size={size}", kind=Watched)
    orders = []
    for _ in range(2):
        train_epoch(take([watched]), [watched])
        assert [len(index) for index in seen] == sizes
        orders.append(torch.cat(seen).tolist())
        seen.clear()
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert orders[0] != orders[1]


def test_metrics_have_a_line_for_each_epoch(tiny, tmp_path):
    run = train(tiny, runs=tmp_path, quiet=True)
    lines = run.folder.read_metrics()
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [3, 6, 9]
    last = lines[-1]
    assert set(last) == {"seed", "epoch", "step", "lr", "loss", "gradient", "figures", "valid", "seconds"}
    parts = {"total", "type_1.task", "type_1.modality_discriminant", "type_2.task", "type_2.noise_discriminant"}
    assert set(last["loss"]) == parts
    assert last["loss"]["total"] == pytest.approx(sum(v for k, v in last["loss"].items() if k != "total"), rel=1e-5)
    assert list(last["valid"]) == measures.measures_of(build(run.recipe).context.task)
    assert lines[0]["loss"]["type_1.task"] > last["loss"]["type_1.task"] > 0


def test_training_learns_and_the_best_checkpoint_is_what_is_loaded(tiny, tmp_path):
    easy = ["train.epochs=6", "train.lr=3e-3", "data.train=300", "data.valid=100", "data.informative=0.8"]
    run = train(tiny, easy, runs=tmp_path, quiet=True)
    values = [line["valid"]["mae"] for line in run.folder.read_metrics()]
    best = run.states[1].best
    assert best == {"epoch": values.index(min(values)) + 1, "measure": "mae", "value": min(values)}
    built = load_trained(run.folder, dataset=open_data(run.folder)[0])
    valid = built.dataset.splits["valid"]
    assert valid.label is not None
    prediction = predict_split(built.model, valid, 64)
    assert measures.measure(built.context.task, prediction, valid.label)["mae"] == min(values)
    assert min(values) < 0.8 * (valid.label - valid.label.median()).abs().mean()
    with pytest.raises(UsageError, match="has no seed 7; it has 1"):
        load_trained(run.folder, 7)


def test_the_last_two_and_the_best_are_kept(tiny, tmp_path):
    run = train(tiny, ["train.epochs=5", "train.lr=1e-30"], runs=tmp_path, quiet=True)
    assert run.states[1].best["epoch"] == 1  # the weights do not move: the first epoch wins a tie
    kept = sorted(p.name for p in run.folder.seed(1).iterdir())
    assert kept == ["epoch-0001", "epoch-0004", "epoch-0005"]


def test_early_stopping_waits_as_long_as_it_was_told(tiny, tmp_path):
    run = train(tiny, ["train.epochs=9", "train.lr=1e-30", "train.patience=2"], runs=tmp_path, quiet=True)
    assert (run.states[1].epoch, run.states[1].best["epoch"], run.states[1].finished) == (3, 1, True)
    assert "stopped after epoch 3: no better for 2 epochs" in run.folder.log.read_text()


def test_another_measure_may_choose(tiny, tmp_path):
    run = train(tiny, ["train.select=f1_non0_swapped"], runs=tmp_path, quiet=True)
    values = [line["valid"]["f1_non0_swapped"] for line in run.folder.read_metrics()]
    assert run.states[1].best["value"] == max(values)
    with pytest.raises(RecipeError, match=r"command line: error: there is no measure 'maee'; did you mean 'mae'?"):
        train(tiny, ["train.select=maee"], runs=tmp_path / "none", quiet=True)
    assert not (tmp_path / "none").exists()


def test_without_a_validation_split_the_last_epoch_counts(tiny, tmp_path):
    loaded = recipes.load(tiny)
    built = build(loaded, seed=1)
    built.dataset.splits = {"train": built.dataset.splits["train"]}
    seed = Seed(built, RunFolder.create(loaded, tmp_path), 1, torch.device("cpu"))
    fit([seed])
    assert seed.state.best == {"epoch": 3, "measure": None, "value": None}
    patient = dataclasses.replace(loaded, train=dataclasses.replace(loaded.train, patience=1))
    with pytest.raises(RecipeError, match=r"early stopping \(train.patience\) needs a labelled split 'valid'"):
        Seed(dataclasses.replace(built, recipe=patient), seed.folder, 1, torch.device("cpu"))


# The first steps of fp16 overflow and are left out, until the scale has fallen.
@pytest.mark.parametrize(("precision", "gap"), [("bf16", 0.02), ("fp16", 0.06)])
def test_lower_precision_learns_nearly_the_same(tiny, tmp_path, precision, gap):
    full = train(tiny, ["model.fusion.dropout=0"], runs=tmp_path, quiet=True)
    half = train(tiny, ["model.fusion.dropout=0", f"train.precision={precision}"], runs=tmp_path, quiet=True)
    a, b = (run.folder.read_metrics()[-1] for run in (full, half))
    assert a["loss"] != b["loss"]
    assert b["loss"]["total"] == pytest.approx(a["loss"]["total"], rel=gap)
    assert all(t.dtype == torch.float32 for t in load_trained(half.folder).model.parameters())


def test_a_number_format_that_the_processor_only_imitates_is_told(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("mmrobust.training.device.processor", lambda: {"flags": "fpu avx2 avx512_bf16"})
    assert slow_precision("fp32", cpu) is None and slow_precision("bf16", cpu) is None
    assert slow_precision("fp16", cpu) == (
        "this processor only imitates fp16: train.precision=fp32 will be many times faster"
    )
    assert slow_precision("fp16", torch.device("cuda")) is None
    monkeypatch.setattr("mmrobust.training.device.processor", dict)  # where the system says nothing
    assert slow_precision("fp16", cpu) is None


def test_an_overflow_of_fp16_is_stepped_over_and_the_scale_falls(tiny, tmp_path):
    seed = new_seed(tiny, tmp_path, "train.precision=fp16")
    step = take([seed])
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    train_epoch(step, [seed])
    assert step.scaler.get_scale() < 2.0**60 and seed.state.scaler["scale"] == step.scaler.get_scale()
    (line,) = seed.state.metrics
    assert all(math.isfinite(value) for value in (*line["loss"].values(), line["gradient"]))


def test_the_gradient_is_clipped(tiny, tmp_path):
    moved = {}
    for clip in ("1e-3", "null"):
        seed = new_seed(tiny, tmp_path, f"train.clip={clip}", "train.weight_decay=0")
        seed.begin()
        step = take([seed])
        step([seed.draw(torch.arange(40))], seed.progress())
        squares = [m["exp_avg"].square().sum() for m in step.optimizer.state.values()]
        moved[clip] = torch.stack(squares).sum().sqrt().item() / 0.1
    assert moved["1e-3"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["null"] > 1e-2


def test_only_matrices_decay(tiny, tmp_path):
    seed = new_seed(tiny, tmp_path, "train.weight_decay=0.5")
    step = take([seed])
    assert [group["weight_decay"] for group in step.optimizer.param_groups] == [0.5, 0.0]
    both = [p for m in (seed.model, seed.learning) for p in m.parameters()]
    held = [p for group in step.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(both) == len({id(p) for p in held})


def test_a_loss_that_is_not_finite_stops_with_its_place_and_cause(tiny, tmp_path):
    with pytest.raises(DivergedError) as error:
        train(tiny, ["train.lr=1e30", "train.warmup=0"], runs=tmp_path, quiet=True)
    first, samples, advice, kept = str(error.value).splitlines()
    assert first.startswith("training diverged: seed 1, epoch 1, step 2: not finite: the loss type_1.task")
    assert samples.startswith("  samples of the batch: train-") and samples.count("train-") == 13
    assert advice == "  try a smaller train.lr, a longer train.warmup, or gradient clipping (train.clip)"
    assert kept.startswith("  the run is kept in ")
    assert error.value.exit_code == 4
    where = "".join(traceback.format_exception(error.value))
    assert "in _look" in where and "seed.py" in where  # --debug shows where it arose


def test_features_that_are_not_finite_are_named(tiny, tmp_path):
    seed = new_seed(tiny, tmp_path)
    features = seed.train.features
    features["audio"].x[7, 0, 0] = math.nan
    features["vision"].x[9][~features["vision"].mask[9]] = math.nan  # padding harms nobody
    fit([seed])
    said = str(seed.diverged)
    assert "not finite: features that are not finite: audio of train-7\n" in said
    assert "train-7" in said.splitlines()[1] and "repair the data" in said


def test_a_seed_that_diverged_does_not_take_the_others_with_it(tiny, tmp_path):
    run = Run(RunFolder(tmp_path), recipes.load(tiny))
    run.states[1] = train(tiny, ["train.epochs=1"], runs=tmp_path, quiet=True).states[1]
    run.check()
    run.diverged[2] = DivergedError("training diverged: seed 2, epoch 1")
    with pytest.raises(DivergedError, match=r"seed 2, epoch 1\n  the run is kept in .*; finished: seed 1"):
        run.check()
    assert "seed 1: best epoch 1/3" in str(run) and "seed 2: diverged" in str(run)
    assert run.to_dict()["diverged"] == {"2": "training diverged: seed 2, epoch 1"}


def test_an_interrupt_is_looked_at_between_steps(tiny, tmp_path):
    interrupt = Interrupt()
    interrupt.requested = True
    with pytest.raises(InterruptedRun, match="interrupted after epoch 0 of seed 1; every finished epoch is saved"):
        fit([new_seed(tiny, tmp_path)], interrupt=interrupt)


def test_a_device_that_is_not_there_is_told_with_its_line(tiny, tmp_path):
    with pytest.raises(RecipeError, match=r"there is no device 'cuda:99' here .*; use auto, cpu or cuda"):
        train(tiny, ["train.device=cuda:99"], runs=tmp_path, quiet=True)


@pytest.mark.parametrize(("name", "made_current"), [("cpu", []), ("cuda", []), ("cuda:1", [1])])
def test_a_named_gpu_is_the_current_one(tiny, name, made_current, monkeypatch):
    """Streams, graphs and waiting are of the current GPU; without a number that is the right one already."""
    current = []
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", current.append, raising=False)
    assert choose_device(recipes.load(tiny, [f"train.device={name}"])) == torch.device(name)
    assert current == made_current
