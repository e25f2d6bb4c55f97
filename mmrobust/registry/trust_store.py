"""Which Python files the person at this machine allows to run.

A recipe or a run may come from a stranger, so a file that it names runs only after the person has said so. That is
remembered in the user's state folder (`$XDG_STATE_HOME/mmrobust/trusted`, `~/.local/state` by default), one small file
for each, by absolute path and SHA-256: a file that has changed since has to be trusted again.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path

from mmrobust.errors import PluginError, UntrustedError
from mmrobust.files import explained, write_atomic

LIMIT = 10_000_000  # bytes


def read(path: str | os.PathLike[str]) -> tuple[Path, bytes]:
    """Reads a plugin file; nothing of it runs.

    Args:
        path: The file.

    Returns:
        Its absolute path with links followed, and its bytes.

    Raises:
        PluginError: There is no such regular file, it is larger than 10 MB, or it cannot be read.
    """
    shown = Path(path)
    try:
        absolute = shown.expanduser().resolve()
        if not absolute.is_file():
            raise PluginError(f"there is no plugin file '{shown}'")
        if absolute.suffix != ".py":
            raise PluginError(f"plugin file '{shown}' is no Python file; its name has to end in .py")
        if absolute.stat().st_size > LIMIT:
            raise PluginError(f"plugin file '{shown}' is larger than {LIMIT // 1_000_000} MB")
        return absolute, absolute.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # too long, null bytes, a circle of links, no permission
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PluginError(f"plugin file '{shown}' cannot be read: {reason}") from None


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def trust(path: str | os.PathLike[str]) -> Path:
    """Allows a Python file, as it is now, to run whenever a recipe or a run names it.

    Args:
        path: The file. It is remembered by absolute path and SHA-256; after a change it has to be trusted again.

    Returns:
        Its absolute path.

    Raises:
        PluginError: There is no such file.
        WriteError: The state folder cannot be written.
    """
    absolute, data = read(path)
    folder = _folder()
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = {"file": str(absolute), "sha256": sha256(data), "since": datetime.now().isoformat(" ", "seconds")}
    write_atomic(_entry(absolute), json.dumps(facts) + "\n")
    return absolute


def forget(path: str | os.PathLike[str]) -> Path:
    """Takes back what `trust` allowed.

    Args:
        path: The file; it need not exist any more.

    Returns:
        Its absolute path.

    Raises:
        PluginError: It was not trusted.
    """
    absolute = Path(path).expanduser().resolve()
    entry = _entry(absolute)
    if not entry.exists():
        raise PluginError(f"'{path}' is not trusted, so there is nothing to forget")
    with explained(entry):
        entry.unlink()
    return absolute


def trusted() -> dict[str, dict[str, str]]:
    """The files that are trusted: `{path: {"sha256": ..., "since": ...}}`, sorted by path."""
    facts = [_facts(entry) for entry in _folder().glob("*.json")]
    known = {fact["file"]: {"sha256": fact["sha256"], "since": fact["since"]} for fact in facts if fact}
    return dict(sorted(known.items()))


def require(path: Path, digest: str) -> None:
    """Refuses a file that is not trusted.

    Args:
        path: Its absolute path.
        digest: The SHA-256 of the bytes that are about to run.

    Raises:
        UntrustedError: With what would allow it.
    """
    fact = _facts(_entry(path))
    if fact and fact["sha256"] == digest:
        return
    what = f"has changed since it was trusted ({fact['since']})" if fact else "is not trusted"
    raise UntrustedError(
        f"plugin file '{path}' {what}, and nothing of it was run; read it, then allow it with --trust FILE "
        f"(remembered) or --plugin FILE (this once), in Python with mmrobust.trust({str(path)!r})"
    )


def _folder() -> Path:
    """The folder of the entries; a relative `XDG_STATE_HOME` would be the current folder's and does not count."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        root = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    except RuntimeError:
        raise PluginError("this user has no home folder to remember trust in; set XDG_STATE_HOME") from None
    return root / "mmrobust" / "trusted"


def _entry(path: Path) -> Path:
    return _folder() / f"{sha256(os.fsencode(path))[:32]}.json"


def _facts(entry: Path) -> dict[str, str]:
    """What an entry says; empty where there is none or it is damaged, which allows nothing."""
    try:
        facts = json.loads(entry.read_bytes())
        return {key: facts[key] for key in ("file", "sha256", "since") if isinstance(facts[key], str)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
