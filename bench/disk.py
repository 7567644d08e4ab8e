"""What the disk can do: the bytes of a backlog, written and flushed, and nothing else."""

import json
import mmap
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

CHUNK = 2 << 20
SEGMENT = 16 << 20


def _write_segment(path):
    """A file of random bytes, past the page cache, durable with its name: as an archiver leaves it."""
    buffer = mmap.mmap(-1, CHUNK)  # aligned, as direct I/O wants it
    buffer.write(os.urandom(1 << 16) * (CHUNK >> 16))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o600)
    try:
        for at in range(0, SEGMENT, CHUNK):
            if os.pwrite(fd, buffer, at) != CHUNK:
                raise OSError(f"{path}: a write was cut short")
        os.fsync(fd)
    finally:
        os.close(fd)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


class DirectWrites:
    """Files of 16 MB by direct writes of 2 MB, so many files at a time; each file so many times."""

    def __init__(self, threads, copies=1):
        self.key = f"disk-{threads}" + ("-twice" if copies == 2 else "")
        self.title = f"the disk: direct writes, {threads} at a time" + (", each twice" if copies == 2 else "")
        self.threads = threads
        self.copies = copies

    def missing(self, below):
        probe = below / "direct-io"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600))
        except OSError as error:
            return f"no direct I/O here ({error.strerror})"
        finally:
            probe.unlink(missing_ok=True)
        return None

    def write(self, directory, files):
        """Returns the seconds and the CPU seconds that it took."""
        paths = [directory / f"{number:024X}" for number in range(files * self.copies)]
        cpu, began = time.process_time(), time.monotonic()
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(_write_segment, paths))
        return time.monotonic() - began, time.process_time() - cpu


class Fio:
    """The same files by fio, four writes under way at a time. Its own clock, without its start."""

    key = "disk-fio"
    title = "the disk: fio, 4 writes under way"

    def missing(self, below):
        return None if shutil.which("fio") else "fio is not installed"

    def write(self, directory, files):
        command = ["fio", "--name=disk", f"--directory={directory}", "--rw=write", "--bs=2M", "--direct=1",
                   "--ioengine=libaio", "--iodepth=4", f"--nrfiles={files}", "--filesize=16M",
                   f"--size={files * 16}M", "--file_service_type=sequential", "--create_on_open=1",
                   "--fsync_on_close=1", "--output-format=json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"fio: exit status {done.returncode}\n{done.stderr or done.stdout}")
        job = json.loads(done.stdout)["jobs"][0]
        seconds = job["job_runtime"] / 1000
        return seconds, seconds * (job["usr_cpu"] + job["sys_cpu"]) / 100


ALL = [
    DirectWrites(1),
    DirectWrites(2),
    DirectWrites(2, copies=2),  # for two destinations on one disk
    Fio(),
]
