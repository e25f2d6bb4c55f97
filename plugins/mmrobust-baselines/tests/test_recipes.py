"""Promise: every shipped recipe of a peer builds, learns, and treats padding, tasks and fewer modalities rightly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmrobust import recipe as recipes
from mmrobust.contracts import Batch, Progress, Shape, Stream, Task
from mmrobust.contracts.randomness import generator
from mmrobust.model.assemble import Built, build
from small import need_timm, random_data
from torch import nn

from mmrobust_baselines.prmf import Draw

PEERS = sorted(name for name in recipes.shipped() if name.startswith("peers/"))
SMALL = [
    "data.train=16",
    "data.valid=4",
    "data.test=4",
    "data.length=8",
    "data.text=12",
    "data.audio=6",
    "data.vision=7",
]
# Published sizes take minutes where these take seconds; the structure is the recipe's.
SMALLER = {
    "peers/tfn": ["model.encoder.parts.text.out=8", "model.encoder.others.hidden=6", "model.head.hidden=16"],
    "peers/ef_lstm": ["model.fusion.layers=2", "model.fusion.hidden=24"],
    "peers/misa": ["model.head.hidden=32"],
    "peers/mult": ["model.fusion.depth=1", "model.fusion.self_depth=1"],
    "peers/normtr_pairs": ["model.width=32", "model.fusion.depth=1"],
    "peers/normtr_vit": ["model.width=32", "model.fusion.depth=1"],
    "peers/pmr": ["model.fusion.depth=2"],
    "peers/tfr_net": ["model.encoder.depth=1", "model.fusion.layers=1", "model.fusion.hidden=12"],
    "peers/mfm": ["model.generic_extractor.hidden=16", "model.generic_extractor.dropout=0"],
    "peers/fdmer": ["model.encoder.hidden=24"],
}
PROGRESS = Progress(1, torch.tensor(0.5))


def built_from(name: str, *overrides: str) -> Built:
    if name.endswith("vit"):
        need_timm()
    return build(recipes.load(name, [*SMALL, *SMALLER.get(name, []), *overrides]))


def first(built: Built, count: int = 6) -> Batch:
    return built.dataset.splits["train"].batch(torch.arange(count))


def certain(built: Built) -> nn.ModuleList:
    """Everything trainable, with dropout off."""
    modules = nn.ModuleList([built.model, built.learning])
    for module in modules.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, Draw):
            module.eval()
    return modules


def learnt(built: Built, count: int) -> tuple[list[float], set[str]]:
    """The task's losses while one batch is learnt by heart, and which parameters never had a gradient."""
    batch = first(built)
    modules = certain(built)
    optimizer = torch.optim.Adam(modules.parameters(), lr=2e-3)
    history = []
    with_gradient: set[str] = set()
    for step in range(count):
        total, parts, views = built.learning.losses(built.model, batch, generator(1, step), PROGRESS)
        optimizer.zero_grad()
        total.backward()
        with_gradient |= {n for n, p in modules.named_parameters() if p.grad is not None and p.grad.any()}
        built.learning.update(views, PROGRESS)
        optimizer.step()
        assert total.isfinite() and total.ndim == 0
        history.append(sum(loss.item() for key, loss in parts.items() if key.endswith(".task")))
    return history, {n for n, _ in modules.named_parameters()} - with_gradient


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_learns_a_small_batch_by_heart(name: str) -> None:
    history, without = learnt(built_from(name), 40)
    assert not without, f"no gradient ever for {sorted(without)}"
    assert sum(history[-3:]) < 0.75 * sum(history[:3])


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_takes_classes(name: str) -> None:
    history, _ = learnt(built_from(name, "data.classes=3"), 6)
    assert history[-1] < history[0]


@pytest.mark.parametrize("name", PEERS)
def test_nan_in_padding_reaches_neither_a_loss_nor_a_gradient(name: str) -> None:
    built = built_from(name)
    modules = certain(built)
    clean = first(built)
    spoilt = replace(
        clean,
        features={
            m: Stream(s.x.masked_fill(~s.mask.unsqueeze(-1), torch.nan), s.mask) for m, s in clean.features.items()
        },
    )
    results = []
    for batch in (clean, spoilt):
        modules.zero_grad()
        total, _, _ = built.learning.losses(built.model, batch, generator(1), PROGRESS)
        total.backward()
        results.append([total.detach(), *(p.grad.clone() for p in modules.parameters() if p.grad is not None)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("missing", [[], ["text"]], ids=["none", "text"])
def test_a_peer_stays_finite_where_everything_or_one_modality_is_gone(name: str, missing: list[str]) -> None:
    built = built_from(name)
    batch = first(built)
    gone = {
        m: Stream(torch.zeros_like(s.x), torch.zeros_like(s.mask) if m in missing else s.mask)
        for m, s in batch.features.items()
    }
    total, _, views = built.learning.losses(built.model, replace(batch, features=gone), generator(1), PROGRESS)
    total.backward()
    assert total.isfinite()
    assert all(out.prediction.isfinite().all() for out in views.values())
    assert all(p.grad.isfinite().all() for p in built.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_takes_two_modalities(name: str) -> None:
    built = built_from(name, "model.modalities=[text, vision]")
    out = built.model(first(built).features)
    assert out.prediction.shape == (6, 1)


STUDIES = sorted(name for name in recipes.shipped() if name.startswith("studies/peers"))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_the_peers_is_whole(name: str) -> None:
    study = recipes.load(name)
    assert study.variants[0] == "normtr" and len(study.train.seeds) >= 3
    assert {f"peers/{variant}" for variant in study.variants if variant != "normtr"} == set(PEERS) - (
        {"peers/self_mm"} if "iemocap" in name else set()
    )
    variants = [study.variant(variant) for variant in study.variants]
    assert len({(v.train.epochs, v.train.patience, v.train.seeds) for v in variants}) == 1
    assert len({str(v.evaluate) for v in variants}) == len({str(v.data) for v in variants}) == 1


LIKE = {
    "iemocap": (
        Task("multilabel", 8, "iemocap"),
        {"text": Shape(6, 8), "audio": Shape(5, 8), "vision": Shape(4, 8)},
        True,
    ),
    "rml": (Task("classification", 3, "classification"), {"audio": Shape(6, 9), "face": Shape(5, 1)}, False),
}


@pytest.mark.parametrize("study", LIKE)
@pytest.mark.parametrize("name", [name.removeprefix("peers/") for name in PEERS])
def test_a_variant_learns_from_data_of_the_paper_s_other_shapes(study: str, name: str) -> None:
    """Four decisions at once; two modalities without text that are not aligned, one of a single step."""
    loaded = recipes.load(f"studies/peers_{study}")
    if name not in loaded.variants:
        return
    if name.endswith("vit"):
        need_timm()
    dataset = random_data(*LIKE[study])
    built = build(loaded.variant(name), dataset=dataset)
    total, _, views = built.learning.losses(built.model, first(built), generator(1), PROGRESS)
    total.backward()
    assert total.isfinite()
    assert all(out.prediction.shape == (6, dataset.task.outputs) for out in views.values())
