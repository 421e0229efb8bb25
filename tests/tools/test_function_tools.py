"""Functions as tools: @tool, the objects it hands over, and the registry."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from manyhands.errors import AgentToolCallError, ToolDefinitionError, UnknownToolError
from manyhands.tools import (
    FunctionTool,
    Tool,
    register_tool,
    registered_tools,
    resolve_tools,
    tool,
    validate_tool_arguments,
)
from manyhands.tools.builtin import FinalAnswerTool


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Order(BaseModel):
    item: str
    size: Size = Size.SMALL


@tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.

    Returns:
        Their sum.
    """
    return a + b


@tool
async def place_order(order: Order, note: str | None = None) -> str:
    """Place an order.

    Args:
        order: What to order.
        note: For the kitchen.
    """
    await asyncio.sleep(0)
    return f"{type(order).__name__} {order.item} {order.size} {note}"


def plain(city: str) -> str:
    """Say hello to a city.

    Args:
        city: The city.
    """
    return f"hello {city}"


class TestDecorator:
    def test_function_becomes_a_tool_and_stays_callable(self) -> None:
        assert isinstance(add, Tool)
        assert add.name == "add"
        assert add.description == "Add two numbers."
        assert add.inputs["b"] == {"type": "integer", "description": "The second.", "default": 1}
        assert add.output_type == "integer"
        assert add(2) == 3
        assert add.fn(2, 2) == add.forward(2, 2) == 4

    def test_decorated_function_can_still_be_inspected(self) -> None:
        assert add.__name__ == "add"
        assert inspect.getdoc(add) == inspect.getdoc(add.fn)
        assert list(inspect.signature(add).parameters) == ["a", "b"]

    async def test_coroutine_function_becomes_an_async_tool(self) -> None:
        assert place_order.is_async
        assert await place_order.acall(Order(item="tea")) == "Order tea Size.SMALL None"

    def test_options_replace_name_description_and_output_schema(self) -> None:
        @tool(name="sum_up", description="Adds.", output_schema={"type": "integer"})
        def total(values: list[int]) -> int:
            """Not used.

            Args:
                values: The numbers.
            """
            return sum(values)

        assert (total.name, total.description) == ("sum_up", "Adds.")
        assert total.output_schema == {"type": "integer"}
        assert resolve_tools(["sum_up"])["sum_up"] is total

    def test_option_that_does_not_exist_is_an_error(self) -> None:
        with pytest.raises(ToolDefinitionError, match="no option 'descripton'; did you mean 'description'"):
            tool(descripton="x")  # type: ignore[call-overload]

    def test_function_without_source_becomes_a_tool(self) -> None:
        names: dict[str, Any] = {}
        exec(
            "def shout(text: str) -> str:\n"
            "    '''Shout.\n\n    Args:\n        text: What.\n    '''\n"
            "    return text.upper()\n",
            names,
        )
        assert FunctionTool(names["shout"])("a") == "A"

    def test_closures_and_bound_methods_become_tools(self) -> None:
        class Shop:
            prefix = "shop"

            def find(self, item: str) -> str:
                """Find an item.

                Args:
                    item: Its name.
                """
                return f"{self.prefix}:{item}"

        def make(prefix: str) -> FunctionTool:
            @tool
            async def find_more(item: str) -> str:
                """Find an item.

                Args:
                    item: Its name.
                """
                return f"{prefix}:{item}"

            return find_more

        assert resolve_tools([Shop().find])["find"]("tea") == "shop:tea"
        first, second = make("a"), make("b")
        assert (first("x"), second("x")) == ("a:x", "b:x")

    def test_wrapped_function_is_described_by_what_it_wraps(self) -> None:
        def twice(fn: Any) -> Any:
            @functools.wraps(fn)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return [fn(*args, **kwargs)] * 2

            return wrapper

        assert FunctionTool(twice(plain))("Bonn") == ["hello Bonn", "hello Bonn"]

    def test_lambda_is_refused(self) -> None:
        with pytest.raises(ToolDefinitionError, match="A lambda cannot be a tool"):
            tool(lambda x: x)

    def test_name_that_code_cannot_call_is_refused(self) -> None:
        with pytest.raises(ToolDefinitionError, match="'say hello' is not a Python identifier"):
            FunctionTool(plain, name="say hello")

    def test_mock_that_is_called_like_a_function_is_refused_with_a_remedy(self) -> None:
        with pytest.raises(ToolDefinitionError, match=r"has no name .*give `name=`"):
            FunctionTool(functools.partial(plain, city="Bonn"))

    def test_code_prompt_shows_keys_of_objects_and_defaults(self) -> None:
        assert place_order.to_code_prompt() == (
            "def place_order(order: dict, note: str | None = None) -> str:\n"
            '    """Place an order.\n'
            "\n"
            "    Args:\n"
            "        order: What to order. Keys: "
            "{'item': str, 'size': Literal['small', 'large'] (optional)}.\n"
            "        note: For the kitchen.\n"
            '    """'
        )
        assert "Returns:\n        Their sum." in add.to_code_prompt()


class TestArguments:
    async def test_checked_arguments_are_the_objects_of_the_hints(self) -> None:
        checked = place_order.check_arguments('{"order": {"item": "tea", "size": "large"}}')
        assert checked == {"order": Order(item="tea", size=Size.LARGE)}
        assert await place_order.acall(**checked) == "Order tea Size.LARGE None"

    async def test_plain_values_given_by_code_become_objects(self) -> None:
        expected = "Order tea Size.LARGE None"
        assert await place_order.acall({"item": "tea", "size": "large"}) == expected
        assert await place_order.acall(order={"item": "tea", "size": "large"}) == expected
        assert await place_order({"order": {"item": "tea", "size": "large"}}) == expected

    async def test_plain_values_that_cannot_be_such_objects_are_refused(self) -> None:
        with pytest.raises(
            AgentToolCallError, match=r"'order.size' is 'huge' \(a string\), which is refused"
        ):
            await place_order.acall({"item": "tea", "size": "huge"})

    def test_arguments_are_checked_under_the_other_name_too(self) -> None:
        assert validate_tool_arguments(add, {"a": 1.0}) == {"a": 1}
        with pytest.raises(AgentToolCallError, match="no argument 'c'"):
            validate_tool_arguments(add, {"a": 1, "c": 2})


class TestRegistry:
    def test_tools_are_found_in_the_order_given(self) -> None:
        final = FinalAnswerTool()
        register_tool(add)  # other tests have their own tool of this name
        found = resolve_tools([final, "add", place_order, plain])
        assert list(found) == ["final_answer", "add", "place_order", "plain"]
        assert found["final_answer"] is final
        assert found["add"] is add

    def test_nothing_resolves_to_nothing(self) -> None:
        assert resolve_tools(None) == resolve_tools([]) == {}

    def test_plain_function_is_converted_once(self) -> None:
        assert resolve_tools([plain])["plain"] is resolve_tools([plain])["plain"]

    def test_unknown_name_is_told_with_the_nearest(self) -> None:
        with pytest.raises(UnknownToolError, match="no tool named 'place_ordr'; did you mean 'place_order'?"):
            resolve_tools(["place_ordr"])
        with pytest.raises(KeyError):
            resolve_tools(["nothing_like_it_at_all"])

    def test_two_tools_of_one_name_are_told(self) -> None:
        class Other(Tool):
            name = "add"
            description = "Adds as well."
            inputs: dict[str, Any] = {}
            output_type = "any"

            def forward(self) -> None: ...

        with pytest.raises(ToolDefinitionError, match="named 'add': <FunctionTool add> and <Other add>"):
            resolve_tools([add, Other()])

    @pytest.mark.parametrize(
        ("item", "words"),
        [(FinalAnswerTool, r"FinalAnswerTool is a class; .* FinalAnswerTool\(\)"), (3, "3 cannot be a tool")],
    )
    def test_what_is_no_tool_is_refused(self, item: Any, words: str) -> None:
        with pytest.raises(ToolDefinitionError, match=words):
            resolve_tools([item])

    def test_single_text_is_not_taken_for_a_list(self) -> None:
        with pytest.raises(ToolDefinitionError, match=r"write tools=\['add'\]"):
            resolve_tools("add")

    def test_functions_and_tools_are_registered_under_any_name(self) -> None:
        first, second, third = names = ["alias_a", "alias_b", "alias_c"]
        assert register_tool(plain, first).name == first
        assert resolve_tools([first])[first]("Bonn") == "hello Bonn"
        renamed = register_tool(add, second)
        assert (renamed.name, add.name) == (second, "add")
        assert renamed.json_schema()["function"]["name"] == second
        register_tool(second, third)
        assert resolve_tools([third])[third](1) == 2
        assert set(names) <= set(registered_tools())

    def test_later_definition_replaces_the_earlier(self) -> None:
        register_tool(plain, "alias_d")
        register_tool(add, "alias_d")
        assert resolve_tools(["alias_d"])["alias_d"](1) == 2

    def test_ready_made_tools_are_known_by_name(self) -> None:
        names = ["final_answer", "python_interpreter", "user_input", "visit_webpage", "web_search"]
        found = resolve_tools([*names, "wikipedia_search"])
        assert list(found) == [*names, "wikipedia_search"]
        assert resolve_tools(["web_search"])["web_search"] is found["web_search"]

    def test_threads_may_register_and_resolve_at_once(self) -> None:
        failures: list[BaseException] = []

        def work(n: int) -> None:
            try:
                for m in range(50):
                    register_tool(plain, f"threaded_{n}_{m}")
                    resolve_tools([f"threaded_{n}_{m}", "add"])
                    registered_tools()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
