"""The child process that reads a pickle: standard input holds the file, standard output gets what is in it.

Runs as a script under `python -I -S`, with nothing but the standard library. Not even numpy is here: the names by
which a pickle asks for numpy arrays are answered by records of shape, type and bytes, which are checked before they
leave. So no constructor that a hostile file could misuse is within its reach (numpy's own `dtype.__setstate__` takes
flags on trust, and through them memory can be read at will).

Output: a line of JSON, `{"value": ..., "arrays": [[dtype, shape, fortran, bytes], ...], "limited": bool}` or
`{"error": kind, "message": ...}`, then the arrays' bytes one after the other. In `value`, null, booleans, numbers and
strings stand for themselves; everything else is a list that starts with its tag:
`["l", ...]` list, `["t", ...]` tuple, `["d", key, value, ...]` dict, `["b", latin-1 text]` bytes,
`["a", number]` array, `["o", shape, ...]` array of objects.
"""

import contextlib
import gc
import io
import json
import math
import pickle
import re
import sys

DEEPEST = 30
MOST = 1_000_000  # values outside arrays; a long string counts as several
SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}
SPLIT_DEPTH = 1  # where keys can be left out


class Refused(Exception):
    """The file holds, or asks for, something that is no plain data."""


class DType:
    """What a pickle says of a numpy type."""

    __slots__ = ("count", "kind", "order")

    def __init__(self, *args):
        code = args[0] if args else None
        match = isinstance(code, (str, bytes)) and re.fullmatch(r"[<>|=]?([biufUSO])(\d{0,9})", text(code))
        if not match:
            raise Refused(f"it holds an array of the type {code!r:.40}")
        self.kind, self.count = match[1], int(match[2] or 1)
        self.order = text(code)[0] if text(code)[0] in "<>" else "="
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
        return self.count * 4 if self.kind == "U" else self.count

    def name(self):
        order = {"=": "<" if sys.byteorder == "little" else ">"}.get(self.order, self.order)
        return f"{order}{self.kind}{self.count}"


class Array:
    """What a pickle says of a numpy array."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self):
        self.data = None

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise Refused("it holds a numpy array of an unknown form")
        self.fill(*state[-4:])

    def fill(self, shape, dtype, fortran, data):
        good = isinstance(shape, tuple) and len(shape) <= 32 and all(type(s) is int and 0 <= s < 2**48 for s in shape)
        if not good or not isinstance(dtype, DType):
            raise Refused("it holds a numpy array of an unknown form")
        if math.prod(max(s, 1) for s in shape) * max(dtype.size, 1) >= 2**62:
            raise Refused("it holds an array larger than any memory")
        count = math.prod(shape)
        if dtype.kind == "O":
            if not isinstance(data, list) or len(data) != count:
                raise Refused("it holds an array of objects that are not there")
        else:
            data = data.encode("latin-1") if isinstance(data, str) else data
            if not isinstance(data, (bytes, bytearray)) or len(data) != count * dtype.size:
                raise Refused(f"it holds an array of shape {shape} whose values are not there"[:200])
        self.shape, self.dtype, self.fortran, self.data = shape, dtype, bool(fortran), data


class Name:
    """Stands for something that a pickle may name but not call."""

    __slots__ = ()


NDARRAY = Name()


class Call:
    """A function that a pickle may call; it cannot be changed by one."""

    __slots__ = ("_f",)

    def __init__(self, f):
        object.__setattr__(self, "_f", f)

    def __setattr__(self, name, value):
        raise Refused(f"it tries to set '{name}'"[:80])

    def __call__(self, *args):
        return self._f(*args)


def reconstruct(kind, *rest):
    if kind is not NDARRAY:
        raise Refused("it holds a numpy array of an unknown form")
    return Array()


def scalar(dtype, data=b""):
    array = Array()
    array.fill((), dtype, False, data)
    if dtype.kind == "O":
        raise Refused("it holds a numpy number that is none")
    return array


def frombuffer(data, dtype, shape, order="C", *rest):
    array = Array()
    array.fill(shape, dtype, order == "F", data)
    return array


def encode(value, encoding="latin1"):
    if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes something other than bytes")
    return value.encode("latin-1")


def nothing(*args):
    if args:  # protocols up to 2 write empty bytes as a call without arguments
        raise Refused("it calls 'bytes'")
    return b""


def text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else repr(value)


ALLOWED = {("_codecs", "encode"): Call(encode), ("numpy", "ndarray"): NDARRAY, ("numpy", "dtype"): Call(DType)}
ALLOWED["__builtin__", "bytes"] = Call(nothing)
for core in ("numpy.core", "numpy._core"):
    ALLOWED[f"{core}.multiarray", "_reconstruct"] = Call(reconstruct)
    ALLOWED[f"{core}.multiarray", "scalar"] = Call(scalar)
    ALLOWED[f"{core}.numeric", "_frombuffer"] = Call(frombuffer)


class Reader(pickle.Unpickler):
    """An unpickler that knows ten names, and none of them is what it says."""

    def find_class(self, module, name):
        """Answers an allowed name with its record, and no other name at all."""
        try:
            return ALLOWED[module, name]
        except (KeyError, TypeError):
            raise Refused(f"it asks for '{module}.{name}'"[:200]) from None


class Writer:
    """Turns what was read into JSON and a list of buffers."""

    def __init__(self, only):
        self.only, self.left, self.arrays, self.buffers, self.seen = only, MOST, [], [], {}

    def tree(self, value, depth=0):
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
        if kind is Array and value.data is not None:
            if value.dtype.kind == "O":
                # Checked again: the list can have grown after it was handed over. It is in C order, always.
                if len(value.data) != math.prod(value.shape):
                    raise Refused("it holds an array of objects that are not there")
                return ["o", list(value.shape), *(self.tree(v, depth + 1) for v in value.data)]
            if id(value) not in self.seen:
                self.seen[id(value)] = len(self.arrays)
                self.arrays.append([value.dtype.name(), list(value.shape), value.fortran, len(value.data)])
                self.buffers.append(value.data)
            return ["a", self.seen[id(value)]]
        raise Refused(f"it holds a {kind.__name__}")


def limit(memory, seconds):
    """Bounds what this process may take; False where the platform cannot bound memory."""
    try:
        import resource
    except ImportError:
        return False
    for name, most in (("RLIMIT_CPU", seconds), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0), ("RLIMIT_NPROC", 0)):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (most, most))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (AttributeError, ValueError, OSError):
        return False
    return True


def main():
    memory, seconds, only = json.loads(sys.argv[1])
    limited = limit(memory, seconds)
    gc.disable()  # millions of values, and no cycle to collect
    out = sys.stdout.buffer
    buffers = []
    try:
        source = io.BufferedReader(io.FileIO(0))
        writer = Writer(None if only is None else set(only))
        head = {"value": writer.tree(Reader(source, encoding="latin1").load()), "arrays": writer.arrays}
        buffers = writer.buffers
        head["limited"] = limited
        line = json.dumps(head).encode()
        del head, writer
    except Refused as error:
        line = json.dumps({"error": "refused", "message": str(error)}).encode()
    except MemoryError:
        line = b'{"error": "memory", "message": ""}'
    except Exception as error:
        line = json.dumps(
            {"error": "damaged", "message": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        ).encode()
    out.write(line + b"\n")
    buffers.reverse()
    while buffers:
        out.write(buffers.pop())
    out.flush()


if __name__ == "__main__":
    main()
