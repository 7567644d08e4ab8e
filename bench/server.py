"""Servers of the benchmark's own: made, filled, started, stopped, recovered."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import gauges

# What the server is like in every run. wal_keep_size: nothing of the backlog is ever recycled.
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{home}'
fsync = on
shared_buffers = 256MB
max_wal_size = 1GB
checkpoint_timeout = 1h
wal_keep_size = 1TB
archive_mode = on
autovacuum = off
log_checkpoints = off
log_line_prefix = '%m [%p] <%b> '
include = 'contestant.conf'
"""

NOBODY = {"archive_library": "", "archive_command": ""}


def account():
    """The user that servers run as: PostgreSQL refuses root."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def as_server_user(command, becomes_it=False, **options):
    """Starts a program as that user, or one that becomes that user itself, in a directory where it may be."""
    user = account()
    if os.geteuid() == 0 and not becomes_it:
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    env = {"PATH": os.environ["PATH"], "HOME": user.pw_dir, "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.Popen([str(part) for part in command], env=env, cwd="/", **options)


def run(command, stdin=None):
    """Runs a program as the server's user; returns what it printed."""
    pipe = subprocess.PIPE
    process = as_server_user(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(stdin)
    if process.returncode != 0:
        raise RuntimeError(f"{command}: exit status {process.returncode}\n{output}")
    return output


def wait_for(what, ready, seconds=60, pause=0.02):
    """Waits until `ready` returns something true, and returns that."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s in vain for {what}")
        time.sleep(pause)
    return found


class Installation:
    """A PostgreSQL with the extension and its peers."""

    def __init__(self, pg_config):
        def ask(what):
            return subprocess.check_output([pg_config, what], text=True).strip()

        self.bindir = Path(ask("--bindir"))
        self.pkglibdir = Path(ask("--pkglibdir"))
        self.version = ask("--version")

    def has_library(self, name):
        return (self.pkglibdir / f"{name}.so").exists()


class Scratch:
    """A directory of the server's user, removed at the end whatever happens."""

    def __init__(self, below):
        self.path = Path(tempfile.mkdtemp(prefix="walsafe-bench-", dir=below))
        self.give(self.path)

    @staticmethod
    def give(path):
        os.chown(path, account().pw_uid, account().pw_gid)

    def fresh(self, name):
        """An empty directory of that name, on storage that has nothing left to do for an old one."""
        path = self.path / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        self.give(path)
        flush(path)
        return path

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)


def flush(path):
    """Has everything written that the file system holds back; returns how long that took."""
    began = time.monotonic()
    subprocess.run(["sync", "-f", path], check=True)
    return time.monotonic() - began


class Server:
    """A data directory below `home`, and the server that may run on it."""

    def __init__(self, installation, home):
        self.installation = installation
        self.home = home
        self.data = home / "data"
        self.pg_wal = self.data / "pg_wal"
        self.status = self.pg_wal / "archive_status"
        self.postmaster = None

    def configure(self, settings):
        """Writes the settings of a contestant; they count from the next start or reload."""
        lines = [f"{name} = '" + value.replace("'", "''") + "'\n" for name, value in settings.items()]
        path = self.data / "contestant.conf"
        path.write_text("".join(lines))
        os.chown(path, account().pw_uid, account().pw_gid)

    def launch(self, settings):
        self.configure(settings)
        with open(self.home / "log", "a") as log:
            self.postmaster = self.spawn([self.installation.bindir / "postgres", "-D", self.data],
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def spawn(self, command, **options):
        return as_server_user(command, **options)

    def send(self, how):
        self.postmaster.send_signal(how)

    def fail_if_ended(self):
        if self.postmaster.poll() is not None:
            raise RuntimeError("the server has ended:\n" + self.log_tail())

    def start(self, settings):
        self.launch(settings)

        def ready():
            self.fail_if_ended()
            try:
                lines = (self.data / "postmaster.pid").read_text().splitlines()
            except FileNotFoundError:
                return False
            return lines[:1] == [str(self.postmaster.pid)] and lines[7:8] and lines[7].strip() == "ready"

        wait_for("the server's start", ready)

    def reload(self):
        os.kill(self.postmaster.pid, signal.SIGHUP)

    def stop(self, how=signal.SIGINT):
        if self.postmaster and self.postmaster.poll() is None:
            self.send(how)
            try:
                self.postmaster.wait(300)
            except subprocess.TimeoutExpired:
                self.send(signal.SIGQUIT)
                self.postmaster.wait(60)
        self.postmaster = None

    def stop_at_once(self):
        self.stop(signal.SIGQUIT)

    def log(self):
        return (self.home / "log").read_text()

    def log_tail(self):
        return "".join(self.log().splitlines(keepends=True)[-20:])


class Cluster(Server):
    """A new cluster, with a backlog of segments that wait to be archived."""

    def __init__(self, installation, home, segment_mb):
        super().__init__(installation, home)
        self.segment_mb = segment_mb
        self.backlog = []
        run([installation.bindir / "initdb", "--no-sync", "--auth=trust", "--username=postgres",
             "--locale=C", "--encoding=UTF8", f"--wal-segsize={segment_mb}", self.data])
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(SETTINGS.format(home=home))
        self.configure(NOBODY)

    def archiver(self):
        """The archiver's process id, or None."""
        children = Path(f"/proc/{self.postmaster.pid}/task/{self.postmaster.pid}/children")
        for pid in children.read_text().split():
            try:
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"postgres: archiver"):
                    return int(pid)
            except OSError:
                pass
        return None

    def client(self, program, *arguments):
        return [self.installation.bindir / program, "-h", self.home, "-U", "postgres", *arguments]

    def sql(self, text):
        psql = self.client("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", "-")
        return run(psql, text).strip()

    # The backlog: names of segments that wait to be archived.

    def waiting(self):
        return sorted(name[:-6] for name in os.listdir(self.status) if name.endswith(".ready"))

    def fill_by_pgbench(self, segments, scale, backup):
        """Makes a backlog by pgbench; every tenth segment is switched early, at a random fill.
        Copies the data directory to `backup` before that, while the server is down: a recovery
        from there replays the backlog and nothing else."""
        self.start(NOBODY)
        self.sql("ALTER SYSTEM SET synchronous_commit = off")
        self.reload()
        run(self.client("pgbench", "-i", "-q", "-s", scale, "postgres"))
        self.sql("CHECKPOINT; SELECT pg_switch_wal()")
        self.stop()
        self.reset_backlog()  # loading the tables is not what a server does all day
        run(["cp", "-a", self.data, backup])
        for entry in gauges.files_in(backup / "pg_wal"):
            entry.unlink()
        self.start(NOBODY)
        while len(self.waiting()) < segments:
            target = min((len(self.waiting()) // 10 + 1) * 10 - 1, segments)
            load = as_server_user(
                self.client("pgbench", "-n", "-c", 4, "-j", 2, "-T", 3600, "postgres"),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_for("pgbench to fill segments", lambda: len(self.waiting()) >= target, 900, 0.05)
            finally:
                load.terminate()
                load.wait()
            # Page images follow each checkpoint: a busy server has them all the time.
            self.sql("SELECT pg_switch_wal(); CHECKPOINT")
        self.sql("ALTER SYSTEM RESET synchronous_commit; CHECKPOINT")
        self.backlog = self.waiting()
        self.stop()

    def fill_by_switching(self, segments):
        """Makes a backlog of segments that hold little: the cost of a file, not of its bytes."""
        self.start(NOBODY)
        self.sql("ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET wal_init_zero = off")
        self.reload()
        self.sql("SELECT count(*) FROM (SELECT pg_switch_wal() FROM (SELECT pg_logical_emit_message("
                 f"false, 'bench', repeat('message', 500) || g) FROM generate_series(1, {segments}) g"
                 " OFFSET 0) emitted) switched")
        self.sql("ALTER SYSTEM RESET ALL; CHECKPOINT")
        self.backlog = self.waiting()
        self.stop()

    def reset_backlog(self):
        """Has the same segments wait again, and no others; the server is down."""
        backlog = set(self.backlog)
        for entry in os.listdir(self.status):
            name, _, state = entry.rpartition(".")
            wanted = "ready" if name in backlog else "done"
            if state != wanted:
                os.rename(self.status / entry, self.status / f"{name}.{wanted}")
        missing = backlog - set(self.waiting())
        if missing:
            raise RuntimeError(f"segments have gone from the backlog: {sorted(missing)[:3]}")
        # Ours remembers which directories it has initialised; each run gets a new one.
        for name in os.listdir(self.data):
            if name.startswith("walsafe_archive.destinations"):
                os.unlink(self.data / name)

    def wait_archived(self, name, seconds=900):
        """Waits until the server takes a segment for archived."""
        done = self.status / f"{name}.done"
        try:
            wait_for(f"{name} to be archived", done.exists, seconds, 0.05)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.log_tail()}") from None
        return done

    def backlog_paths(self):
        return [self.pg_wal / name for name in self.backlog]

    def archived_at(self):
        """When each segment of the backlog was marked as archived: the rename changes ctime."""
        return [os.stat(self.status / f"{name}.done").st_ctime for name in self.backlog]
