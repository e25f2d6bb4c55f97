"""What the child process can hand back: plain values, and arrays as records of type, shape and bytes."""

import math
import re
import sys
from collections.abc import Callable, Iterator

DEEPEST = 30
MOST = 2_000_000  # values outside arrays; a long text counts as several
SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "B": (2,)}  # "B" is bfloat16
SPLIT_DEPTH = 1  # where keys can be left out


class Refused(Exception):
    """The file holds, or asks for, something that is no plain data."""


def text(value):
    """A name of a file as text, whichever Python wrote it."""
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else repr(value)


class DType:
    """What a file says of a numpy type, by its code such as `<f4`."""

    __slots__ = ("count", "kind", "order")

    def __init__(self, *args):
        code = args[0] if args else None
        match = isinstance(code, (str, bytes)) and re.fullmatch(r"([<>|=]?)([biufUSO])(\d{0,9})", text(code), re.ASCII)
        if not match:
            raise Refused(f"it holds an array of the type {code!r:.40}")
        self.kind, self.count = match[2], int(match[3] or 1)
        self.order = match[1] if match[1] in ("<", ">") else "="
        if self.kind in SIZES and self.count not in SIZES[self.kind]:
            raise Refused(f"it holds an array of the type {code!r:.40}")

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) < 5 or any(x is not None for x in state[2:5]):
            raise Refused("it holds an array of records")
        order = text(state[1])
        if order not in ("<", ">", "|", "="):
            raise Refused(f"it holds an array with the byte order {order!r:.40}")
        self.order = order

    @property
    def size(self):
        """Bytes of one value."""
        return self.count * 4 if self.kind == "U" else self.count

    def name(self):
        """The code by which numpy knows the type."""
        order = {"=": "<" if sys.byteorder == "little" else ">"}.get(self.order, self.order)
        return f"{order}{self.kind}{self.count}"


class Array:
    """An array of numbers or text.

    Its bytes are here (`data`), or can be read in parts (`source`), or stand in the file as they are: `place` is where
    they begin, and in an archive the checksum of what stands before them and that of all.
    """

    __slots__ = ("data", "dtype", "fortran", "place", "shape", "source")

    def __init__(self):
        self.data = None
        self.source: Callable[[], Iterator[bytes]] | None = None
        self.place: list[int | None] | None = None

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise Refused("it holds a numpy array of an unknown form")
        self.fill(*state[-4:])

    def describe(self, shape, dtype, fortran):
        """Sets type and shape, and returns how many bytes they need."""
        good = isinstance(shape, tuple) and len(shape) <= 32 and all(type(s) is int and 0 <= s < 2**48 for s in shape)
        if not good or not isinstance(dtype, DType):
            raise Refused("it holds a numpy array of an unknown form")
        if math.prod(max(s, 1) for s in shape) * max(dtype.size, 1) >= 2**62:
            raise Refused("it holds an array larger than any memory")
        self.shape, self.dtype, self.fortran = shape, dtype, bool(fortran)
        return math.prod(shape) * dtype.size

    def fill(self, shape, dtype, fortran, data):
        """Sets type, shape and values."""
        size = self.describe(shape, dtype, fortran)
        if dtype.kind == "O":
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise Refused("it holds an array of objects that are not there")
        else:
            data = data.encode("latin-1") if isinstance(data, str) else data
            if not isinstance(data, (bytes, bytearray)) or len(data) != size:
                raise Refused(f"it holds an array of shape {shape} whose values are not there"[:200])
        self.data = data

    def head(self):
        """What the parent has to know: type, shape, whether in Fortran's order, how many bytes, and their place."""
        size = math.prod(self.shape) * self.dtype.size
        return [self.dtype.name(), list(self.shape), self.fortran, size, self.place]

    def parts(self):
        """The bytes to send, exactly as many as `head` says; none where the parent takes them from the file."""
        if self.place is not None:
            return []
        return [self.data] if self.source is None else self._streamed()

    def _streamed(self):
        assert self.source is not None
        left = self.head()[3]
        for part in self.source():
            left -= len(part)
            if left < 0:
                break
            yield part
        if left:
            raise Refused(f"it holds an array of shape {self.shape} whose values are not there"[:200])


class Writer:
    """Turns what was read into JSON and a list of arrays."""

    def __init__(self, only):
        self.only, self.left, self.arrays, self.seen = only, MOST, [], {}

    def tree(self, value, depth=0):
        """A value as JSON; its arrays are added to `arrays`."""
        if depth > DEEPEST:
            raise Refused(f"it is nested more than {DEEPEST} levels deep")
        self.left -= 1
        kind = type(value)
        if kind in (str, bytes):
            self.left -= len(value) // 16
        if self.left < 0:
            raise Refused(f"it holds more than {MOST} values outside of arrays")
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            if value.bit_length() > 64:
                raise Refused("it holds a whole number of more than 64 bits")
            return value
        if kind in (bytes, bytearray):
            return ["b", value.decode("latin-1")]
        if kind in (list, tuple):
            return ["l" if kind is list else "t", *(self.tree(v, depth + 1) for v in value)]
        if kind is dict:
            parts = []
            for k, v in value.items():
                if type(k) not in (str, bytes, int):
                    raise Refused(f"it holds a dict whose key is a {type(k).__name__}")
                left_out = depth == SPLIT_DEPTH and self.only is not None and k not in self.only
                parts += [self.tree(k, depth + 1), None if left_out else self.tree(v, depth + 1)]
            return ["d", *parts]
        if kind is Array and not value.data is value.source is value.place is None:
            if value.dtype.kind == "O":
                # Checked again: the list can have grown after it was handed over. It is in C order, always.
                if len(value.data) != math.prod(value.shape):
                    raise Refused("it holds an array of objects that are not there")
                return ["o", list(value.shape), *(self.tree(v, depth + 1) for v in value.data)]
            if id(value) not in self.seen:
                self.seen[id(value)] = len(self.arrays)
                self.arrays.append(value)
            return ["a", self.seen[id(value)]]
        raise Refused(f"it holds a {kind.__name__}")
