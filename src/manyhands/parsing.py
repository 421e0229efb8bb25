"""From what a model wrote to the code it means: pure functions on text."""

from __future__ import annotations

import ast
import json
import re

from manyhands.errors import AgentParsingError

CODE_TAGS = ("<code>", "</code>")
MARKDOWN_TAGS = ("```(?:python|py)", "```")
_FENCE = re.compile(r"```(?:python|py)[^\n]*\n(.*?)```", re.DOTALL)


def extract_code(text: str, tags: tuple[str, str] = CODE_TAGS) -> str:
    """Return the code of a reply: all its blocks, joined.

    Looked for in this order: blocks between ``tags``, Markdown fences, and a reply that is Python
    from beginning to end.

    Args:
        text: The reply.
        tags: Opening and closing tag, as regular expressions.

    Raises:
        AgentParsingError: There is no code; the message shows how it should look.
    """
    opening, closing = tags
    blocks = re.findall(rf"{opening}(.*?){closing}", text, re.DOTALL) or _FENCE.findall(text)
    if blocks:
        return "\n\n".join(block.strip() for block in blocks)
    if _is_python(text):
        return text.strip()
    raise AgentParsingError(_no_code(text, tags))


def _is_python(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _no_code(text: str, tags: tuple[str, str]) -> str:
    opening, closing = (tag.replace("(?:python|py)", "python") for tag in tags)
    final = "final" in text.lower() and "answer" in text.lower()
    wanted = 'final_answer("YOUR FINAL ANSWER HERE")' if final else "# Your Python code here"
    meant = (
        "\nIt seems that you want to return the final answer; do it like this:"
        if final
        else "\nDo it like this:"
    )
    return (
        f"Your code snippet is invalid: no block of code between {opening} and {closing} was found in it.\n"
        f"Here is your code snippet:\n{text}{meant}\n"
        f"Thoughts: Your thoughts\n{opening}\n{wanted}\n{closing}"
    )


def extract_structured_code(text: str) -> str:
    """Return the code of a reply in the form ``{"thought": ..., "code": ...}``.

    Raises:
        AgentParsingError: The reply is not such an object.
    """
    start, end = text.find("{"), text.rfind("}")
    try:
        code = json.loads(text[start : end + 1], strict=False)["code"]
    except (ValueError, KeyError, TypeError) as error:
        raise AgentParsingError(
            f'The reply has to be one JSON object {{"thought": "...", "code": "..."}}; it was:\n{text}'
        ) from error
    found = re.search(rf"{CODE_TAGS[0]}(.*?){CODE_TAGS[1]}", code, re.DOTALL) or _FENCE.search(code)
    return str(found.group(1) if found else code).strip()


# Any use but a call: without one there is nothing to rename, and no need to parse.
_NOT_CALLED = re.compile(r"final_answer(?![ \t]*\()")


def rename_final_answer_variable(code: str) -> str:
    """Rename a variable called ``final_answer``, which models like to write, to keep the tool callable.

    Args:
        code: Python; returned unchanged if it does not parse or assigns no such variable.
    """
    if _NOT_CALLED.search(code) is None:
        return code
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "final_answer"]
    if not any(isinstance(name.ctx, ast.Store) for name in names):
        return code
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return _renamed(code, [name for name in names if id(name) not in called])


def _renamed(code: str, names: list[ast.Name]) -> str:
    # Offsets of the tree count UTF-8 bytes; from the end backwards they stay right while we insert.
    lines = [line.encode() for line in code.splitlines(keepends=True)]
    for name in sorted(names, key=lambda name: (name.lineno, name.col_offset), reverse=True):
        line = lines[name.lineno - 1]
        end = name.col_offset + len("final_answer")
        lines[name.lineno - 1] = line[:end] + b"_variable" + line[end:]
    return b"".join(lines).decode()
