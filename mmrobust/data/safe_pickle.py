"""Reads pickles that hold plain data, and executes nothing.

A child process with limits on memory and time takes the file apart (`_unpickle.py`) and hands back JSON and raw
buffers. A file that asks for anything but numpy arrays, numbers, strings, bytes, lists, tuples and dicts is refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmrobust.errors import DataError

_CHILD = Path(__file__).with_name("_unpickle.py")
_MB = 2**20
_SECONDS = 30  # and one more for every five megabytes


def read_pickle(path: Path, only: Collection[str] | None = None) -> tuple[Any, list[str]]:
    """Reads a pickle of plain data.

    Args:
        path: The file; protocols 0 to 5, written by Python 2 or 3 with numpy 1 or 2.
        only: Of the dicts inside the outermost dict, keep the values of these keys alone; the others' become
            None and cost nothing here.

    Returns:
        What is in it, and notes for the user: that the platform cannot limit memory, where it cannot.

    Raises:
        DataError: The file is missing, unreadable, damaged or hostile, or takes too much memory or time.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as source:
            return _read(path, source, size, only)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """What to tell of a file that the system does not hand out."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file; give the path of the data as data.path=FILE")
    return DataError(f"{path}: cannot be read: {error.strerror or error}")


def _read(path: Path, source: IO[bytes], size: int, only: Collection[str] | None) -> tuple[Any, list[str]]:
    memory = 4 * size + 512 * _MB
    seconds = _SECONDS + size // (5 * _MB)
    arguments = json.dumps([memory, seconds + 10, None if only is None else sorted(only)])
    command = [sys.executable, "-I", "-S", str(_CHILD), arguments]
    late = threading.Event()
    with subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        timer = threading.Timer(seconds, lambda: (late.set(), child.kill()))
        timer.start()
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            head: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {"error": "died"}
            if "error" not in head:
                if sum(spec[3] for spec in head["arrays"]) > memory:
                    head = {"error": "memory"}
                else:
                    arrays = [_receive(child.stdout, *spec) for spec in head["arrays"]]
                    if all(array is not None for array in arrays):
                        none = f"{path.name} was read without a limit on memory: this system offers none"
                        return _value(head["value"], arrays), [] if head["limited"] else [none]
                    head = {"error": "died"}
        finally:
            timer.cancel()
            child.kill()
    if late.is_set():
        why = f"reading it took more than {seconds} s; it is damaged or hostile"
    elif head["error"] == "refused":
        why = f"refused: {head['message']}; only numpy arrays, numbers, text, lists and dicts are read"
    elif head["error"] == "memory":
        why = f"damaged or hostile: it has {_size(size)} and asks for more than {_size(memory)} of memory"
    elif head["error"] == "died":
        why = "damaged: the process that read it died"
    else:
        why = f"damaged, or no pickle at all ({head['message']})"
    raise DataError(f"{path}: {why} (nothing of it was executed)")


def _size(count: int) -> str:
    return f"{count / _MB:.0f} MiB" if count >= _MB else f"{count} bytes"


def _receive(source: IO[bytes], dtype: str, shape: list[int], fortran: bool, count: int) -> np.ndarray | None:
    """One array; None where the child stopped in the middle of it."""
    array = np.empty(shape, dtype=np.dtype(dtype), order="F" if fortran else "C")
    if array.nbytes != count:
        return None
    flat = array.reshape(-1, order="A").view(np.uint8) if count else array
    done = 0
    while done < count:
        got = source.readinto(flat[done:].data)  # type: ignore[attr-defined]
        if not got:
            return None
        done += got
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(shape)


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
