"""Fingerprints of data files: size and SHA-256, so that another file under the same name is noticed.

Hashing 13 GB takes a minute, so a fingerprint is kept under the user's cache folder for as long as the file has the
same path, size and times. A file that changed a moment ago is hashed each time: within one tick of the file system's
clock it could change again and keep its times.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmrobust import files
from mmrobust.errors import DataError, WriteError

__all__ = ["Fingerprint", "cache_folder", "data_paths", "fingerprint"]

_CHUNK = 2**22
_TICK = 2.0  # seconds; the coarsest clock of a file system in use


@dataclass(frozen=True)
class Fingerprint:
    """Which file, or which folder of files, some data was.

    Attributes:
        path: Where it was.
        size: In bytes.
        sha256: Of the content; of a folder, of the names and the SHA-256 of its files.
    """

    path: str
    size: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.size:,} bytes, SHA-256 {self.sha256[:16]}..."


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of a file, or of all files in a folder.

    Raises:
        DataError: It is missing or cannot be read.
    """
    try:
        if not path.is_dir():
            return Fingerprint(str(path), path.stat().st_size, _hashed(path))
        inside = {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
        each = {name: (p.stat().st_size, _hashed(p)) for name, p in inside.items()}
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
    whole = hashlib.sha256(json.dumps(each).encode()).hexdigest()
    return Fingerprint(str(path), sum(size for size, _ in each.values()), whole)


def data_paths(options: Mapping[str, Any]) -> dict[str, Path]:
    """The files and folders that a dataset's options name and that exist, by the place of the option."""

    def walk(place: str, value: Any) -> Iterator[tuple[str, Path]]:
        if isinstance(value, Path):
            if value.is_file() or value.is_dir():
                yield place, value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(f"{place}.{key}" if place else str(key), inner)
        elif isinstance(value, (list, tuple)):
            for i, inner in enumerate(value):
                yield from walk(f"{place}.{i}", inner)

    return dict(walk("", options))


def cache_folder() -> Path:
    """The user's cache folder of mmrobust."""
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mmrobust"


def _hashed(path: Path) -> str:
    """The SHA-256 of a file, from the cache where the file is as it was."""
    known = _known(path)
    kept: Path | None = None
    with contextlib.suppress(OSError, RuntimeError, ValueError, KeyError, TypeError):  # no home, or no such entry
        kept = cache_folder() / "fingerprints" / hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        content = json.loads(kept.read_text())
        if content["file"] == known and len(content["sha256"]) == 64:
            return content["sha256"]
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    if kept is not None and known == _known(path) and time.time() - known["time"] / 1e9 > _TICK:
        with contextlib.suppress(OSError, WriteError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomic(kept, json.dumps({"file": known, "sha256": sha256.hexdigest()}))
    return sha256.hexdigest()


def _known(path: Path) -> dict[str, Any]:
    """What changes when a file does, without reading it."""
    status = path.stat()
    latest = max(status.st_mtime_ns, status.st_ctime_ns)
    return {"size": status.st_size, "modified": status.st_mtime_ns, "inode": status.st_ino, "time": latest}
