"""Files are whole or not there at all, and a full disk is told in one clear sentence (issue 2, Bad input)."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from mmrobust import files
from mmrobust.errors import WriteError


def test_replaces_content_keeps_mode_and_leaves_nothing_staged(tmp_path):
    path = tmp_path / "result.json"
    files.write_atomic(path, "old")
    os.chmod(path, 0o640)
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["result.json"]


def test_follows_links_and_writes_straight_to_devices(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    files.write_atomic(os.devnull, "gone")  # renaming over the device would break the machine
    assert not os.path.isfile(os.devnull)


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("missing/file", "its folder does not exist; make the folder first"),
        (".", "it is a folder; name a file"),
        ("file/below", "a part of its path is a file, not a folder; choose another path"),
        ("x" * 300, "the name is too long; choose a shorter one"),
    ],
)
def test_says_why_a_file_cannot_be_written(tmp_path, path, cause):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(WriteError) as error:
        files.write_atomic(tmp_path / path, "x")
    assert str(error.value) == f"cannot write {tmp_path / path}: {cause}; what was there before is unharmed"
    assert error.value.exit_code == 1
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_says_that_permission_is_denied(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="permission is denied; choose a folder that you may write to"):
        files.write_atomic(tmp_path / "file", "x")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), files.staged(target) as part:
        (part / "half").write_text("x")
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "a") == []
    for content in "12":  # the second one replaces the first
        with files.staged(target) as part:
            (part / content).write_text(content)
            assert part.parent == target.parent
        assert os.listdir(tmp_path / "a") == ["b"]
        assert os.listdir(target) == [content]


def test_sweeps_what_a_killed_process_left(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from mmrobust import files
        with files.staged(sys.argv[1]) as part:
            (part / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    (tmp_path / ".hidden").write_text("the user's own")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "target")], check=False)
    assert len(os.listdir(tmp_path)) == 2
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == [".hidden"]


# Each case fills the medium to its brim with what is to be kept, then tries to write more, through real limits: a
# 256 KiB file system of its own, or the limit on the size of a file.
FULL = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from mmrobust import files
    from mmrobust.errors import WriteError

    root, big = Path(sys.argv[1]), b"x" * 300_000
    def folder():
        with files.staged(root / "folder") as part:
            (part / "a").write_bytes(b"fits")
            (part / "b").write_bytes(big)
    files.write_atomic(root / "file", "old")
    files.append(root / "lines", "one")
    for write in (
        lambda: files.write_atomic(root / "file", big),
        lambda: files.append(root / "lines", big.decode()),
        folder,
    ):
        try:
            write()
        except WriteError as error:
            print(error)
    assert (root / "file").read_text() == "old"
    assert (root / "lines").read_text() == "one\\n"
    assert sorted(os.listdir(root)) == ["file", "lines"], os.listdir(root)
    files.write_atomic(root / "file", "new")
""")


def full(command, tmp_path):
    return subprocess.run([*command, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)


def test_a_full_disk_is_told_and_harms_nothing(tmp_path):
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare"):
        pytest.skip("no unshare here to mount a small file system with")
    inside = f'mount -t tmpfs -o size=256k tmpfs {tmp_path} && exec "$0" "$@"'
    if subprocess.run([*mount, inside, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    done = full([*mount, inside], tmp_path)
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert [m.split(":")[0] for m in messages] == [f"cannot write {tmp_path}/{n}" for n in ("file", "lines", "folder")]
    for message in messages:
        assert "the disk is full (0." in message
        assert "free some space or choose another folder; what was there before is unharmed" in message


def test_a_limit_on_the_size_of_files_is_told_and_harms_nothing(tmp_path):
    done = full(["sh", "-c", 'ulimit -f 200; exec "$0" "$@"'], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert all(
        "larger than the limit on file sizes; raise the limit (ulimit -f)" in m for m in done.stdout.splitlines()
    )
