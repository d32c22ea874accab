"""The record store: round trip, schema, attempts, refusals."""

from __future__ import annotations

import errno
import struct
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from gengauge.benchmarks.core import store
from gengauge.benchmarks.core.records import SCHEMA, Record
from gengauge.benchmarks.core.store import DamagedPart, OlderCode, read_records, write_part

RECORD = Record(
    paper="toy", table="toys", row="plain", column="score", value=1.5, unit="1", low=1.0, high=2.0, interval="made up",
    samples=3, step=None, note="", experiment="good", seed=0, scale="quick", status="ok", reason="", data="world",
    device="cpu", threads=1, dtype="float32", seconds=2.5, peak_mebibytes=10.0, versions="{}", code="1", digest="d",
    time="2026-01-01T00:00:00Z",
)  # fmt: skip


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    other = replace(RECORD, value=None, low=None, high=None, samples=None, step=7, status="failed", reason="é\nx")
    write_part(tmp_path / "records", "a", [RECORD, other])
    frame = read_records(tmp_path)
    assert list(frame.columns) == [f.name for f in fields(Record)]
    for record in (RECORD, other):
        row = frame[frame["status"] == record.status].iloc[0]
        for name, value in vars(record).items():
            assert pd.isna(row[name]) if value is None else row[name] == value
    assert str(frame["samples"].dtype) == str(frame["step"].dtype) == "Int64"
    pd.testing.assert_frame_equal(read_records(tmp_path / "records"), frame)


def test_the_newest_attempt_of_a_job_counts(tmp_path: Path) -> None:
    old = replace(RECORD, status="failed", value=None, column="", time="2026-01-01T00:00:00Z", code="1", digest="d1")
    new = replace(RECORD, time="2026-01-02T00:00:00Z", code="2", digest="d2")
    elsewhere = replace(RECORD, device="cuda", value=9.0)
    for name, record in (("b", new), ("a", replace(old, code="2")), ("c", elsewhere)):
        write_part(tmp_path, name, [record])
    assert sorted(read_records(tmp_path)["value"]) == [1.5, 9.0]
    assert len(read_records(tmp_path, every_attempt=True)) == 3


def test_numbers_of_two_programs_are_not_mixed(tmp_path: Path) -> None:
    for seed in range(4):
        old = replace(
            RECORD, seed=seed, value=100.0 + seed, code="1", digest=f"o{seed}", time=f"2026-01-01T00:00:0{seed}Z"
        )
        write_part(tmp_path, f"z{seed}", [old])
    for seed in range(2):
        new = replace(
            RECORD, seed=seed, value=1.0 + seed, code="2", digest=f"n{seed}", time=f"2026-01-02T00:00:0{seed}Z"
        )
        write_part(tmp_path, f"a{seed}", [new])
    with pytest.warns(OlderCode, match="4 jobs by older code"):
        assert read_records(tmp_path)["value"].tolist() == [1.0, 2.0]
    assert len(read_records(tmp_path, every_attempt=True)) == 6


def test_an_empty_store_is_an_empty_frame_and_none_is_an_error(tmp_path: Path) -> None:
    frame = read_records(tmp_path)
    assert frame.empty
    assert list(frame.columns) == SCHEMA.names
    with pytest.raises(FileNotFoundError, match="no folder of records"):
        read_records(tmp_path / "none")


def test_a_newer_schema_asks_for_an_update(tmp_path: Path) -> None:
    path = write_part(tmp_path, "a", [RECORD])
    table = pq.read_table(path).replace_schema_metadata({"gengauge_schema": "99"})
    pq.write_table(table, path)
    with pytest.raises(ValueError, match="has schema 99"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("version", "lacking"), [("1", ["repetitions", "settings", "method"]), ("2", ["settings", "method"])]
)
def test_a_part_of_an_older_schema_is_read_as_without_what_it_lacks(
    tmp_path: Path, version: str, lacking: list[str]
) -> None:
    path = write_part(tmp_path, "a", [replace(RECORD, repetitions=(1.0, 2.0), settings="ab")])
    (told,) = read_records(path).to_dict("records")
    assert (told["repetitions"], told["settings"]) == ((1.0, 2.0), "ab")
    table = pq.read_table(path).drop_columns(lacking).replace_schema_metadata({"gengauge_schema": version})
    pq.write_table(table, tmp_path / "old.parquet")
    write_part(tmp_path, "b", [replace(RECORD, seed=1)])
    assert read_records(tmp_path)["settings"].tolist().count("") == 2
    (old,) = read_records(tmp_path / "old.parquet").to_dict("records")
    assert old["settings"] == ""
    assert old["repetitions"] == (() if version == "1" else (1.0, 2.0))


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"text"])
def test_a_damaged_part_is_set_aside_and_the_rest_is_read(tmp_path: Path, content: bytes) -> None:
    write_part(tmp_path, "good", [RECORD])
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.warns(DamagedPart, match=r"bad\.parquet is damaged and was set aside"):
        assert len(read_records(tmp_path)) == 1
    assert (tmp_path / "damaged" / "bad.parquet").read_bytes() == content
    assert len(read_records(tmp_path)) == 1


def test_a_part_of_other_columns_is_set_aside(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.warns(DamagedPart, match="not those of a record"):
        assert read_records(tmp_path).empty


def test_a_part_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="int"):
        write_part(tmp_path, "a", [replace(RECORD, seed="no number")])  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_in_a_value_is_noticed(tmp_path: Path) -> None:
    marker = 1234.56789
    path = write_part(tmp_path, "a", [replace(RECORD, value=marker)])
    content = bytearray(path.read_bytes())
    at = content.find(struct.pack("<d", marker))
    assert at > 0
    content[at + 3] ^= 0x10
    path.write_bytes(content)
    with pytest.warns(DamagedPart, match=r"a\.parquet"):
        assert read_records(tmp_path).empty


def test_an_error_of_the_system_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_part(tmp_path, "a", [RECORD])

    def no_more_files(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(store.pq, "read_table", no_more_files)
    with pytest.raises(OSError, match="Too many open files"):
        read_records(tmp_path)
    assert path.exists()
