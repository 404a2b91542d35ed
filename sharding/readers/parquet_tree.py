"""The images in parquet files, seen as files of a source. A process keeps the row group that it read last."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msanet.errors import UserError
from sharding.readers.labels import need
from sharding.tree import FolderTree, Tree

_MARK = "//"
"""Between a file and a cell of it: no path of a source holds two slashes."""


def cell_name(file: str, row: int, column: str, ending: str) -> str:
    """The name of the image in a cell."""
    return f"{file}{_MARK}{row:08d}/{column}.{ending}"


@dataclass
class ParquetTree:
    """The tree `main`, and in it the cells of its parquet files by cell_name."""

    main: Tree
    _files: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _last: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False)

    # Open files stay behind when the tree goes to a worker process, which opens its own on first use.
    def __reduce__(self) -> tuple[type["ParquetTree"], tuple[Tree]]:
        return ParquetTree, (self.main,)

    def folders(self, name: str) -> list[str]:
        return self.main.folders(name)

    def files(self, name: str) -> list[str]:
        return self.main.files(name)

    def size(self, name: str) -> int:
        """Of a cell: its share of the file, since its own is not known before it is read."""
        file, mark, _ = name.partition(_MARK)
        return (
            self.main.size(file) // (2 * max(1, self._open(file).metadata.num_rows)) if mark else self.main.size(file)
        )

    def stamp(self, name: str) -> int:
        return self.main.stamp(name.partition(_MARK)[0])

    def read(self, name: str) -> bytes:
        file, mark, cell = name.partition(_MARK)
        if not mark:
            return self.main.read(file)
        row, column = int(cell.partition("/")[0]), cell.partition("/")[2].rpartition(".")[0]
        with self._reading(file):
            data = self._cell(file, row, column)
        if not isinstance(data, bytes):
            raise UserError(
                "MSA-PACK-753",
                f"'{self.show(name)}' has no bytes, expected an image in the file; export the dataset with its images embedded",
            )
        return data

    def below(self, name: str) -> "ParquetTree":
        return ParquetTree(self.main.below(name))

    def show(self, name: str) -> str:
        file, mark, cell = name.partition(_MARK)
        row, _, column = cell.partition("/")
        return f"{self.main.show(file)} (row {int(row)}, {column.rpartition('.')[0]})" if mark else self.main.show(file)

    def image_columns(self, file: str) -> list[str]:
        """Columns that can hold images: struct {bytes, path}, or bytes."""
        pyarrow = need("pyarrow", "pyarrow")
        with self._reading(file):
            schema = self._open(file).schema_arrow
        names = []
        for column in schema:
            kind = column.type
            if pyarrow.types.is_struct(kind):
                kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
            if kind is not None and (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
                names.append(column.name)
        return names

    def paths(self, file: str, column: str) -> list[str]:
        """The path of each row's image; "" where there is none."""
        with self._reading(file):
            opened = self._open(file)
            if f"{column}.path" not in [opened.schema.column(k).path for k in range(len(opened.schema))]:
                return [""] * opened.metadata.num_rows
            rows = opened.read(columns=[f"{column}.path"])[column].to_pylist()
        return [str((row or {}).get("path") or "") for row in rows]

    def is_filled(self, file: str, column: str) -> list[bool]:
        """Whether each row has something in that column."""
        with self._reading(file):
            opened = self._open(file)
            if all(self._nulls(opened, group, column) == 0 for group in range(opened.num_row_groups)):
                return [True] * opened.metadata.num_rows
            found = []
            for batch in opened.iter_batches(batch_size=64, columns=[column]):
                found += [_bytes(row) is not None for row in batch[column].to_pylist()]
        return found

    def first(self, file: str, column: str) -> bytes:
        """The bytes of the first image of a file that has some."""
        with self._reading(file):
            for batch in self._open(file).iter_batches(batch_size=1, columns=[column]):
                if data := _bytes(batch[column][0].as_py()):
                    return data
        return b""

    @staticmethod
    def _nulls(opened: Any, group: int, column: str) -> int | None:
        """Rows of a group without bytes; None where the file does not say."""
        metadata = opened.metadata.row_group(group)
        for k in range(metadata.num_columns):
            if metadata.column(k).path_in_schema in (f"{column}.bytes", column):
                statistics = metadata.column(k).statistics
                return statistics.null_count if statistics is not None and statistics.has_null_count else None
        return None

    def _cell(self, file: str, row: int, column: str) -> bytes | None:
        opened = self._open(file)
        group = first = 0
        while row >= first + opened.metadata.row_group(group).num_rows:
            first += opened.metadata.row_group(group).num_rows
            group += 1
        if self._last.get(column, ("", None))[0] != (file, group):
            self._last[column] = (file, group), opened.read_row_group(group, columns=[column], use_threads=False)
        return _bytes(self._last[column][1][column][row - first].as_py())

    def _open(self, file: str) -> Any:
        if file not in self._files:
            parquet = need("pyarrow.parquet", "pyarrow")
            is_path = isinstance(self.main, FolderTree)
            self._files[file] = parquet.ParquetFile(
                self.main.show(file) if is_path else io.BytesIO(self.main.read(file))
            )
        return self._files[file]

    @contextmanager
    def _reading(self, file: str) -> Iterator[None]:
        pyarrow = need("pyarrow", "pyarrow")
        try:
            yield
        except (pyarrow.ArrowException, OSError) as error:
            words = " ".join(str(error).split())[:120]
            raise UserError(
                "MSA-PACK-753",
                f"'{self.main.show(file)}' cannot be read ({words}), expected a parquet file; download or export it again",
            ) from error


def _bytes(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value
