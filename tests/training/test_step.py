"""Compiled and captured steps: the same training, or a word on why not."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

from mmrobust import recipe as recipes
from mmrobust.accel.graphs import Graphed, _apart
from mmrobust.contracts import Progress
from mmrobust.model.assemble import build
from mmrobust.training import RunFolder, Seed, train
from mmrobust.training.device import deterministic
from mmrobust.training.step import Step, first_line

STILL = ["model.fusion.dropout=0", "train.epochs=2", "data.train=32"]  # batches of one size: tracing takes long


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def traced(monkeypatch):
    """Compilation up to where code would be generated, which takes a minute."""
    torch.compiler.reset()
    graphs = []
    compile_ = torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(compile_, backend=backend))
    return graphs


def losses(run):
    return [line["loss"] | {"gradient": line["gradient"]} for line in run.folder.read_metrics()]


def test_a_compiled_step_trains_the_same(tiny, tmp_path, double, traced):
    plain = train(tiny, STILL, out=tmp_path / "plain", quiet=True)
    run = train(tiny, [*STILL, "train.compile=true"], out=tmp_path / "run", quiet=True)
    assert "train.compile" not in run.folder.log.read_text()
    assert len(traced) > 0
    for a, b in zip(losses(run), losses(plain), strict=True):
        assert a == pytest.approx(b, rel=1e-9)


def test_stacked_seeds_are_not_compiled_and_that_is_said(tiny, tmp_path, traced):
    more = [*STILL, "train.seeds=2", "train.together=true"]
    plain = train(tiny, more, out=tmp_path / "plain", quiet=True)
    run = train(tiny, [*more, "train.compile=true"], out=tmp_path / "run", quiet=True)
    logged = (
        "train.compile: torch.compile would lose the gradient reversal of stacked seeds, so steps are not compiled\n"
    )
    assert run.folder.log.read_text().count(logged) == 1
    assert traced == [] and losses(run) == losses(plain)


def test_a_step_that_cannot_be_compiled_runs_as_it_is_and_says_why(tiny, tmp_path, monkeypatch):
    def backend(graph, inputs):
        raise OSError("there is no compiler here\nand more of it")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain = train(tiny, STILL, out=tmp_path / "plain", quiet=True)
    run = train(tiny, [*STILL, "train.compile=true"], out=tmp_path / "run", quiet=True)
    log = run.folder.log.read_text()
    assert (
        log.count("train.compile: torch.compile failed, so the step runs as it is (OSError: there is no compiler ") == 1
    )
    assert "and more of it" not in log
    assert losses(run) == losses(plain)


def test_what_is_wrong_with_the_model_is_no_fault_of_compilation(tiny, tmp_path, monkeypatch):
    from mmrobust.components.head import MeanPoolLinear

    def broken(self, stream):
        raise ZeroDivisionError("a part of somebody's is broken")

    monkeypatch.setattr(MeanPoolLinear, "forward", broken)
    monkeypatch.setattr(torch, "compile", lambda forward: forward)  # it meets the same fault
    with pytest.raises(ZeroDivisionError, match="a part of somebody's is broken"):
        train(tiny, [*STILL, "train.compile=true"], out=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("train.precision=fp32", "CUDA graphs need a GPU, and this trains on 'cpu'"),
        ("train.together=true", "CUDA graphs need a GPU, and this trains on 'cpu'"),
    ],
)
def test_on_a_cpu_nothing_is_captured_and_that_is_said(tiny, tmp_path, change, why):
    more = [*STILL, "train.graphs=true", "train.seeds=2", change]
    run = train(tiny, more, out=tmp_path / "run", quiet=True)
    assert f"train.graphs: {why}, so steps are not captured\n" in run.folder.log.read_text()
    assert sorted(run.states) == [1, 2]


def begun(tiny, out, *overrides):
    """A seed in its first epoch."""
    loaded = recipes.load(tiny, [*STILL, "train.graphs=true", *overrides])
    seed = Seed(build(loaded, seed=1), RunFolder.create(loaded, out=out), 1, torch.device("cpu"))
    seed.begin()
    return seed


def new_step(seed, log=print):
    return Step(seed.trained, seed.settings, seed.device, log)


def test_what_a_graph_would_get_wrong_is_not_captured(tiny, tmp_path):
    from mmrobust import registry

    registry.load_file(Path(__file__).parent / "memory.py")
    gpu = torch.device("cuda")  # only asked for its name
    half = new_step(begun(tiny, tmp_path / "a", "train.precision=fp16"))
    half.device = gpu
    assert half.graphless() == "fp16 looks at every gradient for an overflow"
    memory = new_step(begun(tiny, tmp_path / "b", "learning.views.type_1.objectives=[task, recall]"))
    memory.device = gpu
    assert memory.graphless() == "the objective type_1.recall keeps a memory"
    plain = new_step(begun(tiny, tmp_path / "c"))
    plain.device = gpu
    assert plain.graphless() is None


def test_a_loss_that_reads_the_epoch_is_not_captured(tiny, tmp_path):
    seed = begun(tiny, tmp_path / "run")
    views = [seed.draw(torch.arange(8))]
    logged: list[str] = []
    step = Graphed(
        lambda views, progress: torch.ones(3), lambda views, progress: progress.epoch + 1, int, logged.append
    )
    progress = Progress(2, torch.zeros(()))
    assert step(views, progress).tolist() == [1, 1, 1] and step(views, progress).tolist() == [1, 1, 1]
    assert logged == ["train.graphs: an objective reads the number of the epoch, so steps are not captured"]
    real = new_step(seed)
    forward = lambda batches, progress: real.forward(batches[0], progress)
    assert not Graphed(real, forward, int, logged.append)._reads_epoch(views, progress)


def test_what_views_share_enters_a_graph_once(tiny, tmp_path):
    views = [begun(tiny, tmp_path / "run").draw(torch.arange(8))]
    leaves, order, spec = _apart(views)
    assert len(leaves) == len({id(leaf) for leaf in leaves}) < len(order)
    copies = [leaf.clone() for leaf in leaves]
    (again,) = pytree.tree_unflatten([copies[i] for i in order], spec)
    assert again["type_1"].clean.label is again["type_2"].clean.label
    for name, view in views[0].items():
        for m, erased in view.erased.items():
            assert torch.equal(again[name].erased[m], erased)
    assert _apart([again])[1] == order


def test_a_kernel_without_a_deterministic_form_is_told_once_and_runs(tiny, tmp_path):
    logged: list[str] = []
    seed = begun(tiny, tmp_path / "run")
    one = new_step(seed, logged.append)
    forward, asked = one.forward, []

    def picky(views, progress):
        asked.append(torch.is_deterministic_algorithms_warn_only_enabled())
        if not asked[-1]:
            raise RuntimeError("picky_backward_cuda does not have a deterministic implementation, but you set ...")
        return forward(views, progress)

    one.forward = picky
    views = seed.draw(torch.arange(8))
    with deterministic(torch.device("cpu"), 1):
        first, second = one([views], Progress(0, torch.zeros(()))), one([views], Progress(0, torch.zeros(())))
    assert first.isfinite().all() and second.isfinite().all()
    assert asked == [False, True, True] and one.lenient
    assert [line for line in logged if "deterministic" in line] == [
        "steps are not the same bits every time on this GPU: RuntimeError: picky_backward_cuda does not have a "
        "deterministic implementation, but you set ..."
    ]
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_rate_is_set_in_place_where_a_graph_reads_it(tiny, tmp_path):
    one = new_step(begun(tiny, tmp_path / "run"))
    for group in one.optimizer.param_groups:
        group["lr"] = torch.tensor(0.5)
    kept = [group["lr"] for group in one.optimizer.param_groups]
    one.set_rate(0.25)
    assert [group["lr"] for group in one.optimizer.param_groups] == kept == [torch.tensor(0.25)] * 2 and one.lr == 0.25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("together", ["false", "true"])
def test_captured_steps_train_the_same(tiny, tmp_path, together):
    more = ["train.epochs=4", "model.fusion.dropout=0", "train.seeds=3", "train.device=cuda"]
    more += [f"train.together={together}"]
    plain = train(tiny, more, out=tmp_path / "plain", quiet=True)
    run = train(tiny, [*more, "train.graphs=true"], out=tmp_path / "run", quiet=True)
    assert "train.graphs" not in run.folder.log.read_text()
    for a, b in zip(losses(run), losses(plain), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_an_error_is_told_in_a_line():
    assert first_line(ValueError("a\nb")) == "ValueError: a" and first_line(KeyError()) == "KeyError"
