"""Parquet tables, as Hugging Face distributes annotations (``pip install vidllm[parquet]``)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from vidllm.io.files import check_regular_file, naming


def read_parquet(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a table as objects; columns with bytes (pictures, videos) are left out and not read.

    Raises:
        ValueError: the file is missing or damaged, or pyarrow is not installed.
    """
    path = check_regular_file(path)
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise ValueError(f"{path}: reading it needs pyarrow: pip install vidllm[parquet]") from None
    with naming(path):
        table = parquet.ParquetFile(path)
        names = [field.name for field in table.schema_arrow if "binary" not in str(field.type)]
        rows: list[dict[str, Any]] = table.read(columns=names).to_pylist()
    return rows
