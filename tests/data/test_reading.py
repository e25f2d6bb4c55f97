"""Promise: any file ends in what it holds or in one clear line, in seconds, with bounded memory, and nothing runs."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from mmrobust.cli import main
from mmrobust.data.reading import read_file
from mmrobust.errors import DataError, UsageError

ARRAYS: dict[str, np.ndarray] = {
    "train/audio": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "train/order": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    "train/half": np.arange(4, dtype=np.float16),
    "train/yes": np.array([True, False]),
    "train/id": np.array(["a", "b\u4e2d"]),
    "empty": np.zeros((0, 3)),
    "number": np.asarray(7.5),
}


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_file(path)
    text = str(error.value)
    assert error.value.exit_code == 3 and text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


# ------------------------------------------------------------------------------------------- good files


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "x.data"  # the content counts, not the name
    with path.open("wb") as file:
        write(file, **ARRAYS)
    content = read_file(path)
    assert content.form == "npz" and list(content.value) == list(ARRAYS)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(content.value[key], array)
        assert np.asarray(content.value[key]).dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path: Path, method: int) -> None:
    buffer = io.BytesIO()
    np.save(buffer, ARRAYS["train/audio"])
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.npy", buffer.getvalue())
    np.testing.assert_array_equal(read_file(path).value["a"], ARRAYS["train/audio"])
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    assert refusal(path).startswith("damaged, or no .npz file (")


def test_safetensors_with_bfloat16_and_metadata(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, -2.5, 3e38, 1e-40]], dtype=torch.bfloat16)
    tensors = {"half": values, "long": torch.tensor([2**40, -1]), "none": torch.zeros(0, 2)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(tensors, metadata={"mmrobust": "{}"}))
    content = read_file(path)
    assert content.form == "safetensors" and content.value["metadata"] == "{}"
    result = content.value["tensors"]
    np.testing.assert_array_equal(result["half"], values.float().numpy())
    assert result["half"].dtype == np.float32 and result["long"].tolist() == [2**40, -1]
    assert result["none"].shape == (0, 2)


def test_arrays_of_objects_in_an_npz(tmp_path: Path) -> None:
    ragged = np.empty(2, object)
    ragged[:] = [np.ones((2, 3), np.float32), np.zeros((1, 3))]
    np.savez(tmp_path / "x.npz", ragged=ragged)
    result = read_file(tmp_path / "x.npz").value["ragged"]
    assert [x.shape for x in result] == [(2, 3), (1, 3)]


# ------------------------------------------------------------------------------------------- foreign files


def old_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def new_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    return buffer.getvalue()


def one_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def archive_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x")
    return buffer.getvalue()


FOREIGN: dict[str, tuple[bytes, str]] = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer, not the data"),
    "page": (b"\n <!DOCTYPE html><html><title>Quota\n exceeded</title>", "it is a web page ('Quota exceeded')"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"0" * 99, "an HDF5 file; load it with h5py"),
    "csv": (b"a,b\n1,2\n3,4\n", "it is CSV text"),
    "tsv": (b"a\tb\n1\t2\n", "it is tab-separated text"),
    "json": (b'{"train": [1, 2]}', "it is JSON text"),
    "words": ("just some words, é".encode(), "it is plain text"),
    "mat": (b"MATLAB 5.0 MAT-file, Platform", "a MATLAB file (.mat); load it with scipy.io.loadmat"),
    "npy": (one_array(), "one single numpy array (.npy); save all arrays together with numpy.savez"),
    "gzip": (gzip.compress(pickle.dumps({})), "compressed by gzip; unpack it first"),
    "bzip2": (b"BZh91AY&SY", "compressed by bzip2"),
    "xz": (b"\xfd7zXZ\x00\x00", "compressed by xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\x00", "compressed by zstd"),
    "tar": (b"a" * 257 + b"ustar\x0000", "a tar archive"),
    "pt": (new_torch(), "a PyTorch file (.pt)"),
    "old pt": (old_torch(), "a PyTorch file (.pt) of the old kind"),
    "zip": (archive_of("readme.txt"), "a zip archive of other files (readme.txt)"),
    "parquet": (b"PAR1" + b"\0" * 20, "a Parquet file"),
    "wav": (b"RIFF\x00\x00\x00\x00WAVEfmt ", "a WAV recording; extract features first"),
    "mp4": (b"\x00\x00\x00\x18ftypmp42", "an MP4 video; extract features first"),
    "zeros": (b"\0" * 5000, "begins with nothing but zeros, as an unfinished download does"),
    "empty": (b"", "it is empty (0 bytes)"),
    "pandas": (b"\x80\x04\x8c\x11pandas.core.frame\x8c\x09DataFrame\x93.", "a pandas table; save table.to_numpy()"),
}


@pytest.mark.parametrize("suffix", [".pkl", ".npz", ".safetensors"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_named_for_what_it_is(tmp_path: Path, name: str, suffix: str) -> None:
    data, text = FOREIGN[name]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    assert text in refusal(path)


def test_what_can_be_read_instead_stands_in_the_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 99)
    assert main(["data", "info", str(path)]) == 3
    assert capsys.readouterr().err == (
        f"error: {path}: it is an HDF5 file; load it with h5py and save its arrays; mmrobust reads .npz and "
        ".safetensors (docs/data.md) and the pickles of MMSA and MulT\n"
    )


def test_a_file_of_another_dataset_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(1))
    with pytest.raises(DataError, match=r"an \.npz file, which the dataset 'arrays' reads; a pickle is needed here"):
        read_file(tmp_path / "x.npz", ("pickle",))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match=r"a pickle, which the datasets 'mmsa' and 'mult' read; an \.npz file or"):
        read_file(tmp_path / "x.pkl", ("npz", "safetensors"))


# ------------------------------------------------------------------------------------------- hostile files


@pytest.mark.parametrize("suffix", [".npz", ".pkl", ".safetensors"])
def test_only_regular_files_are_opened(tmp_path: Path, suffix: str) -> None:
    pipe, link, listening = tmp_path / f"pipe{suffix}", tmp_path / f"link{suffix}", tmp_path / f"socket{suffix}"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        start = time.perf_counter()
        assert refusal(pipe) == "it is a pipe; a regular file is needed"
        assert refusal(link) == "it is a device; a regular file is needed"
        assert refusal(listening) == "it is a socket; a regular file is needed"
        assert refusal(tmp_path) == "it is a folder; a regular file is needed"
        assert time.perf_counter() - start < 1
    assert refusal(tmp_path / f"no{suffix}") == "no such file"
    assert refusal(tmp_path / ("n" * 300)) == "cannot be read: File name too long"


def member(header: str, body: bytes = b"", version: int = 1) -> bytes:
    """An .npz file of one array whose header is what is given."""
    words = header.encode("latin-1") + b"\n"
    length = len(words).to_bytes(2 if version == 1 else 4, "little")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\x93NUMPY" + bytes([version, 0]) + length + words + body)
    return buffer.getvalue()


def described(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"


def encrypted() -> bytes:
    data = bytearray(member(described("(1,)"), b"\0" * 4))
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(sign) + offset] |= 1
    return bytes(data)


def tensors(header: Any, body: bytes = b"") -> bytes:
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(words).to_bytes(8, "little") + words + body


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

HOSTILE: dict[str, tuple[bytes, str]] = {
    "boolean shape": (member(described("(True,)"), b"\0" * 4), "has the shape (True,), which no array has"),
    "negative shape": (member(described("(-1,)")), "has the shape (-1,), which no array has"),
    "overflowing shape": (member(described("(99999999999999999999,)")), "which no array has"),
    "huge shape": (member(described("(250000000000,)")), "claims the shape (250000000000,), 1000000000000 bytes, but"),
    "product overflows": (member(described("(4294967296, 4294967296, 4)")), "larger than any memory"),
    "deep header": (member(described("(" * 9000)), "has a header that is damaged"),
    "long header": (member(described("(" + "1," * 40000 + ")"), version=2), "has a header of 80"),
    "many dimensions": (member(described("(" + "1," * 40 + ")"), b"\0" * 4), "which no array has"),
    "records": (member("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"), "an array of records"),
    "complex": (member(described("(1,)", "<c8"), b"\0" * 8), "it holds an array of the type '<c8'"),
    "code": (member("__import__('os').system('true')"), "has a header that is damaged"),
    "no npy": (archive_of("a.npy"), "'a.npy' is no array of numpy"),
    "encrypted": (encrypted(), "it is encrypted; save it without a password"),
    "code point": (member(described("(1,)", "<U1"), b"\xff\xff\xff\x7f"), "a code point beyond U+10FFFF"),
    "header too long": (tensors(b"x")[:8].replace(b"\x01", b"\xff") + b"{}", "its header claims 255 bytes"),
    "header of petabytes": (struct.pack("<Q", 2**39) + b"{}", "its header claims 549755813888 bytes"),
    "deep json": (tensors(b'{"a":' + b"[" * 100_000), "damaged, or no .safetensors file (RecursionError"),
    "long number": (tensors(b'{"a": ' + b"9" * 5000 + b"}"), "damaged, or no .safetensors file (ValueError"),
    "no offsets": (tensors({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4), "tensor 'a' has no place in the file"),
    "boolean size": (tensors({"a": F4 | {"shape": [True]}}, b"\0" * 4), "a numpy array of an unknown form"),
    "other size": (tensors({"a": F4 | {"shape": [2]}}, b"\0" * 4), "tensor 'a' claims the shape [2], but has 4 bytes"),
    "overlap": (tensors({"a": F4, "b": F4}, b"\0" * 4), "the bytes of tensor 'b' begin at 0, and those before it end"),
    "hole": (tensors({"a": F4 | {"data_offsets": [4, 8]}}, b"\0" * 8), "begin at 4, and those before it end at 0"),
    "type": (tensors({"a": F4 | {"dtype": "F8_E4M3"}}, b"\0" * 4), "tensor 'a' has the type 'F8_E4M3'; what is read"),
    "cut off": (tensors({"a": F4}, b"\0" * 3), "its tensors end at byte"),
    "name": (tensors(b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"\0" * 4), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_end_in_one_line(tmp_path: Path, name: str) -> None:
    data, text = HOSTILE[name]
    path = tmp_path / "x"
    path.write_bytes(data)
    start = time.perf_counter()
    assert text in refusal(path)
    assert time.perf_counter() - start < 10


def test_an_archive_that_unpacks_to_far_more_than_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What headers say is believed before anything is unpacked; the limit can be raised."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, a=np.zeros(30_000_000, np.float32))
    monkeypatch.setattr("mmrobust.data.reading.reader._UNPACKED", 2**20)
    code = "import resource, sys; from pathlib import Path; from mmrobust.data.reading import read_file, reader; "
    code += "reader._UNPACKED = 2**20; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    code += "try: read_file(Path(sys.argv[1]))\nexcept Exception as e: print(type(e).__name__)\n"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    kind, grown = ended.stdout.split()
    assert kind == "DataError" and int(grown) < 40_000  # kB; unpacked it is 120,000
    text = refusal(path)
    assert "unpacks to 114 MiB; if you trust it, allow that with MMROBUST_DATA_MEMORY=1GiB" in text
    monkeypatch.setenv("MMROBUST_DATA_MEMORY", "1GiB")
    assert read_file(path).value["a"].shape == (30_000_000,)
    monkeypatch.setenv("MMROBUST_DATA_MEMORY", "much")
    with pytest.raises(UsageError, match="MMROBUST_DATA_MEMORY has to be a size such as 16GiB, not 'much'"):
        read_file(path)


def test_python_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    sign = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {sign}",)

    evil = np.empty(1, dtype=object)
    evil[0] = Evil()
    np.savez(tmp_path / "x.npz", evil=evil)
    assert "refused: it asks for 'posix.system'" in refusal(tmp_path / "x.npz")
    assert not sign.exists()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_damage(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Flipped, cut or inserted bytes: the same values, or one clear error, never anything else."""
    folder = tmp_path_factory.mktemp("random")
    path = folder / "x"
    form = data.draw(st.sampled_from(["stored", "packed", "safetensors"]))
    whole = {"a": np.arange(40, dtype=np.float32).reshape(4, 10), "b": np.arange(7)}
    if form == "safetensors":
        good = bytearray(save({k: torch.from_numpy(v) for k, v in whole.items()}))
    else:
        with path.open("wb") as file:
            (np.savez if form == "stored" else np.savez_compressed)(file, **whole)
        good = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                good[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del good[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                good[at:at] = data.draw(st.binary(max_size=8))
    path.write_bytes(good)
    try:
        content = read_file(path)
    except DataError as error:
        assert "\n" not in str(error)
        return
    if content.form == "npz":  # an archive has checksums: what is read is what was written
        for key, array in content.value.items():
            if key in whole:
                np.testing.assert_array_equal(array, whole[key])
