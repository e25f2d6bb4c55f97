"""Promise: with the weights of the released code, a peer predicts, loses and learns what that code does, in float64.

Each file under `golden/` holds what the released code computed on a small batch without dropout: inputs, its weights
under our names, predictions, losses and gradients. Its metadata say where from: repository, commit, file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from mmrobust import recipe as recipes
from mmrobust.contracts import Batch, Objective, Outputs, Progress, Shape, Stream
from mmrobust.model.assemble import Built, build
from safetensors import safe_open
from small import REGRESSION, random_data
from torch import Tensor, nn

from mmrobust_baselines.mfm import mmd_to_normal
from mmrobust_baselines.prmf import Draw

GOLDEN = Path(__file__).parent / "golden"
LATER = Progress(3, torch.tensor(0.5))


@dataclass(frozen=True)
class Released:
    """What a released model computed.

    Attributes:
        tensors: By name: `input/`, `weight/`, `gradient/`, `prediction`, `loss`, `loss/`, and what a model adds.
        origin: Repository, commit and file.
    """

    tensors: dict[str, Tensor]
    origin: dict[str, str]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors `name/...` in float64, by the rest of their names."""
        chosen = {k.removeprefix(f"{name}/"): v for k, v in self.tensors.items() if k.startswith(f"{name}/")}
        return {k: v.double() if v.is_floating_point() else v for k, v in chosen.items()}


def released(name: str) -> Released:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        names = list(file.keys())
        return Released({key: file.get_tensor(key) for key in names}, file.metadata())


#: What gives our recipe the sizes with which the released code was run.
SIZES = {
    "tfn": [
        "model.encoder.parts.text={use: lstm, hidden: 4, out: 4}",
        "model.encoder.others.hidden=3",
        "model.head.hidden=5",
    ],
    "lmf": ["model.encoder.parts.text={use: lstm, hidden: 8, out: 4}", "model.encoder.others.hidden=3"],
    "lf_dnn": [
        "model.encoder.parts.text={use: lstm, hidden: 4, out: 5}",
        "model.encoder.others.hidden=3",
        "model.head.hidden=6",
    ],
    "ef_lstm": ["model.fusion.hidden=5", "model.fusion.layers=2", "model.fusion.norm=none", "model.head.hidden=5"],
    "mult": [
        "model.width=4",
        "model.fusion.heads=2",
        "model.fusion.depth=1",
        "model.fusion.self_depth=3",
    ],
    "misa": [
        "model.width=8",
        "model.encoder.parts.text.hidden=8",
        "model.encoder.others.out=8",
        "model.generic_extractor.out=8",
        "model.specific_extractor.out=8",
        "model.fusion.ratio=4",
        "model.head.hidden=24",
    ],
    "self_mm": [
        "model.encoder.others={use: lstm, hidden: {audio: 3, vision: 4}, out: {audio: 3, vision: 4}}",
        "model.fusion.hidden=7",
        "model.head.hidden=7",
        "learning.views.clean.objectives=[{use: task, regression: mae}, "
        "{use: unimodal_labels, hidden: {text: 5, audio: 3, vision: 4}}]",
    ],
    "mfm": [
        "model.generic_extractor={use: mfn, hidden: {text: 4, audio: 3, vision: 2}, memory: 3, out: 5, "
        "between: {attention: 6, candidate: 5, keep: 4, take: 7}}",
        "model.specific_extractor.hidden={text: 3, audio: 4, vision: 2}",
        "model.fusion.out=4",
        "model.head.hidden=4",
        "learning.views.clean.objectives=[{use: task, regression: mae}, {use: generative, "
        "factor: {text: 3, audio: 2, vision: 4}, weights: {text: 0.5, audio: 0.01, vision: 0.5}}]",
    ],
    "tfr_net": [
        "model.width=4",
        "model.encoder.heads=2",
        "model.generic_extractor.heads=2",
        "model.fusion.hidden={text: 3, audio: 2, vision: 4}",
        "model.fusion.layers=2",
        "model.head.hidden=6",
    ],
    "almt": [
        "model.width=4",
        "model.encoder={tokens: 3, heads: 2, each: 3}",
        "model.fusion={heads: 2, each: 3}",
    ],
    "emt_dlfr": [
        "model.encoder.others={hidden: {audio: 3, vision: 4}, out: {audio: 2, vision: 3}}",
        "model.fusion={width: 4, depth: 2, heads: 2}",
        "model.head.hidden=5",
        "learning.views.incomplete.objectives=[{use: task, regression: mae}, "
        "{use: attraction, hidden: {text: 3, audio: 2, vision: 4, context: 5}}, {use: local_reconstruction, width: 4}]",
        "learning.views.complete.objectives=[]",
    ],
    "p_rmf": [
        "model.width=4",
        "model.encoder={tokens: 3, heads: 2, each: 3}",
        "model.fusion={heads: 2, each: 3, reading: release}",
        "model.head.hidden=5",
        "learning.views.incomplete.objectives=[{use: task}, {use: proxy_variational, heads: 2, each: 3, weight: 0.5}, "
        "{use: token_reconstruction, heads: 2, each: 3, weight: 0.1}]",
        "learning.views.complete.objectives=[]",
    ],
    "lnln": [
        "model.width=4",
        "model.encoder={tokens: 3, heads: 2, each: 3}",
        "model.fusion={heads: 2, each: 3, reading: release}",
        "learning.views.incomplete.objectives=[{use: task}, {use: completeness, weight: 0.9}, "
        "{use: effectiveness, hidden: 5, weight: 0.8}, "
        "{use: token_reconstruction, heads: 2, each: 3, weight: 0.1}]",
        "learning.views.complete.objectives=[]",
    ],
}


def built_like(name: str, golden: Released) -> Built:
    """Our model of the release's sizes with the release's weights, in float64, without dropout."""
    inputs = golden.group("input")
    shapes = {m: Shape(inputs[m].shape[2], inputs[m].shape[1]) for m in ("text", "audio", "vision")}
    aligned = len({shape.length for shape in shapes.values()}) == 1
    data = random_data(REGRESSION, shapes, aligned)
    built = build(recipes.load(f"peers/{name}", [*SIZES[name], "model.attention=manual"]), dataset=data)
    modules = nn.ModuleDict({"model": built.model, "learning": built.learning}).double().train()
    for module in modules.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, Draw):
            module.eval()  # the release was run with the means
    ours, theirs = parameters(built), golden.group("weight")
    assert set(theirs) <= set(ours), sorted(set(theirs) - set(ours))
    for key, value in theirs.items():
        ours[key].data.copy_(value)
    return built


def parameters(built: Built) -> dict[str, nn.Parameter]:
    """All parameters by the golden files' names: the model's own, and `objective/NAME.` for those of an objective."""
    own = {key.removeprefix("parts."): value for key, value in built.model.named_parameters()}
    for key, objective in objectives(built).items():
        own |= {f"objective/{key}.{name}": value for name, value in objective.named_parameters()}
    return own


def objectives(built: Built) -> dict[str, Objective]:
    return {key.partition(".")[2]: objective for key, objective in built.learning.named_objectives()}


def batch_of(golden: Released) -> Batch:
    features = {m: Stream(x, torch.ones(x.shape[:2], dtype=torch.bool)) for m, x in golden.group("input").items()}
    batch = Batch.fresh(features, golden.tensors["label"].double())
    if "index" in golden.tensors:
        batch = replace(batch, index=golden.tensors["index"])
    erased = golden.group("erased")
    if erased:
        gone = {m: s.map(lambda x, m=m: x.masked_fill(erased[m].unsqueeze(-1), 0)) for m, s in features.items()}
        batch = batch.noisy(gone, erased)
    return batch


def forward(built: Built, batch: Batch) -> Outputs:
    return replace(built.model(batch.features), batch=batch)


def same_gradients(built: Built, golden: Released) -> None:
    """The gradients of each parameter, and all together, point where the release's do."""
    theirs, ours = golden.group("gradient"), parameters(built)
    pairs = {key: (ours[key].grad, value) for key, value in theirs.items()}
    for key, (mine, other) in pairs.items():
        size = other.abs().max()
        if size > 1e-6:
            assert mine is not None, key
            assert torch.cosine_similarity(mine.flatten(), other.flatten(), 0) > 0.9999, key
            torch.testing.assert_close(mine, other, atol=1e-5 * float(size) + 1e-7, rtol=1e-4, msg=key)


ONE_LOSS = [name for name in SIZES if name not in ("self_mm", "tfr_net", "lnln", "emt_dlfr", "p_rmf")]


@pytest.mark.parametrize("name", ONE_LOSS)
def test_predictions_losses_and_gradients_are_the_release_s(name: str) -> None:
    golden = released(name)
    built = built_like(name, golden)
    out = forward(built, batch_of(golden))
    torch.testing.assert_close(out.prediction, golden.tensors["prediction"], atol=1e-6, rtol=0)
    losses = {key: objective(out, {}, LATER) for key, objective in objectives(built).items()}
    for key, value in golden.group("loss").items():
        torch.testing.assert_close(losses[key], value, atol=1e-6, rtol=0)
    total = sum(objectives(built)[key].weight * loss for key, loss in losses.items())
    assert isinstance(total, Tensor)
    torch.testing.assert_close(total, golden.tensors["loss"].double(), atol=1e-6, rtol=0)
    total.backward()
    same_gradients(built, golden)
    assert set(parameters(built)) == set(golden.group("weight")), "a parameter is not the release's"


def test_self_mm_s_losses_and_new_labels_are_the_release_s() -> None:
    golden = released("self_mm")
    built = built_like("self_mm", golden)
    unimodal = objectives(built)["unimodal_labels"]
    unimodal.get_buffer("labels").copy_(golden.tensors["labels_before"].unsqueeze(-1))
    unimodal.get_buffer("truth").copy_(golden.tensors["truth"])
    unimodal.get_buffer("seen").fill_(1)
    for key, value in golden.group("memory").items():
        unimodal.get_buffer(f"memory_{'fused' if key == 'fusion' else key}").copy_(value)
    batch = batch_of(golden)
    out = forward(built, batch)
    torch.testing.assert_close(out.prediction, golden.tensors["prediction"], atol=1e-6, rtol=0)
    losses = {key: objective(out, {}, LATER) for key, objective in objectives(built).items()}
    for key, value in golden.group("loss").items():
        torch.testing.assert_close(losses[key], value, atol=1e-6, rtol=0)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    same_gradients(built, golden)
    with torch.no_grad():
        unimodal.update(out, {}, LATER)
    labels = unimodal.get_buffer("labels")[..., 0]
    torch.testing.assert_close(labels, golden.tensors["labels_after"], atol=1e-6, rtol=0)


def test_tfr_net_s_losses_are_the_release_s() -> None:
    """The reconstruction reads what the release's generator read, for its Transformers over the batch are not ours."""
    golden = released("tfr_net")
    built = built_like("tfr_net", golden)
    out = forward(built, batch_of(golden))
    torch.testing.assert_close(out.prediction, golden.tensors["prediction"], atol=1e-6, rtol=0)
    generic = {m: replace(out.generic[m], x=x) for m, x in golden.group("generic").items()}
    parts = objectives(built)
    task = parts["task"](out, {}, LATER)
    rebuilt = parts["feature_reconstruction"](replace(out, generic=generic), {}, LATER)
    torch.testing.assert_close(task, golden.tensors["loss/task"], atol=1e-6, rtol=0)
    torch.testing.assert_close(rebuilt, golden.tensors["loss/feature_reconstruction"], atol=1e-6, rtol=0)
    (task + rebuilt).backward()
    same_gradients(built, golden)


@pytest.mark.parametrize("name", ["lnln", "emt_dlfr", "p_rmf"])
def test_losses_of_two_views_are_the_release_s(name: str) -> None:
    golden = released(name)
    built = built_like(name, golden)
    noisy = batch_of(golden)
    assert noisy.clean is not None
    views = {"complete": forward(built, noisy.clean), "incomplete": forward(built, noisy)}
    out = views["incomplete"]
    torch.testing.assert_close(out.prediction, golden.tensors["prediction"], atol=1e-6, rtol=0)
    losses = {key: objective(out, views, LATER) for key, objective in objectives(built).items()}
    for key, value in golden.group("loss").items():
        torch.testing.assert_close(losses[key], value, atol=1e-6, rtol=0, msg=key)
    torch.stack([objectives(built)[key].weight * loss for key, loss in losses.items()]).sum().backward()
    same_gradients(built, golden)
    assert set(parameters(built)) == set(golden.group("weight")), "a parameter is not the release's"


def test_mfm_s_kernel_is_the_release_s() -> None:
    golden = released("mfm")
    z = golden.tensors["latent"]
    d = z.shape[1]
    variance = d**2 / 2
    cross = (variance / (variance + 1)) ** (d / 2) * torch.exp(-z.square().sum(-1) / (2 * (variance + 1))).mean()
    own = mmd_to_normal(z, variance) + 2 * cross - (variance / (variance + 2)) ** (d / 2)
    torch.testing.assert_close(own, golden.tensors["latent_kernel"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", SIZES)
def test_a_golden_file_is_small_and_says_where_it_is_from(name: str) -> None:
    assert (GOLDEN / f"{name}.safetensors").stat().st_size < 200_000
    origin = released(name).origin
    assert origin["repository"].count("/") == 1 and len(origin["commit"]) == 40 and ".py" in origin["file"]
