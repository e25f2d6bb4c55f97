"""Takes an .npz file apart in the child process: a zip archive of .npy arrays."""

import re
import zipfile
import zlib

import child_pickle
from child_values import Array, DType, Refused

MOST_ENTRIES = 10_000
LONGEST_HEADER = 2**16
PART = 2**20
DESCR = re.compile(r"""['"]descr['"]\s*:\s*['"]([^'"]{1,20})['"]""")
ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)\b""")
SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([^()]*)\)""")
DIMENSION = re.compile(r"\s*(\d{1,18})L?\s*", re.ASCII)


def read(source):
    """The arrays of an archive by name; numbers and text stay in the file until they are written."""
    archive = zipfile.ZipFile(source)
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise Refused(f"it holds more than {MOST_ENTRIES} arrays")
    names = [entry.filename for entry in entries]
    if not any(name.endswith(".npy") for name in names):
        raise Refused(f"it is {_kind(names)}, not an archive of arrays")
    keys = {}
    for entry in entries:
        if entry.flag_bits & 1:
            raise Refused("it is encrypted; save it without a password")
        if entry.filename.endswith(".npy"):
            keys[entry.filename.removesuffix(".npy")] = _array(source, archive, entry)
    return keys


def _kind(names):
    if any(name.endswith(("/data.pkl", "/version")) for name in names):
        return "a PyTorch file (.pt); save its tensors with numpy.savez or safetensors"
    if "[Content_Types].xml" in names:
        return "a document of an office program"
    if "META-INF/MANIFEST.MF" in names:
        return "a Java archive"
    return f"a zip archive of other files ({', '.join(names[:3])})"[:120] if names else "an empty zip archive"


def _array(source, archive, entry):
    with archive.open(entry) as file:
        dtype, shape, fortran, header = _header(file, entry.filename)
        array = Array()
        if dtype.kind == "O":
            array = child_pickle.read(file)
            if not isinstance(array, Array) or array.data is None:
                raise Refused(f"'{entry.filename}' holds Python objects that are no array")
            return array
    size, start = array.describe(shape, dtype, fortran), len(header)
    if entry.file_size != start + size:
        raise Refused(
            f"'{entry.filename}' claims the shape {shape}, {size} bytes, but holds {entry.file_size - start}"[:200]
        )
    if entry.compress_type == zipfile.ZIP_STORED:
        source.seek(entry.header_offset + 26)
        names = source.read(4)  # how long the name and the extra field are that follow
        begin = entry.header_offset + 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
        array.place = [begin + start, zlib.crc32(header), entry.CRC]
    else:
        array.source = lambda: _parts(archive, entry, start)
    return array


def _header(file, name):
    """Type, shape, whether in Fortran's order, and the bytes before the values."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or len(magic) < 8 or magic[6] not in (1, 2, 3):
        raise Refused(f"'{name}' is no array of numpy")
    wide = 2 if magic[6] == 1 else 4
    said = file.read(wide)
    length = int.from_bytes(said, "little")
    if length > LONGEST_HEADER:
        raise Refused(f"'{name}' has a header of {length} bytes")
    words = file.read(length)
    header = words.decode("utf-8" if magic[6] == 3 else "latin-1")
    descr, order, shape = DESCR.search(header), ORDER.search(header), SHAPE.search(header)
    if descr is None and re.search(r"""['"]descr['"]\s*:\s*\[""", header):
        raise Refused(f"'{name}' is an array of records; save its columns as arrays")
    if descr is None or order is None or shape is None:
        raise Refused(f"'{name}' has a header that is damaged")
    parts = [part for part in shape[1].split(",") if part.strip()]
    sizes = [DIMENSION.fullmatch(part) for part in parts]
    known = [int(size[1]) for size in sizes if size]
    if len(parts) > 32 or len(known) < len(parts):
        raise Refused(f"'{name}' has the shape ({shape[1]:.60}), which no array has")
    return DType(descr[1]), tuple(known), order[1] == "True", magic + said + words


def _parts(archive, entry, start):
    with archive.open(entry) as file:
        file.read(start)
        while part := file.read(PART):
            yield part
