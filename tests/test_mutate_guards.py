"""The guards that are removed one at a time still stand where they are looked for."""

import ast
from pathlib import Path

import pytest
from mutate_guards import GUARDS, ROOT, Guard, remove


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_a_guard_stands_once_and_what_is_left_without_it_still_runs(guard: Guard) -> None:
    ast.parse(remove(guard, ROOT))


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_a_guard_names_tests_that_there_are(guard: Guard) -> None:
    words = guard.words.replace(" and ", " or ").split(" or ")
    source = (ROOT / "tests" / guard.tests).read_text(encoding="utf-8")
    assert all(word in source for word in words)


def test_a_guard_whose_text_has_changed_is_told(tmp_path: Path) -> None:
    guard = Guard("nothing", "some.py", "if False:", "", "test_payload.py", "flood")
    for source in ("", "if False:\n    pass\nif False:\n    pass\n"):
        (tmp_path / "some.py").write_text(source)
        with pytest.raises(ValueError, match=r"some\.py"):
            remove(guard, tmp_path)
