"""Says what a file is that mmrobust does not read, by its first bytes, and what to do with it."""

from __future__ import annotations

import re

READABLE = "mmrobust reads .npz and .safetensors (docs/data.md) and the pickles of MMSA and MulT"

_FETCH = "download the file itself again"
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the data", "fetch the data with: git lfs pull"),
    (0, b"/annex/objects/", "a git-annex pointer, not the data", "fetch the data with: git annex get"),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file (.mat)", "load it with scipy.io.loadmat and save its arrays"),
    (0, b"MATLAB 7.3 MAT-file", "a MATLAB 7.3 file (HDF5)", "load it with h5py and save its arrays"),
    (0, b"MATLAB", "a MATLAB file (.mat)", "load it with scipy.io.loadmat and save its arrays"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "load it with h5py and save its arrays"),
    (0, b"\x93NUMPY", "one single numpy array (.npy)", "save all arrays together with numpy.savez"),
    (0, b"\x1f\x8b", "compressed by gzip", "unpack it first (gunzip)"),
    (0, b"BZh", "compressed by bzip2", "unpack it first (bunzip2)"),
    (0, b"\xfd7zXZ\x00", "compressed by xz", "unpack it first (unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it first (unzstd)"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4", "unpack it first (unlz4)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it first (tar -xf)"),
    (0, b"PAR1", "a Parquet file", "load it with pandas and save its columns as arrays"),
    (0, b"ARROW1", "an Arrow file", "load it with pyarrow and save its columns as arrays"),
    (0, b"FEA1", "a Feather file", "load it with pandas and save its columns as arrays"),
    (0, b"CDF\x01", "a NetCDF file", "load it with scipy.io.netcdf_file and save its arrays"),
    (0, b"CDF\x02", "a NetCDF file", "load it with scipy.io.netcdf_file and save its arrays"),
    (0, b"SQLite format 3\x00", "an SQLite database", "save its columns as arrays"),
    (0, b"\xd0\xcf\x11\xe0", "an old document of an office program", "save its columns as arrays"),
    (0, b"%PDF", "a PDF document", _FETCH),
    (0, b"\x89PNG", "a PNG picture", "extract features first"),
    (0, b"\xff\xd8\xff", "a JPEG picture", "extract features first"),
    (0, b"GIF8", "a GIF picture", "extract features first"),
    (8, b"WAVE", "a WAV recording", "extract features first"),
    (8, b"AVI ", "an AVI video", "extract features first"),
    (4, b"ftyp", "an MP4 video", "extract features first"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video", "extract features first"),
    (0, b"ID3", "an MP3 recording", "extract features first"),
    (0, b"fLaC", "a FLAC recording", "extract features first"),
    (0, b"OggS", "an Ogg recording", "extract features first"),
    (0, b"\x7fELF", "a program", _FETCH),
    (0, b"MZ", "a program", _FETCH),
    (0, b"GGUF", "a GGUF model", "save features, not a model"),
    (2, b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", "a PyTorch file (.pt) of the old kind",
     "load it with torch.load(..., weights_only=True) and save its tensors"),
)  # fmt: skip


def known(head: bytes) -> str | None:
    """What a file is, by a sign that nothing readable begins with; None where there is none.

    Args:
        head: Its first bytes, 512 or more where it has them.
    """
    for offset, sign, name, advice in _MAGIC:
        if head[offset:].startswith(sign):
            return f"it is {name}; {advice}"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:4096]
    if re.match(rb"<(!doctype\s+html|html|head|body)\b", start, re.IGNORECASE):
        title = re.search(rb"<title[^>]*>([^<]{1,80})", start, re.IGNORECASE)
        named = f" ('{' '.join(title[1].decode('utf-8', 'replace').split())}')" if title else ""
        return f"it is a web page{named}, not the data; the download failed, {_FETCH}"
    if start.startswith((b"<?xml", b"<svg")):
        return f"it is XML, not the data; {_FETCH}"
    if len(head) >= 64 and not head.strip(b"\0"):
        return f"it begins with nothing but zeros, as an unfinished download does; {_FETCH}"
    return None


def text(head: bytes) -> str | None:
    """What kind of text a file is; None where it is none. A pickle of protocol 0 is text too: try that first."""
    try:
        words = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not a character that the end of `head` cut in two
            return None
        words = head[: error.start].decode("utf-8")
    if not words or any(ord(c) < 32 and c not in "\t\r\n\f" for c in words):
        return None
    if words.lstrip()[:1] in ("{", "["):
        return "it is JSON text; save its numbers as arrays"
    lines = [line for line in words.splitlines()[:8] if line.strip()]
    for mark, name in ((",", "CSV"), ("\t", "tab-separated"), (";", "CSV with semicolons")):
        counts = {line.count(mark) for line in (lines[:-1] if len(lines) > 2 else lines)}
        if len(lines) > 1 and len(counts) == 1 and counts != {0}:
            return f"it is {name} text; load it with pandas or numpy.loadtxt and save its columns as arrays"
    return "it is plain text, not the data"
