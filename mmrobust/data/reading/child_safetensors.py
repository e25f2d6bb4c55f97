"""Takes a .safetensors file apart in the child process: a header in JSON, then the tensors' bytes."""

import json
import os

from child_values import Array, DType, Refused

LONGEST_HEADER = 100_000_000
TYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": None,
}  # fmt: skip


def read(source):
    """The tensors of a file by name (`tensors`), and what the header's metadata holds for mmrobust (`metadata`)."""
    size = os.fstat(source.fileno()).st_size
    length = int.from_bytes(source.read(8), "little")
    if length > min(LONGEST_HEADER, size - 8):
        raise Refused(f"its header claims {length} bytes, but the file has {size}; it is cut off or damaged")
    header = json.loads(source.read(length).decode("utf-8"))
    if not isinstance(header, dict):
        raise Refused("its header is no JSON object")
    metadata = header.pop("__metadata__", None) or {}
    text = metadata.get("mmrobust") if isinstance(metadata, dict) else None
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(*item)):
        name.encode("utf-8")  # a lone surrogate is no name
        first, last = _offsets(name, entry)
        if first != end:
            raise Refused(f"the bytes of tensor '{name}' begin at {first}, and those before it end at {end}"[:200])
        tensors[name], end = _tensor(name, entry, 8 + length + first, last - first), last
    if 8 + length + end != size:
        raise Refused(f"its tensors end at byte {8 + length + end}, but the file has {size}; it is cut off or damaged")
    return {"tensors": tensors, "metadata": text if isinstance(text, str) else None}


def _offsets(name, entry):
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(x) is int and x >= 0 for x in offsets):
        raise Refused(f"tensor '{name}' has no place in the file"[:200])
    return tuple(offsets)


def _tensor(name, entry, start, size):
    code, shape = entry.get("dtype"), entry.get("shape")
    if code not in TYPES:
        known = ", ".join(TYPES)
        raise Refused(f"tensor '{name}' has the type {code!r:.20}; what is read is {known}"[:250])
    dtype = DType(TYPES[code] or "<u2")
    if code == "BF16":
        dtype.kind = "B"
    array = Array()
    if array.describe(tuple(shape) if isinstance(shape, list) else None, dtype, False) != size:
        raise Refused(f"tensor '{name}' claims the shape {shape}, but has {size} bytes"[:200])
    array.place = [start, 0, None]
    return array
