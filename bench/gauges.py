"""What a run costs: CPU time, memory, page cache, space."""

import ctypes
import mmap
import os
import signal
import struct
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")


def settle():
    """Has free memory be in the same state for all. What was freed a moment ago is cheap to use
    again; after two seconds a virtual machine's kernel may have given it back to the host."""
    time.sleep(3)


def _cgroup_root():
    for line in Path("/proc/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(path)
    return None


class StatusWatch:
    """When files come to a directory, by the clock of this machine: inotify(7)."""

    CREATE, MOVED_TO, IGNORED = 0x100, 0x80, 0x8000

    def __init__(self, directory):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.directory = directory
        self.seen = {}

    def __enter__(self):
        self.fd = self.libc.inotify_init1(os.O_CLOEXEC)
        if self.fd < 0 or self.libc.inotify_add_watch(
                self.fd, os.fsencode(self.directory), self.CREATE | self.MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def _read(self):
        while True:
            data = os.read(self.fd, 65536)
            now = time.monotonic()
            while data:
                _, mask, _, length = struct.unpack_from("iIII", data)
                if mask & self.IGNORED:  # the last there is
                    return
                name = data[16:16 + length].rstrip(b"\0").decode()
                self.seen.setdefault(name, now)
                data = data[16 + length:]

    def between(self, first, then):
        """Seconds between the coming of two files, which have come or are about to."""
        for _ in range(100):
            if first in self.seen and then in self.seen:
                return self.seen[then] - self.seen[first]
            time.sleep(0.01)
        raise RuntimeError(f"{first} and {then} were not seen, but {sorted(self.seen)}")

    def __exit__(self, *failure):
        self.libc.inotify_rm_watch(self.fd, 1)  # which the reader is told
        self.reader.join()
        os.close(self.fd)


class ProcessGroup:
    """A process and all that it starts, daemons included: a control group of its own. Where none
    can be made, the process with those children that it waited for."""

    def __init__(self, pid):
        self.pid = pid
        self.path = None
        root = _cgroup_root()
        if root:
            path = root / f"walsafe-bench-{os.getpid()}"
            try:
                path.mkdir(exist_ok=True)
                (path / "cgroup.procs").write_text(str(pid))
                self.path = path
            except OSError:
                pass

    @property
    def complete(self):
        """Whether processes that have detached are counted, too."""
        return self.path is not None

    def pids(self):
        if self.path:
            return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]
        found = [self.pid]
        for pid in found:
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                continue
            found.extend(int(child) for child in children)
        return found

    def cpu_seconds(self):
        if self.path:
            usage = (self.path / "cpu.stat").read_text().split()
            return int(usage[usage.index("usage_usec") + 1]) / 1e6
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15]) / TICK

    def remove(self):
        """Ends what is left of the group: processes that detached before the benchmark gave up."""
        for attempt in range(100 if self.path else 0):
            try:
                self.path.rmdir()
                return
            except OSError:  # a process is still in it
                if attempt >= 50:
                    for pid in self.pids():
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)


def private_kb(pid):
    """Resident memory that is the process's own: no shared buffers, no files."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


class MemoryWatch(threading.Thread):
    """Samples the private memory of a group; keeps the highest sum."""

    def __init__(self, group, every=0.1):
        super().__init__(daemon=True)
        self.group = group
        self.every = every
        self.at_rest = private_kb(group.pid)
        self.peak = self.at_rest
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(self.every):
            try:
                self.peak = max(self.peak, sum(private_kb(pid) for pid in self.group.pids()))
            except OSError:
                pass

    def finish(self):
        self.over.set()
        self.join()


def cached_mb(paths):
    """How much of these files the page cache holds, in MB."""
    total = 0
    paths = [str(path) for path in paths]
    for at in range(0, len(paths), 500):
        output = subprocess.run(["fincore", "-b", "-n", "-r", "-o", "RES", *paths[at:at + 500]],
                                check=True, capture_output=True, text=True).stdout
        total += sum(int(size) for size in output.split())
    return total / 1e6


def load_into_cache(paths):
    """Reads files, so that all of them are in the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass


def drop_from_cache(paths):
    """Drops what is clean of these files from the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def files_in(directory):
    return [Path(base) / name for base, _, names in os.walk(directory) for name in names]


def stored_bytes(directory):
    """The space that files take; holes take none."""
    return sum(os.lstat(path).st_blocks * 512 for path in files_in(directory))


def fresh_memory_ms():
    """What the first touch of 1 GB of small pages costs. It is dear on a virtual machine whose host takes
    back its free memory, and so is there all that goes through the page cache."""

    def touch():
        settle()
        with mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            began = time.monotonic()
            memory[::PAGE] = b"1" * ((1 << 30) // PAGE)
            return (time.monotonic() - began) * 1000

    return median(touch() for _ in range(3))


# Of the two kinds known, one took 1,100 ms (with others freeing memory all the time) to 3,800. On the other,
# all that basic_archive does for 1 GB, copying included, takes less than 700 ms of CPU time.
DEAR_MS = 700


def machine(below, server, code):
    """What this machine is: the first line of the results."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    load = " ".join(f"{n:.2f}" for n in os.getloadavg())
    fresh = fresh_memory_ms()
    findmnt = ["findmnt", "-n", "-o", "FSTYPE", "-T", below]
    kind = subprocess.run(findmnt, capture_output=True, text=True).stdout
    return {
        "machine": "memory is dear" if fresh > DEAR_MS else "memory is cheap",
        "1 GB of fresh memory, ms": round(fresh),
        "cores": os.cpu_count(),
        "CPU": cpu,
        "memory, GB": round(int(Path("/proc/meminfo").read_text().split()[1]) / 1e6),
        "kernel": os.uname().release,
        "file system": kind.strip(),
        "server": server,
        "code": code,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load average before": load,
    }
