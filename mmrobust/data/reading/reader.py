"""Reads a data file in a child process with limits on memory and time; nothing in the file is executed.

The child (`child.py`) takes the file apart with the standard library alone and hands back JSON and raw bytes. A file
that asks for anything but numpy arrays, numbers, text, bytes, lists, tuples and dicts is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmrobust.data.reading import foreign
from mmrobust.errors import DataError, UsageError
from mmrobust.supervisor import Process

_CHILD = Path(__file__).with_name("child.py")
_MB = 2**20
_HEAD = 4096
_PART = 2**24  # bytes read at once
_UNPACKED = 1024 * _MB  # that an archive may unpack to, and 24 times its size more
_SECONDS = 30  # and one more for every five megabytes
_ARTICLE = {"pickle": "a pickle", "npz": "an .npz file", "safetensors": "a .safetensors file"}
MEMORY = "MMROBUST_DATA_MEMORY"
SECONDS = "MMROBUST_DATA_SECONDS"


@dataclass(frozen=True)
class FileContent:
    """What is in a data file.

    Attributes:
        form: `pickle`, `npz` or `safetensors`.
        value: Plain values and numpy arrays.
        notes: What the user should know of the reading.
    """

    form: str
    value: Any
    notes: list[str] = field(default_factory=list)


def read_file(path: Path, forms: Sequence[str] = tuple(_ARTICLE), only: Collection[str] | None = None) -> FileContent:
    """Reads a pickle of plain data, an .npz or a .safetensors file; the content decides which, not the name.

    Args:
        path: The file. Pickles: protocols 0 to 5, written by Python 2 or 3 with numpy 1 or 2.
        forms: Which of `pickle`, `npz` and `safetensors` are wanted.
        only: Pickles: of the dicts inside the outermost dict, keep the values of these keys alone; the others' become
            None and cost nothing here.

    Raises:
        UsageError: An environment variable that raises a limit holds no number.
        DataError: The file is missing, no regular file, unreadable, of another form, damaged or hostile, or takes too
            much memory or time.
    """
    with _open(path) as (source, size):
        head = source.read(_HEAD)
        source.seek(0)  # the child begins where this process stands
        form = _form(path, head, size, forms)
        return _read(path, source, size, form, only, head)


def cannot_read(path: Path, error: OSError) -> DataError:
    """The error for a file that the system does not hand out."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file")
    return DataError(f"{path}: cannot be read: {error.strerror or error}")


@contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """The file and its size; only a regular file, so that no pipe, device or folder is ever waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        mode = os.stat(path).st_mode  # a look before opening: to open a device may already do something
        source = os.fdopen(os.open(path, flags), "rb", buffering=0) if stat.S_ISREG(mode) else None
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:  # a null character in the name
        raise DataError(f"{path}: cannot be read: {error}") from error
    if source is None:
        raise _no_file(path, mode)
    with source:
        state = os.fstat(source.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise _no_file(path, state.st_mode)
        try:
            yield source, state.st_size
        except OSError as error:
            raise cannot_read(path, error) from error


def _no_file(path: Path, mode: int) -> DataError:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return DataError(f"{path}: it is {kinds.get(stat.S_IFMT(mode), 'a device')}; a regular file is needed")


def _form(path: Path, head: bytes, size: int, forms: Sequence[str]) -> str:
    """Which of the forms a file has.

    Raises:
        DataError: It has none that is wanted.
    """
    if size == 0:
        raise DataError(f"{path}: it is empty (0 bytes)")
    length = int.from_bytes(head[:8], "little")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        form = "npz"
    elif head[8:9] == b"{" and length < 2**40:
        form = "safetensors"
    else:
        name = foreign.known(head)
        if name is not None:
            raise DataError(f"{path}: {name}; {foreign.READABLE}")
        form = {".npz": "npz", ".safetensors": "safetensors"}.get(path.suffix, "pickle")
        if form != "pickle" and re.match(rb"\x80[\x02-\x05]", head):
            form = "pickle"
        elif form != "pickle" and (name := foreign.text(head)):
            raise DataError(f"{path}: {name}; {foreign.READABLE}")
    if form not in forms:
        reader = "the dataset 'arrays' reads" if form != "pickle" else "the datasets 'mmsa' and 'mult' read"
        if form == "pickle":
            name = foreign.text(head)
            if name is not None or not re.match(rb"\x80[\x02-\x05]|[(\]}dlcIVS]", head):
                name = name or "it is neither an .npz nor a .safetensors file"
                raise DataError(f"{path}: {name}; {foreign.READABLE}")
        wanted = " or ".join(_ARTICLE[other] for other in forms)
        raise DataError(f"{path}: it is {_ARTICLE[form]}, which {reader}; {wanted} is needed here")
    return form


def _read(
    path: Path, source: IO[bytes], size: int, form: str, only: Collection[str] | None, head: bytes
) -> FileContent:
    memory = _raised(MEMORY, 4 * size + 512 * _MB)
    # An archive may unpack to more than the child ever holds at once.
    most = _raised(MEMORY, 24 * size + _UNPACKED) if form == "npz" else memory
    seconds = _raised(SECONDS, _SECONDS + size // (5 * _MB))
    arguments = json.dumps([form, memory, int(seconds) + 10, None if only is None else sorted(only)])
    with Process(["-S", str(_CHILD), arguments], stdin=source, stderr=subprocess.PIPE, deadline=seconds) as child:
        assert child.process.stderr is not None
        with child.process.stderr as messages:
            read = _receive_all(path, source, child, messages, form, most)
    if isinstance(read, FileContent):
        return read
    raise DataError(_explained(path, read, child.late, form, size, memory, seconds, head))


def _receive_all(
    path: Path, source: IO[bytes], child: Process, messages: IO[bytes], form: str, most: int
) -> FileContent | dict[str, str]:
    """What the child sends, or its error."""
    line = child.stdout.readline()
    try:
        head = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:  # half a line of a child that died
        head = None
    if head is not None:
        total = sum(spec[3] for spec in head["arrays"])
        if total > min(most, _room()):
            return {"error": "large" if most < _room() else "machine", "message": str(total)}
        try:
            arrays = _arrays(child, source, head["arrays"])
        except MemoryError:
            return {"error": "machine", "message": str(total)}
        except _Wrong as error:
            return {"error": error.args[0], "message": error.args[1]}
        if arrays is not None:
            unlimited = f"{path.name} was read without a limit on memory: this system has none"
            return FileContent(form, _value(head["value"], arrays), [] if head["limited"] else [unlimited])
    lines = messages.read(2**16).splitlines()
    try:
        return {"error": "died", "message": "", **json.loads(lines[-1])}
    except (ValueError, TypeError, IndexError):
        return {"error": "died", "message": ""}


def _arrays(child: Process, source: IO[bytes], specs: list[Any]) -> list[np.ndarray] | None:
    """The arrays that the child describes; None where it stopped in the middle of them."""
    arrays = [_empty(*spec[:3]) for spec in specs]
    pairs = list(zip(arrays, specs, strict=True))
    sent = all(_fill(array, spec[3], child.stdout) for array, spec in pairs if not spec[4])
    # The sums of an archive are checked at its end, so that a child may fail after its last byte.
    if not sent or child.stdout.read(1) or child.process.wait() != 0:
        return None
    for array, spec in pairs:
        if spec[4]:
            _fill_from_file(array, spec[3], source, *spec[4])
    return [_finished(array, spec[0]) for array, spec in pairs]


def _explained(
    path: Path, error: dict[str, str], late: bool, form: str, size: int, memory: int, seconds: float, head: bytes
) -> str:
    kind, message = error["error"], error["message"]
    end = " (nothing of it was executed)" if form == "pickle" else ""
    if late:
        why = f"reading it took more than {seconds:g} s; it is damaged or hostile ({SECONDS} raises the limit)"
    elif kind == "refused" and form == "pickle":
        why = f"refused: {message}; only numpy arrays, numbers, text, lists and dicts are read"
    elif kind == "refused":
        why = f"refused: {message}"
    elif kind == "memory":
        why = f"damaged or hostile: it has {_size(size)} and asks for more than {_size(memory)} of memory"
        why += f" ({MEMORY}=SIZE raises the limit)"
    elif kind == "large":
        total = int(message)
        why = f"refused: it has {_size(size)} and unpacks to {_size(total)}; if you trust it, allow that with "
        why += f"{MEMORY}={total // 2**30 + 1}GiB"
    elif kind == "machine":
        why = f"unpacked it takes {_size(int(message))}, more memory than there is"
    elif kind == "died":
        why = "damaged: the process that read it died"
    else:
        name = foreign.text(head)
        why = f"{name}; {foreign.READABLE}" if name else f"damaged, or no {_ARTICLE[form].split(' ', 1)[1]} ({message})"
    return f"{path}: {why}{end}"


def _raised(variable: str, usual: float) -> Any:
    """A limit, or what the environment raises it to."""
    given = os.environ.get(variable)
    if not given:
        return usual
    match = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(?:([KMGT]?)i?B?)?\s*", given, re.IGNORECASE)
    if match is None:
        right = "a size such as 16GiB" if variable == MEMORY else "a number of seconds"
        raise UsageError(f"the environment variable {variable} has to be {right}, not '{given[:40]}'")
    scale = 2 ** (10 * " KMGT".index((match[2] or " ").upper()))
    return max(usual, type(usual)(float(match[1]) * scale))


def _room() -> float:
    """Bytes of memory that this process may have."""
    room = float("inf")
    with contextlib.suppress(AttributeError, ValueError, OSError):
        room = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        room = min(room, float("inf") if limit == resource.RLIM_INFINITY else float(limit))
    return room


def _size(count: float) -> str:
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} bytes"


class _Wrong(Exception):
    """What is wrong with an array: a kind of error, and a message."""


def _empty(dtype: str, shape: list[int], fortran: bool) -> np.ndarray:
    """An array whose values are still to come; bfloat16 comes as the bits of whole numbers."""
    kind = np.dtype("<u2" if dtype[1] == "B" else dtype)
    return np.empty(shape, dtype=kind, order="F" if fortran else "C")


def _fill(array: np.ndarray, count: int, source: IO[bytes]) -> bool:
    """Reads `count` bytes into an array; False where the source ends before, or the array is of another size."""
    if array.nbytes != count:
        return False
    flat = array.reshape(-1, order="A").view(np.uint8) if count else array
    done = 0
    while done < count:
        got = source.readinto(flat[done : done + _PART].data)  # type: ignore[attr-defined]
        if not got:
            return False
        done += got
    return True


def _fill_from_file(
    array: np.ndarray, count: int, source: IO[bytes], place: int, before: int, checksum: int | None
) -> None:
    """Reads an array that stands in the file as it is, and checks its sum where the file has one."""
    source.seek(place)
    if not _fill(array, count, source):
        raise _Wrong("damaged", "the file ends before its arrays do")
    if checksum is not None:
        flat = array.reshape(-1, order="A").view(np.uint8).data if count else b""
        if zlib.crc32(flat, before) != checksum:
            raise _Wrong("damaged", "an array does not have the checksum that the archive gives")


def _finished(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array of this machine's own types, in C order."""
    shape, kind = array.shape, array.dtype
    array = np.ascontiguousarray(array.astype(kind.newbyteorder("="), copy=False)).reshape(shape)
    if kind.kind == "U" and array.size and (array.reshape(-1).view(np.uint32) > 0x10FFFF).any():
        raise _Wrong("refused", "it holds text with a code point beyond U+10FFFF")
    if dtype[1] == "B":  # a bfloat16 is the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _value(tree: Any, arrays: list[Any]) -> Any:
    if not isinstance(tree, list):
        return tree
    tag, *rest = tree
    if tag == "a":
        array = arrays[rest[0]]
        return array if array.ndim else array[()].item()
    if tag == "b":
        return rest[0].encode("latin-1")
    if tag == "o":
        objects = np.empty(len(rest) - 1, dtype=object)
        for i, item in enumerate(rest[1:]):
            objects[i] = _value(item, arrays)
        return objects.reshape(rest[0])
    items = [_value(item, arrays) for item in rest]
    if tag == "d":
        return dict(zip(items[::2], items[1::2], strict=True))
    return tuple(items) if tag == "t" else items
