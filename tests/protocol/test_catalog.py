"""What is known of models: the shipped table, the operator's before it, and what is in neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.catalog import load_catalog
from protocol.errors import InvalidRequest
from protocol.manifest import Scheme


@pytest.mark.parametrize(
    ("scheme", "name", "window"),
    [
        (Scheme.ANTHROPIC, "claude-sonnet-4-5", 200_000),
        (Scheme.ANTHROPIC, "claude-sonnet-4-5-20250929", 200_000),
        (Scheme.ANTHROPIC, "claude-sonnet-4-6", 1_000_000),
        (Scheme.ANTHROPIC, "claude-opus-5-5", 1_000_000),
        (Scheme.OPENAI_CHAT, "gpt-5-mini", 400_000),
        (Scheme.OPENAI_RESPONSES, "gpt-5.5", 1_000_000),
        (Scheme.OPENAI_CHAT, "openai/gpt-4o", 128_000),
        (Scheme.GEMINI, "gemini-2.5-flash", 1_048_576),
    ],
)
def test_a_model_is_found_by_its_name(scheme: Scheme, name: str, window: int) -> None:
    known = load_catalog().find(scheme, name)
    assert known is not None
    assert known.context_window == window


def test_a_model_that_is_in_no_table_is_not_known() -> None:
    assert load_catalog().find(Scheme.OPENAI_CHAT, "qwen3-coder") is None
    assert load_catalog().find(Scheme.ANTHROPIC, "gpt-5") is None


def test_an_operators_table_goes_before_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text(
        '[[model]]\nmatch = "gpt-5*"\nschemes = ["openai_chat"]\ncontext_window = 7\n'
    )
    catalog = load_catalog(tmp_path)
    own = catalog.find(Scheme.OPENAI_CHAT, "gpt-5-mini")
    shipped = catalog.find(Scheme.OPENAI_RESPONSES, "gpt-5-mini")
    assert own is not None
    assert own.context_window == 7
    assert shipped is not None
    assert shipped.context_window == 400_000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[model]\n", "catalog.toml"),
        ('[[model]]\nmatch = "x"\nschemes = ["openai_chat"]\n', "context_window"),
        ('[[model]]\nmatch = "x"\nschemes = ["telepathy"]\ncontext_window = 1\n', "schemes"),
        ("[[models]]\n", "models"),
    ],
)
def test_a_table_that_is_no_good_is_named_with_what_is_wrong(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "catalog.toml").write_text(text)
    with pytest.raises(InvalidRequest, match=told):
        load_catalog(tmp_path)
