"""What docs/reliability.md promises is what tests are marked with, file by file."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ROW = re.compile(r"^\| \*\*(.+?)\*\*.*?\|.*?\| (.+?) \|$", re.MULTILINE)


def test_each_promise_is_kept_by_the_tests_that_stand_beside_it():
    kept = {}
    for path in TESTS.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.reliability":
                kept.setdefault(node.args[0].value, set()).add(path.name)
    text = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    promised = {promise: set(re.findall(r"`(test_\w+\.py)`", tests)) for promise, tests in ROW.findall(text)}
    assert promised == kept and len(kept) > 15
