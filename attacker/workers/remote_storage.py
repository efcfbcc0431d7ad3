"""Captures and reconstructions by way of a URL, for attack workers that do not see the run folder.

The dispatcher stages the files that a job reads: copies below URL/NAME-TOKEN, under their paths in the run folder.
A worker downloads them into a private folder, does the job there, and uploads the reconstructions, which the
dispatcher downloads into the run folder. Nothing that was downloaded stays with the worker, and the dispatcher
removes all copies when it ends. TOKEN is random, so two dispatches never meet, nor anybody else's files.
"""

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attacker.workers.jobs import Job, Workbench, log_start
from fl_sim.config import ConfigError
from fl_sim.config_errors import in_one_line
from fl_sim.runs import RunFolder, write_atomically

OTHERWISE = "or leave it empty where all machines see the run folder under the same path"


class RemoteFolder:
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
            raise ConfigError(f"workers.storage is {url!r} ({_why(error)}); fix that, {OTHERWISE}") from error

    @property
    def url(self) -> str:
        """In full, for processes that stand in another folder."""
        return str(self._files.unstrip_protocol(self._base))

    def upload(self, name: str, data: bytes) -> None:
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

    def download(self, name: str) -> bytes:
        data: bytes = self._files.cat_file(f"{self._base}/{name}")
        return data

    def remove(self) -> None:
        """Remove all copies."""
        self._files.rm(self._base, recursive=True)


class Staging:
    """The dispatcher's side: stages files of the run folder, and downloads reconstructions into it."""

    def __init__(self, root: Path, storage: str) -> None:
        self._bench = Workbench(root)
        self._remote = RemoteFolder(_fresh(storage, root.name))
        self._staged: set[str] = set()  # names; none of these files changes while a dispatch goes on
        self.url = self._remote.url

    def stage_common(self) -> list[str]:
        """Upload what all jobs read; the names of that."""
        return self._stage(self._bench.common())

    def stage(self, job: Job) -> list[str]:
        """Upload what the job reads and is not there yet; the names of all that it reads.

        The log says that the job has begun, as the worker's own log is of the folder that it downloads into.
        """
        names = self._stage(self._bench.inputs(job))
        log_start(self._bench.run, job)
        return names

    def _stage(self, paths: Iterable[Path]) -> list[str]:
        root, names = self._bench.run.root, []
        for path in paths:
            name = str(path.relative_to(root))
            if name not in self._staged:
                self._remote.upload(name, path.read_bytes())
                self._staged.add(name)
            names.append(name)
        return names

    def download_results(self, job: Job) -> None:
        """Take the job's reconstructions into the run folder."""
        for path in _outputs(self._bench.run, job):
            write_atomically(path, self._remote.download(str(path.relative_to(self._bench.run.root))))

    def close(self) -> None:
        """Remove the copies. ConfigError if they are still there."""
        try:
            if self._staged:
                self._remote.remove()
        except Exception as error:
            raise ConfigError(f"copies of captures are left at {self.url} ({_why(error)}); remove them") from error


@contextmanager
def downloaded(url: str, names: Iterable[str]) -> Iterator[RunFolder]:
    """The worker's side: a private run folder with nothing but these files in it, gone afterwards."""
    remote = RemoteFolder(url)
    with tempfile.TemporaryDirectory(prefix="fl-sim-") as folder:
        for name in names:
            write_atomically(Path(folder, name), remote.download(name))
        yield RunFolder(Path(folder))


def upload_results(url: str, run: RunFolder, job: Job) -> None:
    """Bring the reconstructions of a job that was done in `run` to where the dispatcher downloads them."""
    remote = RemoteFolder(url)
    for path in _outputs(run, job):
        remote.upload(str(path.relative_to(run.root)), path.read_bytes())


def check(storage: str) -> None:
    """ConfigError, in one sentence, unless files can be written, read and removed below `storage`."""
    RemoteFolder(storage)
    remote = RemoteFolder(_fresh(storage, "check"))
    try:
        remote.upload("probe", b"fl-sim")
        remote.download("probe")
        remote.remove()
    except Exception as error:  # of many kinds: no bucket, no credentials, no route
        raise ConfigError(
            f"workers.storage is {storage!r}, where files cannot be written and read ({_why(error)}); "
            f"fix that, {OTHERWISE}"
        ) from error


def _fresh(storage: str, name: str) -> str:
    return f"{storage}{'' if storage.endswith('/') else '/'}{name}-{secrets.token_hex(4)}"


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {in_one_line(error, 300)}"


def _outputs(run: RunFolder, job: Job) -> list[Path]:
    return [run.reconstruction(job.label, job.server_round, user) for user in job.users]
