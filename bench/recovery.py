"""Recoveries: the same backup and the same WAL, fetched by one program after another."""

import re
import shutil

import gauges
from contestants import ALL
from server import Server, flush, run, wait_for

# No checkpoint comes between, and nobody else is busy: what is timed is fetching and replaying.
SETTINGS = """
unix_socket_directories = '{home}'
archive_mode = off
hot_standby = off
max_wal_size = 100GB
"""
DONE = re.compile(r"redo done at (\S+) system usage: CPU: .*, elapsed: ([0-9.]+) s")
RESTORED = re.compile(r'restored log file "([0-9A-F]{24})" from archive')


class Restorer:
    """A restore_command, and the contestant who filled the archive that it reads."""

    def __init__(self, key, title, filled_by, command, program=None):
        self.key = key
        self.title = title
        self.filled_by = filled_by
        self.command = command
        self.program = program

    @property
    def in_place(self):
        """All of the WAL is in pg_wal."""
        return self is IN_PLACE

    def missing(self, installation):
        """Why it cannot take part here, or None."""
        program = self.program
        if program and not shutil.which(program) and not (installation.bindir / program).exists():
            return f"{self.program} is not installed"
        return next(one for one in ALL if one.key == self.filled_by).missing(installation)

    def command_for(self, server, archive, program):
        """The restore_command of a server."""
        return self.command.format(
            archive=archive, bindir=server.installation.bindir, program=program, data=server.data)


def walsafe(key, title, filled_by):
    return Restorer(key, title, filled_by, '{bindir}/walsafe restore --from {archive} %f "%p"', "walsafe")


def pgbackrest(key, title, asynchronous):
    return Restorer(key, title, "pgbackrest-async",
                    "{program} --pg1-path={data} " + asynchronous + ' archive-get %f "%p"')


# The first one finds all of the WAL in pg_wal: what replaying costs whoever fetches.
IN_PLACE = Restorer("in-place", "nothing to fetch, all in pg_wal", "ours-none-2", "false")
CP = Restorer("cp", "cp", "ours-none-2", 'cp {archive}/%f "%p"')
OURS = walsafe("walsafe", "walsafe restore", "ours-none-2")
RESTORERS = [
    IN_PLACE,
    CP,
    OURS,
    Restorer("zstd", "zstd -d", "ours-zstd-2", 'zstd -dqf {archive}/%f.zst -o "%p"', "zstd"),
    walsafe("walsafe-zstd", "walsafe restore, zstd", "ours-zstd-2"),
    Restorer("lz4", "lz4 -d", "ours-lz4-2", 'lz4 -dqf {archive}/%f.lz4 "%p"', "lz4"),
    walsafe("walsafe-lz4", "walsafe restore, lz4", "ours-lz4-2"),
    pgbackrest("pgbackrest", "pgBackRest archive-get", "--no-archive-async"),
    pgbackrest("pgbackrest-async", "pgBackRest archive-get, async", "--archive-async"),
]


class Recovery(Server):
    """A copy of the backup that recovers to the end of what `restorer` fetches from `where`."""

    def __init__(self, cluster, scratch, backup, restorer, *where):
        super().__init__(cluster.installation, scratch.fresh("recovery"))
        self.cluster = cluster
        run(["cp", "-a", backup, self.data])
        (self.data / "recovery.signal").touch()
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(SETTINGS.format(home=self.home))
        if restorer.in_place:
            run(["cp", *cluster.backlog_paths(), self.pg_wal])
        self.restorer = restorer
        self.command = restorer.command_for(self, *where)

    def replay(self):
        """Seconds of replaying by the server's own clock, CPU seconds, and where it ended."""
        self.launch({"restore_command": self.command})
        group = gauges.ProcessGroup(self.postmaster.pid)
        try:
            def done():
                self.fail_if_ended()
                return DONE.search(self.log())

            lsn, seconds = wait_for(f"a recovery by {self.restorer.title}", done, 900, 0.05).groups()
            self.stop_at_once()
            self.check_restored()
            return {"seconds": float(seconds), "cpu_seconds": group.cpu_seconds(), "lsn": lsn,
                    "cpu_complete": group.complete}
        finally:
            self.stop_at_once()
            group.remove()

    def check_restored(self):
        restored = set(RESTORED.findall(self.log()))
        lost = [name for name in self.cluster.backlog if name not in restored]
        if lost and not self.restorer.in_place:
            raise RuntimeError(f"{self.restorer.title}: {lost[0]} was not restored\n{self.log_tail()}")


def recover(cluster, scratch, backup, restorer, archive, program, cold):
    """Recovers once; returns what it took."""
    recovery = Recovery(cluster, scratch, backup, restorer, archive, program)
    try:
        (gauges.drop_from_cache if cold else gauges.load_into_cache)(gauges.files_in(archive))
        flush(recovery.data)
        gauges.settle()
        return recovery.replay()
    finally:
        recovery.stop_at_once()
        shutil.rmtree(recovery.home, ignore_errors=True)
