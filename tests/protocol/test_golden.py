"""Every message class against its checked-in row: fields, bytes, and both ways."""

from __future__ import annotations

from collections import Counter

import pytest

from protocol.base import Wire
from protocol.wire import pack, unpack
from tests.protocol import golden, regenerate_golden
from tests.protocol.samples import SAMPLES

ROWS = golden.read_rows()
CARRIED = {"UnknownItem", "UnknownEntry", "UnknownSegment"}
"""Their samples show fields of a newer writer as well."""

every_sample = pytest.mark.parametrize(
    "sample", SAMPLES, ids=[golden.name_of(type(sample)) for sample in SAMPLES]
)


def test_every_message_class_has_one_sample_and_one_row() -> None:
    sampled = Counter(golden.name_of(type(sample)) for sample in SAMPLES)
    assert set(sampled) == set(golden.message_classes())
    assert set(sampled.values()) == {1}
    assert set(ROWS) == set(sampled), "write the golden files again"


def test_every_class_that_has_a_name_on_the_wire_is_a_message_class() -> None:
    for table in golden.CLASSES_BY_NAME:
        for cls in table.values():
            assert golden.name_of(cls) in golden.message_classes()


@every_sample
def test_fields_are_those_that_were_agreed(sample: Wire) -> None:
    fields, required = golden.fields_of(type(sample))
    row = ROWS[golden.name_of(type(sample))]
    assert fields == row["fields"]
    assert required == row["required"]


@every_sample
def test_sample_becomes_the_agreed_bytes_and_comes_back(sample: Wire) -> None:
    agreed = bytes.fromhex(ROWS[golden.name_of(type(sample))]["bytes"])
    assert pack(sample) == agreed
    assert type(sample).from_wire(unpack(agreed)) == sample


@every_sample
def test_sample_shows_every_field(sample: Wire) -> None:
    """`omitted` stands only where a body was too large; log events show it for all."""
    shown = set(sample.to_wire()) | {"omitted"}
    fields, _ = golden.fields_of(type(sample))
    assert shown >= set(fields)
    assert shown - {"omitted"} == set(fields) - {"omitted"} or type(sample).__name__ in CARRIED


@every_sample
def test_field_of_a_newer_writer_is_ignored(sample: Wire) -> None:
    read = type(sample).from_wire(sample.to_wire() | {"a_newer_field": [1]})
    assert read == sample or type(sample).__name__ in CARRIED


def test_golden_files_are_as_the_script_writes_them() -> None:
    for name, text in golden.render().items():
        assert (golden.FOLDER / name).read_text() == text, name


def test_script_refuses_to_write_what_nobody_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.read_versions() == golden.versions_now()
    assert regenerate_golden.main() == 1
    assert "raise REVISION" in capsys.readouterr().err
