"""What docs/reliability.md promises is what tests are marked with, file by file."""

import ast
import re
from pathlib import Path

from promises import PAGE, ROW, named

TESTS = Path(__file__).parent


def test_each_promise_is_kept_by_the_tests_that_stand_beside_it():
    kept = {}
    for path in TESTS.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.reliability":
                kept.setdefault(node.args[0].value, set()).add(path.name)
    rows = list(ROW.finditer(PAGE.read_text(encoding="utf-8")))
    promised = {row["promise"]: set(re.findall(r"`(test_\w+\.py)`", row["tests"])) for row in rows}
    assert promised == kept and len(kept) > 15
    assert named().keys() == kept.keys() and min(named().values()) > 0
