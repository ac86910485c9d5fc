"""What `scenarios` exports is there, and is loaded when it is asked for."""

from __future__ import annotations

import pytest

import scenarios


@pytest.mark.parametrize("name", scenarios.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(scenarios, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        scenarios.nothing  # noqa: B018
