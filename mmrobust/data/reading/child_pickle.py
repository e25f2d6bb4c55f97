"""Takes a pickle apart in the child process.

The names by which a pickle asks for numpy arrays are answered by records of shape, type and bytes. So no constructor
that a hostile file could misuse is within its reach (numpy's own `dtype.__setstate__` takes flags on trust, and through
them memory can be read at will).
"""

import pickle

from child_values import Array, DType, Refused


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
        """Calls the function."""
        return self._f(*args)


def reconstruct(kind, *rest):
    """Stands for numpy's function of this name: an array that gets its values later."""
    if kind is not NDARRAY:
        raise Refused("it holds a numpy array of an unknown form")
    return Array()


def scalar(dtype, data=b""):
    """Stands for numpy's function of this name: one number."""
    array = Array()
    array.fill((), dtype, False, data)
    if dtype.kind == "O":
        raise Refused("it holds a numpy number that is none")
    return array


def frombuffer(data, dtype, shape, order="C", *rest):
    """Stands for numpy's function of this name: an array of protocol 5."""
    array = Array()
    array.fill(shape, dtype, order == "F", data)
    return array


def encode(value, encoding="latin1"):
    """Stands for `_codecs.encode`, by which protocols up to 2 write bytes."""
    if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes something other than bytes")
    return value.encode("latin-1")


def nothing(*args):
    """Stands for `bytes`, and makes empty ones."""
    if args:  # protocols up to 2 write empty bytes as a call without arguments
        raise Refused("it calls 'bytes'")
    return b""


ALLOWED = {("_codecs", "encode"): Call(encode), ("numpy", "ndarray"): NDARRAY, ("numpy", "dtype"): Call(DType)}
ALLOWED["__builtin__", "bytes"] = Call(nothing)
for core in ("numpy.core", "numpy._core"):
    ALLOWED[f"{core}.multiarray", "_reconstruct"] = Call(reconstruct)
    ALLOWED[f"{core}.multiarray", "scalar"] = Call(scalar)
    ALLOWED[f"{core}.numeric", "_frombuffer"] = Call(frombuffer)

# What else people pickle, and what to do about it.
ADVICE = {
    "torch": "a PyTorch tensor or model; save x.numpy() instead",
    "pandas": "a pandas table; save table.to_numpy() instead",
    "scipy": "a SciPy object; save x.toarray() instead",
    "joblib": "an array of joblib; save it with numpy.savez instead",
}


class Reader(pickle.Unpickler):
    """An unpickler that knows ten names, and none of them is what it says."""

    def find_class(self, module, name):
        """Answers an allowed name with its record, and no other name at all."""
        try:
            return ALLOWED[module, name]
        except (KeyError, TypeError):
            advice = ADVICE.get(str(module).partition(".")[0])
            raise Refused(f"it asks for '{module}.{name}'"[:200] + (f", {advice}" if advice else "")) from None


def read(source):
    """The value that a pickle holds, its arrays as `Array`."""
    return Reader(source, encoding="latin1").load()
