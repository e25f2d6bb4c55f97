"""The manifest of a run: the SHA-256 that each of its files has.

`manifest.json` holds

    format   1
    files    {name: [{size, sha256}]}    two entries only while a file is being replaced
    sha256   of `files` itself

A file is listed first and then renamed into its place. Whenever a process is killed, the file on the disk, the old or
the new one, is therefore one that is listed, and what is not listed was changed by something else. Files that grow
line by line have a seal in each line instead (`seal`, `unseal`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmrobust import files
from mmrobust.errors import DamagedError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

__all__ = ["Manifest", "digest", "exclusive", "seal", "unseal"]

FORMAT = 1
_NAME = "manifest.json"
_SEAL = re.compile(r'(.*), "seal": "([0-9a-f]{16})"\}')


def digest(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def seal(line: str) -> str:
    """A JSON object in one line, with a first part of its own SHA-256 as its last key."""
    return f'{line[:-1]}, "seal": "{digest(line.encode())[:16]}"}}'


def unseal(line: str) -> str | None:
    """The line that was sealed; None where it was changed or has no seal."""
    parsed = _SEAL.fullmatch(line)
    if parsed is None or digest(f"{parsed[1]}}}".encode())[:16] != parsed[2]:
        return None
    return f"{parsed[1]}}}"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One process at a time for a short while; without effect where folders cannot be locked."""
    handle = None
    if fcntl is not None:
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


class Manifest:
    """What the files of a folder held when they were written.

    Args:
        folder: The folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / _NAME

    def entries(self) -> dict[str, list[dict[str, Any]]]:
        """The contents that each file may have, by its name; nothing where there is no manifest.

        Raises:
            DamagedError: The manifest is not as it was written.
            ReadError: It cannot be read.
        """
        data = files.read(self.path)
        if data is None:
            return {}
        try:
            content = json.loads(data)
            entries = content["files"]
            if content["format"] == FORMAT and content["sha256"] == digest(_plain(entries)):
                return entries
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise DamagedError(
            f"{self.path} is damaged, so nothing shows whether the other files of the run are as they were written; "
            f"restore it from a copy of the run"
        )

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Lists what files will hold, and writes them one after the other.

        Args:
            contents: By the name of the file.

        Raises:
            DamagedError: The manifest is damaged.
            WriteError: The disk is full, ...
        """
        new = {name: [{"size": len(data), "sha256": digest(data)}] for name, data in contents.items()}
        with exclusive(self.folder):
            entries = self.entries()
            replaced = {name: entries[name] for name in new if name in entries}
            self._save({**entries, **new, **{name: [*old, *new[name]] for name, old in replaced.items()}})
            for name, data in contents.items():
                files.write_atomic(self.folder / name, data)
            if replaced:
                self._save({**entries, **new})

    def matches(self, name: str, data: bytes) -> bool:
        """Whether a file holds what was written; True for a file that is not listed.

        Raises:
            DamagedError: The manifest is damaged.
        """
        known = self.entries().get(name)
        return known is None or {"size": len(data), "sha256": digest(data)} in known

    def _save(self, entries: dict[str, list[dict[str, Any]]]) -> None:
        content = {"format": FORMAT, "files": entries, "sha256": digest(_plain(entries))}
        files.write_atomic(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _plain(entries: Any) -> bytes:
    return json.dumps(entries, sort_keys=True, ensure_ascii=False).encode()
