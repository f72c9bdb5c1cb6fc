"""The only code that writes tables: one Parquet file per table and partition, each replaced whole."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pricelab_dagster import engine
from pricelab_dagster.tables import TABLES, TableSpec

METADATA_KEY = b"pricelab"


class LakeError(Exception):
    """A table that cannot be read or written as asked."""


@dataclass(frozen=True, slots=True)
class Lake:
    """The tables of one lab under `root`, which is `<lab>/lake`."""

    root: Path

    def path(self, table: str, partition: str | None = None) -> Path:
        """Return the file of a table, or of one partition of it."""
        spec = _spec(table)
        if spec.partitioned != (partition is not None):
            kind = "is" if spec.partitioned else "is not"
            raise LakeError(f"{table} {kind} partitioned by experiment; got partition {partition!r}.")
        folder, name = table.split(".")
        return self.root / folder / (f"{name}/{partition}.parquet" if partition else f"{name}.parquet")

    def files(self, table: str, partition: str | None = None) -> list[Path]:
        """Return the existing files of a table, sorted: all partitions when `partition` is None."""
        if _spec(table).partitioned and partition is None:
            schema, name = table.split(".")
            return sorted((self.root / schema / name).glob("*.parquet"))
        path = self.path(table, partition)
        return [path] if path.exists() else []

    def all_files(self) -> list[Path]:
        """Return every Parquet file of the lake, sorted."""
        return sorted(self.root.glob("*/**/*.parquet"))

    def partitions(self, table: str) -> list[str]:
        """Return the experiments that a partitioned table has a file for."""
        return [path.stem for path in self.files(table)]

    def exists(self, table: str, partition: str | None = None) -> bool:
        """Return whether the table, or the partition, has been written."""
        return self.path(table, partition).exists()

    def read(self, table: str, partition: str | None = None) -> pa.Table:
        """Return a table, one partition of it, or all its partitions one after the other.

        Raises
        ------
        LakeError : when nothing has been written yet.
        """
        files = self.files(table, partition)
        if not files:
            where = f"{table}, experiment {partition}" if partition else table
            raise LakeError(f"{where}: nothing there yet. Materialise it first, for example with `pricelab run`.")
        return pa.concat_tables([pq.read_table(file, partitioning=None) for file in files], promote_options="default")

    def source(self, table: str, partition: str | None = None) -> engine.Table:
        """Return what the engine reads for a table: its files, or an empty table where there is none."""
        return self.files(table, partition) or _spec(table).schema.empty_table()

    def metadata(self, table: str, partition: str | None = None) -> dict[str, object]:
        """Return the facts that were stored in the file beside the rows; empty when there is no file."""
        path = self.path(table, partition)
        if not path.exists():
            return {}
        stored = pq.read_schema(path).metadata or {}
        return json.loads(stored.get(METADATA_KEY, b"{}"))

    def fingerprint(self, table: str, partition: str | None = None) -> str:
        """Return a hash of the table's bytes: the same rows give the same hash."""
        digest = hashlib.sha256()
        for path in self.files(table, partition):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def write(
        self, table: str, rows: pa.Table, partition: str | None = None, *, metadata: Mapping[str, object] | None = None
    ) -> pa.Table:
        """Replace a table, or one partition, whole, and return the rows as they were written.

        Columns are cast to the declared types and rows sorted by the declared key: same rows, same bytes.

        Raises
        ------
        LakeError : when a declared column is missing or an undeclared one is there.
        """
        shaped = shape(table, rows)
        facts = {METADATA_KEY: json.dumps(metadata or {}, sort_keys=True, default=str).encode()}
        shaped = shaped.replace_schema_metadata(facts)
        with _replacing(self.path(table, partition)) as temporary:
            pq.write_table(shaped, temporary, compression="zstd", version="2.6", write_statistics=True)
        return shaped

    def shared(
        self, table: str, partition: str, key: str, compute: Callable[[], pa.Table]
    ) -> tuple[pa.Table, str | None]:
        """Return the rows of a partition that depend on `key` alone, and the experiment they were taken from.

        `key` stands for everything that `compute` reads; rows that another partition (or an earlier run of this one)
        wrote under the same key are reused, with `experiment_id` set to `partition`.
        """
        holders = [other for other in self.partitions(table) if self.metadata(table, other).get("shared_key") == key]
        rows = self.read(table, holders[0]) if holders else compute()
        names = [name for name in rows.schema.names if name != "experiment_id"]
        rows = rows.select(names).append_column("experiment_id", pa.array([partition] * rows.num_rows, pa.string()))
        return rows, holders[0] if holders else None

    def publish_database(self, path: Path, build: Callable[[Path], None]) -> None:
        """Build a database file aside with `build(temporary)` and swap it in whole; open readers keep the old one."""
        with _replacing(path, touch=False) as temporary:
            build(temporary)

    def sweep(self) -> list[Path]:
        """Delete what killed writers left behind; return the paths. A file that is being written is left alone."""
        swept = []
        for path in sorted(self.root.glob("*/**/*.writing")):
            with path.open("ab") as handle:
                # once the lock is ours, a name that leads to another file belongs to another writer
                if _lock(handle.fileno(), wait=False) and _is_at(handle.fileno(), path):
                    path.unlink()
                    swept.append(path)
        return swept


@contextmanager
def _replacing(path: Path, *, touch: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, held by this writer alone, and rename it over `path` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    guard = temporary if touch else path.with_name(f".{path.name}.building.writing")
    handle = _hold(guard)
    try:
        if not touch:
            temporary.unlink(missing_ok=True)
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if not touch:
            guard.unlink(missing_ok=True)
        os.close(handle)


def _hold(path: Path) -> int:
    """Open `path` under an exclusive lock that dies with the process; wait for another writer of the same file."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        _lock(handle, wait=True)
        # the holder before us may have renamed the file away: then this lock is on the published file, not on ours
        if _is_at(handle, path):
            return handle
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _lock(handle: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def shape(table: str, rows: pa.Table) -> pa.Table:
    """Return the rows as `Lake.write` stores them: declared columns and types, sorted by the declared key.

    Raises
    ------
    LakeError : when a declared column is missing or an undeclared one is there.
    """
    spec = _spec(table)
    declared = spec.schema.names
    missing = [name for name in declared if name not in rows.schema.names]
    extra = [name for name in rows.schema.names if name not in declared]
    if missing or (extra and not spec.open_ended):
        raise LakeError(f"{spec.name}: missing columns {missing}, unknown columns {extra}. The columns are {declared}.")
    columns = {name: rows[name].cast(spec.schema.field(name).type) for name in declared}
    columns |= {name: rows[name] for name in extra}
    return pa.table(columns).sort_by([(name, "ascending") for name in spec.key]).combine_chunks()


def _spec(table: str) -> TableSpec:
    if table not in TABLES:
        raise LakeError(f"{table!r} is no table of the lake. The tables are {', '.join(sorted(TABLES))}.")
    return TABLES[table]
