"""`log.jsonl`: one JSON object a line, and its repair after a kill."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import TextIO

from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.runtime.parsing import is_step, parse_json


class JsonLines:
    """Appends records to a file, each flushed as one line."""

    def __init__(self, path: PathLike):
        self.path = pathlib.Path(path)
        self._file: TextIO | None = None

    def write(self, record: Mapping) -> None:
        """Append one record. Raises OSError naming the file (a full disk); the record is given up then."""
        try:
            if self._file is None:
                self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.close()  # writes what is waiting, and fails by it
            raise OSError(error.errno, f"cannot write {self.path} ({error.strerror or error})") from error

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def read_log(path: PathLike) -> list[dict]:
    """The records of a log; lines that a kill left half-written are passed over. An absent file is an empty log."""
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and is_step(record.get("step")):
            records.append(record)
    return records


def cut_log(path: PathLike, keep: int | None = None) -> list[dict]:
    """Keep the log's first `keep` records (None: all); drop the rest and half-written lines. Returns what is kept."""
    path = pathlib.Path(path)
    kept = read_log(path)[:keep]
    if path.is_file():
        with atomic_path(path) as aside:
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    return kept
