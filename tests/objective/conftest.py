from collections.abc import Iterator

import pytest
from exact import double


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield
