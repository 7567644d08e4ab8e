"""Recoveries from object storage: the same backup and the same WAL, out of one bucket, by one way after another."""

import os
import re
import shutil
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from random import Random

import gauges
import objects
import recovery
from server import account, flush, wait_for

# Who fills the archives, by their compression. Both kinds of it are zstd.
FILLED = {
    "ours-none": objects.Ours("none", 4),
    "ours-zstd": objects.Ours("zstd", 4),
    "pgbackrest-none": objects.PgBackRest("none", 4),
    "pgbackrest-zstd": objects.PgBackRest("zst", 4),
}
# The server's own time of the line after which nothing is replayed any more.
DONE = re.compile(r"^(\S+ \S+) UTC .*redo done at (\S+) ", re.MULTILINE)


class Restorer:
    """A way to recover from the archive of the same compression."""

    in_place = False  # all of the WAL is in pg_wal
    is_process_1 = False  # the server, in a namespace of processes

    def __init__(self, key, title, compression, filled_by):
        self.key = f"object-{key}-{compression}"
        self.title = f"{title}, {compression}"
        self.compression = compression
        self.filled_by = f"{filled_by}-{compression}"

    def missing(self, installation):
        """Why it cannot take part here, or None."""
        return FILLED[self.filled_by].missing(installation)

    def command_for(self, server, bucket, work):
        """The restore_command of a server; what it reads is written into `work`."""
        raise NotImplementedError


class Ours(Restorer):
    def __init__(self, key, title, compression, options="", is_process_1=False):
        super().__init__(key, title, compression, "ours")
        self.options = options
        self.is_process_1 = is_process_1

    def missing(self, installation):
        if self.is_process_1 and subprocess.run(["unshare", "--pid", "--fork", "true"]).returncode != 0:
            return "no namespace of processes can be made"
        return super().missing(installation)

    def command_for(self, server, bucket, work):
        filler = FILLED[self.filled_by]
        filler.write_access(bucket, work)
        return (f'{server.installation.bindir}/walsafe restore --from "{filler.url(bucket)}" '
                f'--credentials-file {filler.credentials}{self.options} %f "%p"')


class InPlace(Restorer):
    """What replaying costs whoever fetches."""

    in_place = True

    def command_for(self, server, bucket, work):
        return "false"


class PgBackRest(Restorer):
    def __init__(self, key, title, compression, **options):
        super().__init__(key, title, compression, "pgbackrest")
        self.options = options

    def command_for(self, server, bucket, work):
        filler = FILLED[self.filled_by]
        conf = filler.write_configuration(server, bucket, work, **self.options)
        return f'pgbackrest --config={conf} --stanza=bench archive-get %f "%p"'


def ways(compression):
    def asynchronous(processes, queue="128MiB"):
        return {"archive-async": "y", "process-max": processes, "archive-get-queue-max": queue}

    return [
        Ours("one", "walsafe restore, one by one", compression, " --ahead 0"),
        Ours("ahead", "walsafe restore, ahead", compression),
        Ours("process-1", "walsafe restore, ahead, the server is process 1", compression, is_process_1=True),
        PgBackRest("backrest-one", "pgBackRest", compression, **{"archive-async": "n", "process-max": 1}),
        PgBackRest("backrest-2", "pgBackRest async, processes 2", compression, **asynchronous(2)),
        PgBackRest("backrest-4", "pgBackRest async, processes 4", compression, **asynchronous(4)),
        PgBackRest("backrest-4-queue", "pgBackRest async, processes 4, queue of 1 GB", compression,
                   **asynchronous(4, "1GiB")),
    ]


ALL = [InPlace("in-place", "nothing to fetch, all in pg_wal", "none", "ours"), *ways("none"), *ways("zstd")]


class Recovery(recovery.Recovery):
    """A recovery whose files come out of a bucket."""

    def __init__(self, cluster, scratch, backup, restorer, bucket):
        super().__init__(cluster, scratch, backup, restorer, bucket, scratch.fresh("recovery-access"))

    def spawn(self, command, **options):
        """Starts a process that waits for a line and then becomes the server, or its parent outside."""
        user = account()
        namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
                     "--setgid", user.pw_gid, "--setuid", user.pw_uid, "--"]
        is_process_1 = self.restorer.is_process_1
        waits = ["sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh"]
        options |= {"stdin": subprocess.PIPE, "becomes_it": is_process_1}
        return super().spawn([*waits, *(namespace if is_process_1 else []), *command], **options)

    def server_pid(self):
        """The server as it is seen from here."""
        if not self.restorer.is_process_1:
            return self.postmaster.pid
        children = Path(f"/proc/{self.postmaster.pid}/task/{self.postmaster.pid}/children")

        def child():
            self.fail_if_ended()
            return children.read_text().split()

        return int(wait_for("the first process of a namespace", child)[0])

    def send(self, how):
        os.kill(self.server_pid(), how)

    def replay(self):
        """Seconds from the server's start until nothing is left to be replayed, CPU seconds, and where it ended."""
        self.launch({"restore_command": self.command})
        group = gauges.ProcessGroup(self.postmaster.pid)

        def done():
            self.fail_if_ended()
            return DONE.search(self.log())

        try:
            began = time.time()
            self.postmaster.stdin.write(b"go\n")
            self.postmaster.stdin.close()
            when, lsn = wait_for(f"a recovery by {self.restorer.title}", done, 900, 0.05).groups()
            ended = datetime.strptime(when, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc).timestamp()
            cpu_seconds = group.cpu_seconds()
            self.stop_at_once()
            self.check_restored()
            return {"seconds": ended - began, "cpu_seconds": cpu_seconds, "lsn": lsn,
                    "cpu_complete": group.complete}
        finally:
            self.stop_at_once()
            group.remove()


def recover(cluster, scratch, backup, restorer, bucket):
    """Recovers once; returns what it took."""
    server = Recovery(cluster, scratch, backup, restorer, bucket)
    try:
        flush(server.data)
        gauges.settle()
        before = bucket.requests()
        result = server.replay()
        requests = bucket.requests() - before
        return result | {"requests": sum(requests.values()) / len(cluster.backlog),
                         "kinds": " ".join(f"{kind} {count}" for kind, count in sorted(requests.items()))}
    finally:
        server.stop_at_once()
        shutil.rmtree(server.home, ignore_errors=True)


def fill(cluster, scratch, bucket, wanted, archiving_with, say):
    """What the recoveries read: an archive of the backlog by each of these."""
    for key in wanted:
        contestant = FILLED[key]
        contestant.prefix = key
        cluster.reset_backlog()
        with archiving_with(cluster, scratch, contestant, bucket) as archiving:
            archiving.begin()
            cluster.wait_archived(cluster.backlog[-1])
            # A server that shuts down archives once more, and to a recovery the gap up to there is a hole.
            cluster.stop_at_once()
        objects.check_complete(cluster, contestant, bucket)
        say(f"recoveries from object storage: the archive {key} is filled")


def measure(record, cluster, scratch, backup, restorers, options, archiving_with, say):
    program, reason = objects.server_program()
    if reason:
        say(f"without object storage: {reason}")
        record.add("missing", title="recoveries from object storage", why=reason)
        return
    networks = objects.NETWORKS
    with objects.bucket_of(program, max(networks)) as bucket:
        bucket.reach("near")
        fill(cluster, scratch, bucket, dict.fromkeys(one.filled_by for one in restorers), archiving_with, say)
        for milliseconds in networks:
            bucket.reach("far" if milliseconds else "near")
            runs = {restorer: [] for restorer in restorers}
            order = Random(options.rounds)
            for round_number in range(options.rounds):
                for one in order.sample(list(runs), len(runs)):
                    result = recover(cluster, scratch, backup, one, bucket)
                    runs[one].append(result)
                    say(f"recovery from object storage, {milliseconds} ms in front, round {round_number + 1}, "
                        f"{one.title}: {result['seconds']:.2f} s, {result['cpu_seconds']:.2f} s CPU, "
                        f"{result['kinds']}")
            ends = {result["lsn"] for results in runs.values() for result in results}
            if len(ends) > 1:
                raise RuntimeError(f"the recoveries have not come to the same end: {', '.join(sorted(ends))}")
            for one, results in runs.items():
                record.add_runs("recovery-objects", one.key, one.title, results)
                record.tables["recovery-objects"][-1] |= {
                    "segments": len(cluster.backlog), "network_ms": milliseconds,
                    "one_by_one": f"object-one-{one.compression}"}
