"""Who is measured: how each is set up, and what it is called."""

import shutil

from server import run


class Contestant:
    """`idle` are settings with which the archiver runs and waits; `active` has it archive."""

    program = ""  # how its restore_command begins

    def __init__(self, key, title):
        self.key = key
        self.title = title

    def missing(self, installation):
        """Why it cannot take part here, or None."""
        return None

    def prepare(self, cluster, scratch, name):
        """Sets up what is not to be timed, with the server running idle; returns the archive, which
        has that name."""
        raise NotImplementedError

    def idle(self):
        return {"archive_library": "", "archive_command": ""}

    def active(self, archive):
        raise NotImplementedError

    def within(self, archive):
        """The directories in the archive each of which is to hold every file."""
        return [archive]


class Command(Contestant):
    def __init__(self, key, title, command):
        super().__init__(key, title)
        self.command = command

    def prepare(self, cluster, scratch, name):
        return scratch.fresh(name)

    def active(self, archive):
        return self.idle() | {"archive_command": self.command.format(archive=archive)}


class Library(Contestant):
    """An archive module: loaded, and without a directory until it is to begin."""

    def __init__(self, key, title, library, directory, **settings):
        super().__init__(key, title)
        self.library = library
        self.directory = directory
        self.settings = {f"{library}.{name}": str(value) for name, value in settings.items()}

    def missing(self, installation):
        if not installation.has_library(self.library):
            return f"{self.library} is not installed"
        return None

    def prepare(self, cluster, scratch, name):
        return scratch.fresh(name)

    def idle(self):
        return {"archive_library": self.library, "archive_command": ""} | self.settings

    def active(self, archive):
        return self.idle() | {f"{self.library}.{self.directory}": str(archive)}


class TwoDirectories(Library):
    """Two destinations on the same disk: each file counts once both have it."""

    def prepare(self, cluster, scratch, name):
        archive = scratch.fresh(name)
        for each in self.within(archive):
            scratch.fresh(each.relative_to(scratch.path))
        return archive

    def active(self, archive):
        return super().active(", ".join(f'"{each}"' for each in self.within(archive)))

    def within(self, archive):
        return [archive / "first", archive / "second"]


class PgBackRest(Contestant):
    """Its own configuration file; the stanza is made before the clock starts."""

    def __init__(self, key, title, compress, asynchronous):
        super().__init__(key, title)
        self.compress = compress
        self.asynchronous = asynchronous

    def missing(self, installation):
        return None if shutil.which("pgbackrest") else "pgbackrest is not installed"

    def prepare(self, cluster, scratch, name):
        archive = scratch.fresh(name)
        work = scratch.fresh(f"{name}-pgbackrest")
        conf = work / "pgbackrest.conf"
        conf.write_text(f"""[global]
repo1-path={archive}
spool-path={work}
lock-path={work}
log-level-file=off
log-level-console=warn
compress-type={self.compress}
archive-async={'y' if self.asynchronous else 'n'}
process-max={2 if self.asynchronous else 1}
[bench]
pg1-path={cluster.data}
pg1-socket-path={cluster.home}
pg1-user=postgres
""")
        conf.chmod(0o644)
        self.program = f"pgbackrest --config={conf} --stanza=bench"
        run([*self.program.split(), "stanza-create"])
        return archive

    def active(self, archive):
        return self.idle() | {"archive_command": f"{self.program} archive-push %p"}


def ours(compression, workers):
    title = f"walsafe_archive {compression}, workers {workers}"
    return Library(f"ours-{compression}-{workers}", title, "walsafe_archive", "destination",
                   compression=compression, workers=workers)


def ours_twice(compression, workers):
    title = f"walsafe_archive {compression}, workers {workers}, two destinations"
    return TwoDirectories(f"ours-{compression}-{workers}-twice", title, "walsafe_archive", "destination",
                          compression=compression, workers=workers)


CP = Command("cp", "cp, nothing flushed", "cp %p {archive}/%f")
BASIC = Library("basic_archive", "basic_archive", "basic_archive", "archive_directory")

ALL = [
    CP,
    Command("cp-flush", "cp, flushed",
            "test ! -f {archive}/%f && cp %p {archive}/%f && sync {archive}/%f {archive}"),
    BASIC,
    PgBackRest("pgbackrest", "pgBackRest", "none", False),
    PgBackRest("pgbackrest-async", "pgBackRest async", "none", True),
    PgBackRest("pgbackrest-async-zst", "pgBackRest async, zst", "zst", True),
    ours("none", 0),
    ours("none", 1),
    ours("none", 2),
    ours("none", 4),
    ours_twice("none", 2),
    ours("lz4", 2),
    ours("zstd", 2),
]
OURS = next(contestant for contestant in ALL if contestant.key == "ours-none-2")
# A lone segment: the second worker has nothing to do, which the first two of ours are to show.
LONE = ["cp", "basic_archive", "ours-none-1", "ours-none-2", "ours-lz4-2", "ours-zstd-2"]
