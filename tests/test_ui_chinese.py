"""The Chinese page is Chinese: also where it says why a row or a file can't be used."""

import ast
import re
from pathlib import Path

import pytest

import kto_workbench
from kto_workbench import load_feedback
from kto_workbench.errors import WorkbenchError
from kto_workbench.ui import html, words

# Which argument of these calls is what people read.
SAY = {
    "RowProblem": 1,
    "ImageProblem": 0,
    "BadRow": 1,
    "UnclearLabel": 0,
    "DataError": 0,
    "UnknownColumns": 0,
    "ModelError": 0,
    "WorkbenchError": 0,
    "RunError": 0,
    "ConfigError": 0,
}
# Handed on: said where they come from.
UNTOLD = {
    "record.reason",
    "f'{field}: {problem}'",
    "sight.blind if sight else 'This model reads no images.'",
    "f'{self.blind[0].upper()}{self.blind[1:]}.'",
    "str(error)",
    "_nothing_usable(opened.name, opened.unit, collected)",
    "event['error']",
    "_first_sentence(error)",
    "unknown_option(name)",
    "found",
    "found.reason[0].upper() + found.reason[1:] + '.'",
    "too_many(here, there_are)",
    "too_many(config.processes, gpus)",
    "refusal",
}
# What these return is a sentence.
TELLERS = {"_nothing_usable", "too_many", "disk_refusal"}
# Said in a shell alone.
IN_A_SHELL = {"Judge `endpoint` needs a name, `endpoint:NAME`, or an address, --judge-url URL."}
NAMED = "`[^`]*`|'[^']*'|\\[[^\\]]*\\]|[\\w.]+(?:_[\\w.]+)+"


def text_of(node, assigned, first):
    """What an expression of feedback/ says, 7 in its places; its conditions all hold (`first`), or none does."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.IfExp):
        return text_of(node.body if first else node.orelse, assigned, first)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, assigned, first) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        text = text_of(node.value, assigned, first)
        return f"'{text}'" if node.conversion == ord("r") else text
    if isinstance(node, ast.Name) and node.id in assigned:
        return text_of(assigned[node.id], {}, first)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.JoinedStr):
        return text_of(node.value, assigned, first)
    return "7"


def left_in_english(told):
    """Three English words or more in a row, names left out."""
    return re.findall(r"[A-Za-z']+(?: [A-Za-z']+){2,}", re.sub(NAMED, "", told))


def said_by(path, say=SAY):
    """What a file says about what can't be used, with the line where it does."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned = {
            node.targets[0].id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.JoinedStr | ast.IfExp)
        }
        for node in ast.walk(function):
            said = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in say:
                said = node.args[say[node.func.id]]
            elif isinstance(node, ast.Return) and function.name in TELLERS and ast.unparse(node.value) != "''":
                said = node.value
            if said is not None and ast.unparse(said) not in UNTOLD:
                for first in (True, False):
                    yield f"{path.name}:{node.lineno}", text_of(said, assigned, first)


PACKAGE = Path(kto_workbench.__file__).parent
SAID = sorted({said for path in (PACKAGE / "feedback").glob("*.py") for said in said_by(path)})
ROOMS = ("runs", "judging", "engine", "answers")
SENTENCES = sorted(
    {said for room in ROOMS for path in (PACKAGE / room).glob("*.py") for said in said_by(path)}
    | set(said_by(PACKAGE / "config.py"))
    | set(said_by(PACKAGE / "files.py"))
    | {
        (where, text[0].upper() + text[1:] + ".")  # as the config makes a sentence of it
        for where, text in said_by(PACKAGE / "config.py", {"ValueError": 0})
    }
)


def test_everything_that_feedback_says_is_found():
    assert len({where for where, _ in SAID}) > 70
    assert ("messages.py", "7 is missing") in {(where.split(":")[0], text) for where, text in SAID}


@pytest.mark.parametrize(("where", "text"), SAID, ids=[where for where, _ in SAID])
def test_every_reason_is_told_in_chinese(where, text):
    told = words.retell("zh", text)
    assert re.search("[\u4e00-\u9fff]", told), f"{where} says {text!r}: put it into REASONS_ZH in ui/chinese.py"
    assert not left_in_english(told), (text, told)
    assert words.retell("en", text) == text


def test_everything_that_the_other_rooms_say_is_found():
    assert len({where for where, _ in SENTENCES}) > 80
    assert any(text.startswith("Option `start_adapter` needs") for _, text in SENTENCES)


@pytest.mark.parametrize(("where", "text"), SENTENCES, ids=[where for where, _ in SENTENCES])
def test_every_error_is_told_in_chinese(where, text):
    told = words.retell("zh", text)
    assert text in IN_A_SHELL or re.search("[\u4e00-\u9fff]", told), f"{where} says {text!r}: put it into ui/chinese.py"
    assert text in IN_A_SHELL or not left_in_english(told), (text, told)


def test_no_reason_is_told_that_nobody_says():
    said = [text for path in PACKAGE.rglob("*.py") for _, text in said_by(path)]
    for pattern in words.REASONS_ZH:
        assert any(re.fullmatch(pattern, text, re.DOTALL) for text in said), f"nobody says {pattern}"


def test_skipped_rows_are_listed_in_chinese(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"prompt": "Hi", "completion": "Hello", "label": true}\n'
        '{"prompt": "Hi", "completion": "Bye", "label": "<b>perhaps</b>"}\n'
        '{"prompt": "Hi", "label": false}\n'
        '{"prompt": "Hi", "completion": \n'
        "[1]\n"
    )
    drawn = html.problems("zh", load_feedback(str(file)).problems)
    assert "label 的取值 &#x27;&lt;b&gt;perhaps&lt;/b&gt;&#x27; 既不是点赞也不是点踩" in drawn
    assert "缺少 completion" in drawn
    assert "该行不是有效的 JSON（第 32 列：此处应有值）" in drawn
    assert "该行是列表，而不是 JSON 对象" in drawn


def test_a_file_without_a_usable_row_says_so_in_chinese(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Hi", "completion": "Hello", "label": "perhaps"}\n')
    with pytest.raises(WorkbenchError) as error:
        load_feedback(str(file))
    assert words.retell("zh", error.value).endswith(
        "：唯一的一行无法使用；第 1 行：label 的取值 'perhaps' 既不是点赞也不是点踩。"
    )
