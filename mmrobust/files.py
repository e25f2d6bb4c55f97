"""Reading and writing files: what is written is whole or not there at all, what cannot be read is an error.

What is written is staged beside its target, fsynced and renamed over it, so that a crash, `kill -9` or a full disk
leaves the old file or the new one, never half of one. Only the standard library is used: this file belongs to the
light half.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from mmrobust.errors import ReadError, UsageError, WriteError

__all__ = ["append", "names", "read", "remove", "staged", "sweep", "sync", "write_atomic"]

_SUFFIX = ".part"

_CAUSES = {
    errno.ENOSPC: ("the disk is full{free}", "free some space or choose another folder"),
    errno.EDQUOT: ("your disk quota is used up", "free some space or choose another folder"),
    errno.EFBIG: ("the file would be larger than the limit on file sizes", "raise the limit (ulimit -f)"),
    errno.EACCES: ("permission is denied", "choose a folder that you may write to"),
    errno.EPERM: ("permission is denied", "choose a folder that you may write to"),
    errno.EROFS: ("the file system is read-only", "choose a folder that you may write to"),
    errno.ENOENT: ("its folder does not exist", "make the folder first"),
    errno.ENOTDIR: ("a part of its path is a file, not a folder", "choose another path"),
    errno.EISDIR: ("it is a folder", "name a file"),
    errno.EEXIST: ("something is in its place already", "choose another path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.EIO: ("the disk reports an error", "check the disk"),
}

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _explain(path: Path, error: OSError) -> WriteError:
    cause, advice = _CAUSES.get(error.errno or 0, (error.strerror or str(error), "choose another folder"))
    free = ""
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            free = f" ({shutil.disk_usage(_standing(path)).free / 2**20:.1f} MiB free)"
    return WriteError(f"cannot write {path}: {cause.format(free=free)}; {advice}; what was there before is unharmed")


def _standing(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(p for p in (path, *path.absolute().parents) if p.is_dir())


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what the system says of a failed write into a `WriteError` about `path`."""
    try:
        yield
    except OSError as error:
        raise _explain(path, error) from error


def sync(path: Path) -> None:
    """Makes sure that a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder; its renames need no fsync of it
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync folders
            raise
    finally:
        os.close(handle)


def read(path: Path) -> bytes | None:
    """The bytes of a file; None where there is no such file.

    Raises:
        ReadError: It is there but cannot be read: permission is denied, the disk or the network reports an error, ...
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where there is no such folder.

    Raises:
        ReadError: It is there but cannot be listed.
    """
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(path: Path, error: OSError) -> ReadError:
    reason = error.strerror or str(error)
    return ReadError(f"{path} is there but cannot be read ({reason}); nothing was changed; make it readable again")


#: This machine, in the names of staged files: only on the same machine can be seen whether their process is alive.
_HERE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:180]}.{os.getpid()}-{_HERE}-{secrets.token_hex(4)}{_SUFFIX}")


def _is_left_over(name: str) -> bool:
    """Whether this is the name of a staged file or folder of this machine whose process is gone."""
    parsed = re.fullmatch(rf"\..*\.(\d+)-(?:([0-9a-f]{{8}})-)?[0-9a-f]{{8}}{re.escape(_SUFFIX)}", name)
    if parsed is None or parsed[2] not in (None, _HERE) or os.name == "nt":  # Windows cannot ask after a process
        return False
    try:
        os.kill(int(parsed[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes a file so that it holds the old or the new content, and nothing between, whatever happens.

    A link is followed, the mode of an existing file is kept, and what is no regular file (`/dev/stdout`, a pipe) is
    written to directly.

    Args:
        path: The file; its folder must exist.
        data: Its new content; text is written as UTF-8.

    Raises:
        WriteError: The disk is full, permission is denied, the folder is missing, ...
    """
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    with explained(path):
        target = Path(os.path.realpath(path))
        try:
            mode = os.stat(target).st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if mode is not None and not stat.S_ISREG(mode):
            with open(target, "wb") as file:
                file.write(data)
            return
        part = _beside(target)
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                if mode is not None:
                    os.chmod(part, stat.S_IMODE(mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
            sync(target.parent)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(path: str | os.PathLike[str], *, new: bool = False) -> Iterator[Path]:
    """A folder that appears whole and synced at `path` when the block ends, or not at all if it raises.

    Folders above it are created as needed. A folder already there is replaced; for a moment its old content is then
    under neither name, so use names that are new where that matters.

    Args:
        path: Where the folder shall appear.
        new: Never replace anything but an empty folder. Of several processes that create one folder at the same
            time, exactly one succeeds: the rename is the check.

    Yields:
        The folder to write into, beside the target.

    Raises:
        UsageError: With `new`: there is something at `path` already.
        WriteError: The disk is full, permission is denied, ...; a full disk also for the block's own writes.
    """
    path = Path(path)
    part = _beside(path)
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.mkdir()
        try:
            yield part
        except OSError as error:
            if error.errno in _FULL:
                raise _explain(path, error) from error
            raise
        with explained(path):
            for folder, _, names in os.walk(part):
                for name in names:
                    sync(Path(folder, name))
                sync(Path(folder))
            if new:
                _claim(part, path)
            else:
                if path.exists():
                    remove(path)
                os.rename(part, path)
            sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _claim(part: Path, path: Path) -> None:
    """Renames a folder to a name at which there is nothing, or an empty folder."""
    try:
        if os.name == "nt" and path.is_dir():  # Windows renames over nothing
            path.rmdir()
        os.rename(part, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and os.path.lexists(path):
            raise UsageError(f"{path} holds something already; name a new folder") from error
        raise


def append(path: Path, line: str) -> None:
    """Adds one line to the end of a file; if that fails, the file is as long as it was.

    Raises:
        WriteError: The disk is full, ...
    """
    with explained(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(handle).st_size
        rest = memoryview(line.rstrip("\n").encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError:
            os.ftruncate(handle, size)
            raise
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Removes a folder so that half of it is never seen under its name."""
    part = _beside(path)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, part)
        shutil.rmtree(part, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes of this machine left staged in `folder`; what a live one is writing stays."""
    for name in names(folder):
        if _is_left_over(name):
            part = folder / name
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)
