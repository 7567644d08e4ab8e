"""Object storage: a backlog that is drained into a bucket, and who drains it."""

import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from random import Random

import gauges
from contestants import Contestant
from server import account, flush, run

ROOT = Path(__file__).resolve().parent.parent
KIND = "ceph"
# Milliseconds there and back that the network in front of the server takes.
NETWORKS = [0, 20]


class Bucket:
    """An empty bucket of a server that was started for it, with a network in front."""

    def __init__(self, program, milliseconds):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([program, KIND, str(milliseconds)], stdin=pipe, stdout=pipe, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of object storage has not started: exit status {self.process.wait()}")
        vars(self).update(json.loads(line))
        self.reach("far")
        self.log = Path(self.ca).parent / "log" / "client.rgw.log"

    def reach(self, by):
        """From now on, "far" through the network, or "near" past it."""
        vars(self).update(vars(self)[by])

    def names(self, prefix):
        """The keys that begin so."""
        self.process.stdin.write(f"names {prefix}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def requests(self):
        """How many requests of each kind the server has answered. A listing names its prefix."""
        counts = Counter()
        for method, target in re.findall(r'beast: .*? "([A-Z]+) (\S+) HTTP', self.log.read_text()):
            counts["LIST" if "prefix=" in target else method] += 1
        return counts

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Ours(Contestant):
    def __init__(self, compression, workers):
        super().__init__(f"object-ours-{compression}-{workers}",
                         f"walsafe_archive {compression}, workers {workers}")
        self.compression = compression
        self.workers = workers
        self.prefix = "main"

    def missing(self, installation):
        return None if installation.has_library("walsafe_archive") else "walsafe_archive is not installed"

    def prepare(self, cluster, scratch, bucket):
        self.write_access(bucket, scratch.fresh("object-storage"))
        return bucket

    def write_access(self, bucket, work):
        """Writes the certificate and the keys of the bucket."""
        # The server's user reads it, and the other one belongs to the user who started the server.
        self.ca = readable(work / "ca.pem", Path(bucket.ca).read_text())
        self.credentials = readable(work / "credentials", f"[s3://{bucket.bucket}]\n"
                                    f"aws_access_key_id = {bucket.access}\n"
                                    f"aws_secret_access_key = {bucket.secret}\n")

    def url(self, bucket):
        return (f"s3://{bucket.bucket}/{self.prefix}?endpoint=https://{bucket.host}:{bucket.port}"
                f"&region={bucket.region}&style=path&ca_file={self.ca}")

    def idle(self):
        settings = {"compression": self.compression, "workers": str(self.workers)}
        return ({"archive_library": "walsafe_archive", "archive_command": ""}
                | {f"walsafe_archive.{name}": value for name, value in settings.items()})

    def active(self, bucket):
        return self.idle() | {"walsafe_archive.destination": self.url(bucket),
                              "walsafe_archive.credentials_file": str(self.credentials)}


class PgBackRest(Contestant):
    """Asynchronous; the stanza is made before the clock starts."""

    def __init__(self, compress, processes):
        super().__init__(f"object-pgbackrest-{compress}-{processes}",
                         f"pgBackRest async {compress}, processes {processes}")
        self.compress = compress
        self.processes = processes
        self.prefix = "main"

    def missing(self, installation):
        return None if shutil.which("pgbackrest") else "pgbackrest is not installed"

    def prepare(self, cluster, scratch, bucket):
        options = {"archive-async": "y", "process-max": self.processes}
        conf = self.write_configuration(cluster, bucket, scratch.fresh("object-storage"), **options)
        self.program = f"pgbackrest --config={conf} --stanza=bench"
        run([*self.program.split(), "stanza-create"])
        return bucket

    def write_configuration(self, server, bucket, work, **options):
        """Writes how pgBackRest finds the server and the bucket; returns the file."""
        lines = "".join(f"{name}={value}\n" for name, value in options.items())
        return readable(work / "pgbackrest.conf", f"""[global]
repo1-type=s3
repo1-path=/{self.prefix}
repo1-s3-bucket={bucket.bucket}
repo1-s3-endpoint={bucket.host}
repo1-s3-region={bucket.region}
repo1-s3-uri-style=path
repo1-s3-key={bucket.access}
repo1-s3-key-secret={bucket.secret}
repo1-storage-host={bucket.host}
repo1-storage-port={bucket.port}
repo1-storage-verify-tls=n
spool-path={work}
lock-path={work}
log-level-file=off
log-level-console=warn
compress-type={self.compress}
{lines}[bench]
pg1-path={server.data}
pg1-socket-path={server.home}
pg1-user=postgres
""")

    def active(self, bucket):
        return self.idle() | {"archive_command": f"{self.program} archive-push %p"}


def readable(path, text):
    """Writes a file of the server's user, with secrets perhaps."""
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, account().pw_uid, account().pw_gid)
    return path


ALL = [
    *(Ours("none", workers) for workers in (2, 4, 8)),
    Ours("zstd", 4),
    *(PgBackRest("none", processes) for processes in (2, 4, 8)),
    PgBackRest("zst", 4),
]


def server_program():
    """Builds what starts a server; returns its path, or why there is none."""
    tool = subprocess.run([ROOT / "tools" / "get-object-server", KIND], stdout=subprocess.DEVNULL)
    if tool.returncode != 0:
        return None, f"tools/get-object-server {KIND} failed"
    name = "walsafe-object-server"
    command = ["cargo", "build", "--quiet", "-p", "walsafe-tests", "--bin", name]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if built.returncode != 0:
        return None, built.stderr.strip()[-300:]
    target = json.loads(subprocess.check_output(
        ["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT))["target_directory"]
    return Path(target) / "debug" / name, None


@contextmanager
def bucket_of(program, milliseconds):
    bucket = Bucket(program, milliseconds)
    try:
        yield bucket
    finally:
        bucket.stop()


def drain(cluster, scratch, contestant, program, milliseconds, archiving_with):
    """Archives the backlog once into a new bucket; returns what it took."""
    cluster.reset_backlog()
    paths = cluster.backlog_paths()
    flush(cluster.data)
    gauges.load_into_cache(paths)
    with bucket_of(program, milliseconds) as bucket:
        with archiving_with(cluster, scratch, contestant, bucket) as archiving:
            gauges.settle()
            before = bucket.requests()
            began = archiving.begin()
            cluster.wait_archived(cluster.backlog[-1])
            ended = max(cluster.archived_at())
            archiving.memory.finish()
            requests = bucket.requests() - before
            result = {
                "seconds": ended - began,
                "cpu_seconds": archiving.cpu_seconds(),
                "cpu_complete": archiving.group.complete,
                "memory_mb": (archiving.memory.peak - archiving.memory.at_rest) / 1024,
                "requests": sum(requests.values()) / len(cluster.backlog),
                "kinds": " ".join(f"{kind} {count}" for kind, count in sorted(requests.items())),
            }
            check_complete(cluster, contestant, bucket)
            return result


def check_complete(cluster, contestant, bucket):
    there = {name.rpartition("/")[2][:24] for name in bucket.names(f"{contestant.prefix}/")}
    if lost := [name for name in cluster.backlog if name not in there]:
        raise RuntimeError(f"{contestant.title} left out {len(lost)} files, {lost[0]} the first")


def measure(record, cluster, scratch, contestants, options, archiving_with, say):
    program, reason = server_program()
    if reason:
        say(f"without object storage: {reason}")
        record.add("missing", title="object storage", why=reason)
        return
    for milliseconds in NETWORKS:
        runs = {contestant: [] for contestant in contestants}
        order = Random(options.rounds)
        for round_number in range(options.rounds):
            for one in order.sample(list(runs), len(runs)):
                began = time.monotonic()
                result = drain(cluster, scratch, one, program, milliseconds, archiving_with)
                runs[one].append(result)
                say(f"object storage, {milliseconds} ms in front, round {round_number + 1}, {one.title}: "
                    f"{result['seconds']:.2f} s, {result['cpu_seconds']:.2f} s CPU, {result['kinds']} "
                    f"({time.monotonic() - began:.0f} s in all)")
        for one, results in runs.items():
            record.add_runs("object", one.key, one.title, results)
            record.tables["object"][-1] |= {"segments": len(cluster.backlog), "network_ms": milliseconds}
