"""A standard output that is closed, cut off, full or of few letters, and files: one line, a status, no traceback."""

import errno
import os
import subprocess
import sys

import pytest

from rbd_ipu.errors import exit_status

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "ascii"}


def check(tmp_path, streams="", **options):
    """``rbd-ipu devices check ü.yaml`` with its streams as the shell makes them."""
    (tmp_path / "ü.yaml").write_text("device: cpu\n", encoding="utf-8")
    command = f"{sys.executable} -m rbd_ipu devices check ü.yaml {streams}"
    return subprocess.run(
        ["sh", "-c", command], cwd=str(tmp_path), env=ENVIRONMENT, stderr=subprocess.PIPE, timeout=60, **options
    )


def test_letters_that_the_terminal_does_not_have_are_escaped(tmp_path):
    done = check(tmp_path, stdout=subprocess.PIPE)
    assert done.returncode == 0 and done.stdout.startswith(b"\\xfc.yaml: valid"), done


def test_a_closed_standard_output_is_none(tmp_path):
    assert check(tmp_path, ">&-").returncode == 0


def test_a_reader_that_has_gone(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = check(tmp_path, stdout=writer)
    os.close(writer)
    assert done.returncode == 4
    assert done.stderr == b"rbd-ipu: error: cannot write the standard output: Broken pipe\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_it(tmp_path):
    done = check(tmp_path, ">/dev/full")
    assert done.returncode == 4 and done.stderr.count(b"\n") == 1, done
    assert b"cannot write the standard output or a file: No space left" in done.stderr


@pytest.mark.parametrize(
    "number, verb", [("EACCES", "open"), ("ENOENT", "open"), ("EROFS", "write"), ("EFBIG", "write")]
)
def test_a_file_that_cannot_be_read_is_not_said_to_be_unwritten(number, verb, capsys):
    code = getattr(errno, number)

    def run():
        raise OSError(code, os.strerror(code), "the/file")

    assert exit_status(run) == 4
    assert capsys.readouterr().err == f"rbd-ipu: error: cannot {verb} the/file: {os.strerror(code)}\n"
