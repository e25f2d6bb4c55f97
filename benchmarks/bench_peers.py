"""Epochs of the peers, beside those of the released code, in turns in one process.

    python -m benchmarks.bench_peers --against PATH-TO-MMSA [--file aligned_50.pkl] [--models tfn lmf] [--threads 1 2]

`PATH-TO-MMSA` is a checkout of github.com/thuiar/MMSA. Both sides read the same samples, in the same batches' size,
with the hyper-parameters of its `config_regression.json` for CMU-MOSI; an epoch is all batches of training and one pass
over the validation split, by its own trainer and by ours. Where it would fine-tune BERT, both read pre-computed
features. Only ratios of one run are printed. Without `--file` the samples are random numbers of CMU-MOSI's aligned
shape.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import conftest  # noqa: F401 (our plugins, installed or not)
from benchmarks.alternate import clock
from benchmarks.sizes import SIZES, MadeUp
from mmrobust import recipe as recipes
from mmrobust.contracts import Dataset, Part, Split
from mmrobust.data import open_dataset
from mmrobust.model.assemble import build
from mmrobust.training import RunFolder
from mmrobust.training.loop import take, train_epoch
from mmrobust.training.seed import Seed

#: Each model's name there, the folder that it is in, and what gives our recipe the sizes there.
PEERS: dict[str, tuple[str, str, list[str]]] = {
    "lmf": ("LMF", "singleTask", ["model.encoder.others.hidden={audio: 16, vision: 128}"]),
    "tfn": (
        "TFN",
        "singleTask",
        [
            "model.encoder.parts.text.out=32",
            "model.encoder.others.hidden={audio: 32, vision: 128}",
            "model.head.hidden=64",
        ],
    ),
    "lf_dnn": ("LF_DNN", "singleTask", ["model.encoder.others.hidden={audio: 16, vision: 128}"]),
    "ef_lstm": ("EF_LSTM", "singleTask", []),
    "mfm": ("MFM", "singleTask", []),
    "mult": (
        "MULT",
        "singleTask",
        [
            "model.width=50",
            "model.encoder={kernel: 5, dropout: {text: 0.5}}",
            "model.fusion={dropout: 0, attention_dropout: {text: 0.3, audio: 0.2, vision: 0}}",
            "model.head.dropout=0.5",
            "train.clip={by: value, at: 0.6}",
        ],
    ),
    "misa": ("MISA", "singleTask", ["model.head.between=0.2", "train.clip={by: value, at: 0.8}"]),
    "self_mm": (
        "SELF_MM",
        "multiTask",
        ["model.encoder.others={hidden: {audio: 16, vision: 32}, out: {audio: 16, vision: 32}}"],
    ),
}


class Settings(argparse.Namespace):
    """The released code's settings, by attribute and by key."""

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)


class Table(nn.Module):
    """Stands where the released code has BERT: hands out the pre-computed features of the samples by their number."""

    features: Tensor

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, text: Tensor) -> Tensor:
        """Maps `b 3 t`, whose first row is the sample's number, to `b t d`."""
        return Table.features[text[:, 0, 0].long()]


class Wrapped(nn.Module):
    """The released model behind the name that its trainer expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.Model = model

    def forward(self, *inputs: Any) -> Any:
        """What the released model returns."""
        return self.Model(*inputs)


class Quiet:
    """Stands where the trainers have a progress bar."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __enter__(self) -> Any:
        return self.loader

    def __exit__(self, *_: object) -> None:
        pass


def plateau(*args: Any, verbose: bool = False, **options: Any) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    """Torch's schedule; `verbose`, which torch no longer takes, is left out."""
    return torch.optim.lr_scheduler.ReduceLROnPlateau(*args, **options)


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """A split as the released trainers read it.

    Args:
        split: Our split.
        bert: Whether text is BERT's input (`3 t`: number of the sample, mask, zeros) and not features.
        offset: Number of the split's first sample in `Table.features`.
        averaged: Whether audio and vision are averaged over time, as MMSA's `need_normalized` does.
    """

    def __init__(self, split: Split, bert: bool, offset: int, averaged: bool) -> None:
        self.split, self.bert, self.offset, self.averaged = split, bert, offset, averaged

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        features, label = self.split.features, self.split.label
        assert label is not None
        text = features["text"].x[index].float()
        if self.bert:
            mask = features["text"].mask[index].float()
            text = torch.stack([torch.full_like(mask, index + self.offset), mask, torch.zeros_like(mask)])
        others = {m: features[m].x[index].float() for m in ("audio", "vision")}
        if self.averaged:
            others = {m: x.mean(0, keepdim=True) for m, x in others.items()}
        return {"text": text, **others, "index": index, "id": index, "labels": {"M": label[index].float().view(1)}}


def theirs(name: str, root: Path, data: Dataset, scratch: Path) -> tuple[Callable[[], Any], int]:
    """One epoch of the released code with its own trainer, and its batch size.

    Args:
        name: Our name of the model.
        root: The checkout's `src/MMSA`.
        data: What is trained on.
        scratch: Where its checkpoint goes.
    """
    model, folder, _ = PEERS[name]
    config = json.loads((root / "config/config_regression.json").read_text(encoding="utf-8"))[name]
    shapes = data.modalities
    settings = Settings(
        **(config["commonParams"] | config["datasetParams"]["mosi"]),
        train_mode="regression",
        num_classes=3,
        device="cpu",
        dataset_name="MOSI",
        KeyEval="Loss",
        model_name=name,
        feature_dims=[shapes[m].width for m in ("text", "audio", "vision")],
        seq_lens=shapes["text"].length,
        train_samples=len(data.splits["train"]),
        cur_seed=1,
        model_save_path=str(scratch / "theirs.pth"),
    )
    settings.early_stop = 0  # its trainer returns after one epoch and one validation
    settings.need_data_aligned = True
    bert = bool(config["commonParams"].get("use_bert"))
    averaged = bool(config["commonParams"].get("need_normalized"))
    loaders, offset = {}, 0
    Table.features = torch.cat([data.splits[s].features["text"].x.float() for s in ("train", "valid")])
    for split in ("train", "valid"):
        samples = Samples(data.splits[split], bert, offset, averaged)
        loaders[split] = DataLoader(samples, batch_size=settings.batch_size, shuffle=True)
        offset += len(samples)
    released = getattr(importlib.import_module(f"released.models.{folder}.{model}"), model)
    training = importlib.import_module(f"released.trains.{folder}.{model}")
    training.__dict__.update(tqdm=Quiet, ReduceLROnPlateau=plateau)
    trainer = getattr(training, model)(settings)
    wrapped = Wrapped(released(settings))
    return (lambda: trainer.do_train(wrapped, loaders)), settings.batch_size


def ours(name: str, batch: int, data: Dataset, scratch: Path) -> Callable[[], Any]:
    """One epoch of our recipe, with validation and its checkpoint."""
    changes = [f"train.batch_size={batch}", "train.epochs=1000", "train.patience=null", *PEERS[name][2]]
    built = build(recipes.load(f"peers/{name}", changes), dataset=data)
    seed = Seed(built, RunFolder(scratch / name), 1, torch.device("cpu"))
    step = take([seed])
    return lambda: train_epoch(step, [seed])


def release(root: Path) -> None:
    """Makes the parts of the released code that are measured importable as `released`, without BERT."""
    if not (root / "config/config_regression.json").exists():
        raise SystemExit(f"{root} is not MMSA's source; give a checkout of github.com/thuiar/MMSA")

    def package(name: str, path: Path | None = None, **values: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__path__ = [] if path is None else [str(path)]
        module.__dict__.update(values)
        sys.modules[name] = module
        return module

    package("released")
    for part in ("models", "trains"):
        package(f"released.{part}", root / part)
        for kind in ("singleTask", "multiTask"):
            package(f"released.{part}.{kind}", root / part / kind)
    sub = package("released.models.subNets", root / "models/subNets", BertTextEncoder=Table)
    nets = importlib.import_module("released.models.subNets.FeatureNets")
    sub.__dict__.update(SubNet=nets.SubNet, TextSubNet=nets.TextSubNet)
    utils = package("released.utils", root / "utils", dict_to_str=str)
    utils.__dict__["MetricsTop"] = importlib.import_module("released.utils.metricsTop").MetricsTop


def compare(name: str, root: Path, data: Dataset, threads: int, rounds: int) -> str:
    """One line: seconds of an epoch on both sides, in turns, and the ratio of the medians."""
    torch.set_num_threads(threads)
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        their_epoch, batch = theirs(name, root, data, Path(folder))
        sides = {"theirs": their_epoch, "ours": ours(name, batch, data, Path(folder))}
        for turn in range(rounds + 1):
            for side, epoch in sides.items():
                started = clock()
                epoch()
                if turn:
                    seconds[side].append(clock() - started)
    a, b = statistics.median(seconds["theirs"]), statistics.median(seconds["ours"])
    return f"{name:8} {threads} thread{'s' * (threads > 1)}: theirs {a:6.2f} s, ours {b:6.2f} s, ratio {a / b:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--against", type=Path, required=True, help="a checkout of github.com/thuiar/MMSA")
    parser.add_argument("--file", help="a pickle in MMSA's layout; random numbers without it")
    parser.add_argument("--models", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each side that count")
    given = parser.parse_args(arguments)
    root = given.against / "src" / "MMSA"
    release(root)
    if given.file:
        data = open_dataset(Part("mmsa", {"path": given.file, "measures": "mosi"}))
    else:
        data = MadeUp(SIZES["mosi"])
        data.splits = {**data.splits, "valid": data.splits["test"]}
    for threads in given.threads:
        for name in given.models:
            print(compare(name, root, data, threads, given.rounds), flush=True)


if __name__ == "__main__":
    main()
