from collections.abc import Iterator

import pytest
from exact import double
from tiny_runs import tiny

__all__ = ["in_double", "tiny"]


@pytest.fixture
def in_double() -> Iterator[None]:
    with double():
        yield
