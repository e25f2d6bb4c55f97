"""Checkpoints: folders that are whole and unharmed, or not used.

    checkpoints/seed-<k>/epoch-<n>/
      model.safetensors       the model's state_dict, usable alone
      learning.safetensors    the objectives' state_dict
      optimizer.safetensors   `<parameter>/<name of the moment>`
      state.json              where the training stands, and the metrics of every epoch so far
      manifest.json           size and SHA-256 of each file, and the SHA-256 of that

A checkpoint is staged, synced and renamed, so a kill or a full disk leaves it whole or absent; the manifest shows what
a disk or a person did to it later (safetensors alone notices truncation, not a flipped bit). Nothing is ever unpickled.

Damaged is what can be read and is not what was written: it is passed over, and training writes it again. What cannot be
read (permission, an error of the disk or network) may be whole: it is an error, and nothing is written in its place.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from mmrobust import files
from mmrobust.errors import CheckpointError
from mmrobust.training.folder import to_json
from mmrobust.training.manifest import digest

__all__ = ["Checkpoint", "Checkpoints", "State", "load_weights", "read", "write"]

FORMAT = 1
_FILES = ("model.safetensors", "learning.safetensors", "optimizer.safetensors", "state.json")


@dataclass
class State:
    """Where the training of one seed stands; all of it is plain JSON.

    Every random number of an epoch is derived from the seed and the epoch, so that no state of a generator is needed.

    Attributes:
        seed: The seed.
        epoch: Epochs finished.
        step: Steps finished.
        best: The epoch chosen so far and its value: `{"epoch", "measure", "value"}`; the measure is None where there
            is no validation split, and the last epoch counts as the best.
        waited: Epochs since the best one.
        finished: Nothing is left to do.
        scaler: State of the scaler of fp16 gradients.
        metrics: What `metrics.jsonl` holds for this seed.
    """

    seed: int
    epoch: int = 0
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    waited: int = 0
    finished: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read and known to be unharmed.

    Attributes:
        path: Its folder.
        state: Where the training stood.
        model: The model's weights and buffers.
        learning: The objectives'.
        optimizer: The optimizer's tensors.
    """

    path: Path
    state: State
    model: dict[str, Tensor]
    learning: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors; each is a copy, since safetensors refuses tensors that share memory."""
    return safetensors.torch.save({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()})


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks every byte of it.

    Raises:
        CheckpointError: Something is missing or damaged; the message says what.
        ReadError: Something is there but cannot be read.
    """

    def content(name: str) -> bytes:
        data = files.read(path / name)
        if data is None:
            raise CheckpointError(f"{path}: {name} is missing")
        return data

    try:
        manifest = json.loads(content("manifest.json"))
        form = manifest["format"]
        if "sha256" in manifest and manifest["sha256"] != digest(to_json(manifest["files"]).encode()):
            raise ValueError
        known = {name: (manifest["files"][name]["size"], manifest["files"][name]["sha256"]) for name in _FILES}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: manifest.json is damaged") from error
    if form != FORMAT:
        raise CheckpointError(f"{path} has format {form}; this version of mmrobust reads format {FORMAT}")
    data = {}
    for name, (size, sha256) in known.items():
        data[name] = content(name)
        if len(data[name]) != size:
            raise CheckpointError(f"{path}: {name} has {len(data[name])} bytes, not the {size} that were written")
        if digest(data[name]) != sha256:
            raise CheckpointError(f"{path}: {name} is damaged (its SHA-256 is not the one that was written)")
    model, learning, optimizer = (safetensors.torch.load(data[name]) for name in _FILES[:3])
    return Checkpoint(path, State(**json.loads(data["state.json"])), model, learning, optimizer)


def write(
    path: Path,
    state: State,
    model: Mapping[str, Tensor],
    learning: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
) -> None:
    """Writes a checkpoint, whole or not at all.

    Raises:
        WriteError: It cannot be written.
    """
    data = {
        "model.safetensors": pack(model),
        "learning.safetensors": pack(learning),
        "optimizer.safetensors": pack(optimizer),
        "state.json": to_json(asdict(state), indent=1).encode(),
    }
    known = {name: {"size": len(x), "sha256": digest(x)} for name, x in data.items()}
    manifest = {"format": FORMAT, "files": known, "sha256": digest(to_json(known).encode())}
    with files.staged(path) as part:
        for name, content in data.items():
            (part / name).write_bytes(content)
        (part / "manifest.json").write_text(to_json(manifest, indent=1))


class Checkpoints:
    """The checkpoints of one seed.

    Args:
        folder: `checkpoints/seed-<k>`.
        keep: How many of the last ones are kept, besides the best.
        log: Called with a line about each damaged checkpoint that is passed over.
    """

    def __init__(self, folder: Path, keep: int = 2, log: Callable[[str], None] = lambda text: None) -> None:
        self.folder = folder
        self.keep = max(keep, 1)
        self.log = log

    def path(self, epoch: int) -> Path:
        """Where the checkpoint of an epoch is."""
        return self.folder / f"epoch-{epoch:04}"

    @property
    def epochs(self) -> list[int]:
        """Epochs that have a checkpoint, damaged or not, in order.

        Raises:
            ReadError: The folder cannot be listed.
        """
        numbers = (name.removeprefix("epoch-") for name in files.names(self.folder) if name.startswith("epoch-"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def save(self, state: State, model: nn.Module, learning: nn.Module, moments: Mapping[str, Tensor]) -> None:
        """Writes the checkpoint of `state.epoch`, then removes those no longer needed.

        Args:
            state: Where the training stands.
            model: The model.
            learning: The objectives.
            moments: The optimizer's tensors, `<parameter>/<moment>`.

        Raises:
            WriteError: It cannot be written; those there before are unharmed.
        """
        write(self.path(state.epoch), state, model.state_dict(), learning.state_dict(), moments)
        self.prune(state)

    def prune(self, state: State) -> None:
        """Removes the checkpoints that are not needed to go on from `state`.

        Later ones than its own were passed over as damaged, or led to nothing.
        """
        wanted = {*[e for e in self.epochs if e <= state.epoch][-self.keep :], state.best.get("epoch", state.epoch)}
        for epoch in self.epochs:
            if epoch not in wanted:
                files.remove(self.path(epoch))

    def newest(self) -> Checkpoint | None:
        """The checkpoint to go on from: the newest that is unharmed and whose best is unharmed as well.

        One whose best is lost is no use: going on from an earlier one makes the best again, bit for bit.

        Raises:
            ReadError: One is there but cannot be read.
        """
        files.sweep(self.folder)
        for epoch in reversed(self.epochs):
            try:
                checkpoint = read(self.path(epoch))
                best = checkpoint.state.best.get("epoch", epoch)
                if best != epoch:
                    read(self.path(best))
                return checkpoint
            except CheckpointError as error:
                self.log(f"passed over: {error}")
        return None

    def last(self) -> Checkpoint | None:
        """The checkpoint of the last epoch; None where there is no checkpoint.

        Raises:
            CheckpointError: It is damaged.
            ReadError: It is there but cannot be read.
        """
        epochs = self.epochs
        return self._intact(epochs[-1]) if epochs else None

    def best(self) -> Checkpoint:
        """The checkpoint of the best epoch, as the last one says.

        Raises:
            CheckpointError: There is none, or one of both is damaged.
            ReadError: One of both is there but cannot be read.
        """
        last = self.last()
        if last is None:
            raise CheckpointError(f"{self.folder} holds no checkpoint; train first")
        best = last.state.best.get("epoch", last.state.epoch)
        return last if best == last.state.epoch else self._intact(best)

    def _intact(self, epoch: int) -> Checkpoint:
        try:
            return read(self.path(epoch))
        except CheckpointError as error:
            run = shlex.quote(str(self.folder.parent.parent))
            raise CheckpointError(f"{error}; mmrobust train --resume {run} trains it again") from error


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copies weights and buffers into a module.

    Raises:
        CheckpointError: They are not this module's.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{what} does not fit the recipe's model: {error}") from error


def restore(checkpoint: Checkpoint, model: nn.Module, learning: nn.Module) -> None:
    """Puts model and objectives where they were.

    Raises:
        CheckpointError: The checkpoint is another model's.
    """
    load_weights(model, checkpoint.model, f"{checkpoint.path}")
    load_weights(learning, checkpoint.learning, f"{checkpoint.path}")
