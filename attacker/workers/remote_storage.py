"""Captures and reconstructions by way of a URL, for attack workers that do not see the run folder.

The dispatcher lends a job the files that it reads: copies below URL/NAME-TOKEN, under their paths in the run folder.
A worker borrows them into a private folder, does the job there, and gives the reconstructions back to the URL, from
where the dispatcher collects them into the run folder. Of what was borrowed nothing stays with the worker, and the
dispatcher removes the copies when it ends. TOKEN is random, so two dispatches never meet, nor anybody else's files.
"""

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attacker.workers.jobs import Job, Workbench, log_start
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder, write_atomically

OTHERWISE = "or leave it empty where all machines see the run folder under the same path"


class Mirror:
    """Copies of files of one run folder below `url`."""

    def __init__(self, url: str) -> None:
        """ConfigError for what is no URL, a protocol that nobody knows, or one whose driver is not installed."""
        from fsspec.core import url_to_fs

        if "://" not in url:
            raise ConfigError(f"workers.storage is {url!r}, no URL; give one such as file:///mnt/share, {OTHERWISE}")
        options = {"auto_mkdir": True} if url.startswith("file:") else {}
        try:
            self._files, self._base = url_to_fs(url, **options)
        except Exception as error:  # of many kinds: each driver has its own
            raise ConfigError(f"workers.storage is {url!r} ({_why(error)}); mend that, {OTHERWISE}") from error

    @property
    def url(self) -> str:
        """In full, for processes that stand in another folder."""
        return str(self._files.unstrip_protocol(self._base))

    def put(self, name: str, data: bytes) -> None:
        """Write a copy; where there are modes, for its owner alone.

        It gets its name when it is whole: a worker that was taken for dead may write a reconstruction once more while
        the dispatcher reads it.
        """
        path = f"{self._base}/{name}"
        temporary = f"{path}.{secrets.token_hex(4)}"
        before = os.umask(0o077)
        try:
            self._files.pipe_file(temporary, data)
            self._files.mv(temporary, path)
        finally:
            os.umask(before)

    def get(self, name: str) -> bytes:
        data: bytes = self._files.cat_file(f"{self._base}/{name}")
        return data

    def remove(self) -> None:
        """Remove all copies."""
        self._files.rm(self._base, recursive=True)


class Lender:
    """The dispatcher's side: lends files of the run folder, and collects reconstructions."""

    def __init__(self, root: Path, storage: str) -> None:
        self._bench = Workbench(root)
        self._mirror = Mirror(_fresh(storage, root.name))
        self._lent: set[str] = set()  # names; none of these files changes while a dispatch goes on
        self.url = self._mirror.url

    def common(self) -> list[str]:
        """Copy what all jobs read; the names of that."""
        return self._put(self._bench.common())

    def lend(self, job: Job) -> list[str]:
        """Copy what the job reads and is not there yet; the names of all that it reads.

        The log says that the job has begun, as the worker's own log is of the folder that it borrows.
        """
        names = self._put(self._bench.inputs(job))
        log_start(self._bench.run, job)
        return names

    def _put(self, paths: Iterable[Path]) -> list[str]:
        root, names = self._bench.run.root, []
        for path in paths:
            name = str(path.relative_to(root))
            if name not in self._lent:
                self._mirror.put(name, path.read_bytes())
                self._lent.add(name)
            names.append(name)
        return names

    def collect(self, job: Job) -> None:
        """Take the job's reconstructions into the run folder."""
        for path in _outputs(self._bench.run, job):
            write_atomically(path, self._mirror.get(str(path.relative_to(self._bench.run.root))))

    def close(self) -> None:
        """Remove the copies. ConfigError if they are still there."""
        try:
            if self._lent:
                self._mirror.remove()
        except Exception as error:
            raise ConfigError(f"copies of captures are left at {self.url} ({_why(error)}); remove them") from error


@contextmanager
def borrowed(url: str, names: Iterable[str]) -> Iterator[RunFolder]:
    """The worker's side: a private run folder with nothing but these files in it, gone afterwards."""
    mirror = Mirror(url)
    with tempfile.TemporaryDirectory(prefix="fl-sim-") as folder:
        for name in names:
            write_atomically(Path(folder, name), mirror.get(name))
        yield RunFolder(Path(folder))


def give_back(url: str, run: RunFolder, job: Job) -> None:
    """Bring the reconstructions of a job that was done in `run` to where the dispatcher collects them."""
    mirror = Mirror(url)
    for path in _outputs(run, job):
        mirror.put(str(path.relative_to(run.root)), path.read_bytes())


def check(storage: str) -> None:
    """ConfigError, in one sentence, unless files can be written, read and removed below `storage`."""
    Mirror(storage)
    mirror = Mirror(_fresh(storage, "check"))
    try:
        mirror.put("probe", b"fl-sim")
        mirror.get("probe")
        mirror.remove()
    except Exception as error:  # of many kinds: no bucket, no credentials, no route
        raise ConfigError(
            f"workers.storage is {storage!r}, where files cannot be written and read ({_why(error)}); "
            f"mend that, {OTHERWISE}"
        ) from error


def _fresh(storage: str, name: str) -> str:
    return f"{storage}{'' if storage.endswith('/') else '/'}{name}-{secrets.token_hex(4)}"


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _outputs(run: RunFolder, job: Job) -> list[Path]:
    return [run.reconstruction(job.label, job.server_round, user) for user in job.users]
