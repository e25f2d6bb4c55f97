"""The child process that reads a data file: standard input is the file, standard output gets what is in it.

Runs as a script under `python -I -S`, with nothing but the standard library. Not even numpy is here: an array is a
record of type, shape and bytes, which is checked before it leaves.

Output: a line of JSON, `{"value": ..., "arrays": [[dtype, shape, fortran, bytes, place], ...], "limited": bool}`, then
the bytes of the arrays one after the other, without those that have a place in the file. A failure, also in the middle
of the bytes, is a line of JSON on standard error: `{"error": kind, "message": ...}`. In `value`, null, booleans,
numbers and text stand for themselves; everything else is a list that starts with its tag: `["l", ...]` list,
`["t", ...]` tuple, `["d", key, value, ...]` dict, `["b", latin-1 text]` bytes, `["a", number]` array,
`["o", shape, ...]` array of objects.
"""

import contextlib
import gc
import io
import json
import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # last, so that it hides nothing

from child_values import Refused, Writer


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


def reader(form):
    """The function that takes a file of this form apart; no other form's libraries are loaded."""
    if form == "npz":
        from child_npz import read
    elif form == "safetensors":
        from child_safetensors import read
    else:
        from child_pickle import read
    return read


def send(read, only, limited):
    """Reads the file and writes what is in it."""
    source = io.BufferedReader(io.FileIO(0), 2**20)
    writer = Writer(None if only is None else set(only))
    tree = writer.tree(read(source))
    head = {"value": tree, "arrays": [array.head() for array in writer.arrays], "limited": limited}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    writer.arrays.reverse()
    while writer.arrays:
        for part in writer.arrays.pop().parts():
            sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def main():
    """Reads standard input as the arguments say; any failure is one line on standard error."""
    form, memory, seconds, only = json.loads(sys.argv[1])
    read = reader(form)
    limited = limit(memory, seconds)
    gc.disable()  # millions of values, and no cycle to collect
    try:
        send(read, only, limited)
        return
    except Refused as error:
        kind, message = "refused", str(error)
    except MemoryError:
        kind, message = "memory", ""
    except Exception as error:
        kind, message = "damaged", f"{type(error).__name__}: {error}"
    message = " ".join(message.split())[:300]
    sys.stderr.write(json.dumps({"error": kind, "message": message}) + "\n")
    sys.stderr.flush()
    os._exit(1)  # what is buffered for standard output is of no use any more


if __name__ == "__main__":
    main()
