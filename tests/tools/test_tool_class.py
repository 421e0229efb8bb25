"""Tools written as classes: how they are checked, described and called."""

from __future__ import annotations

import asyncio
import copy
import threading
from typing import Any, ClassVar

import pytest

from manyhands.errors import ToolDefinitionError
from manyhands.tools import Tool, get_tool_json_schema


class Weather(Tool):
    name = "get_weather"
    description = "Tells the weather."
    inputs = {
        "city": {"type": "string", "description": "The city."},
        "days": {"type": "integer", "description": "How many days.", "nullable": True},
    }
    output_type = "string"

    def forward(self, city: str, days: int | None = None) -> str:
        return f"{city}:{days}:{threading.current_thread().name}"


class AsyncWeather(Tool):
    name = Weather.name
    description = Weather.description
    inputs = Weather.inputs
    output_type = "string"

    async def forward(self, city: str, days: int | None = None) -> str:
        await asyncio.sleep(0)
        return f"{city}:{days}"


def tool_class(**attributes: Any) -> type[Tool]:
    """Return a tool class that is right but for what is given."""

    def forward(self: Tool, city: str) -> str:
        return city

    right: dict[str, Any] = {
        "name": "get_weather",
        "description": "Tells the weather.",
        "inputs": {"city": {"type": "string", "description": "The city."}},
        "output_type": "string",
        "forward": forward,
    }
    return type(
        "Given", (Tool,), {key: value for key, value in (right | attributes).items() if value is not ...}
    )


class TestDefinition:
    @pytest.mark.parametrize(
        ("attributes", "words"),
        [
            ({"name": ...}, "has no `name`"),
            ({"name": 3}, "has 3 as its `name`"),
            ({"name": "get weather"}, "'get weather' is not a Python identifier"),
            ({"name": "class"}, "'class' is a reserved word"),
            ({"description": ...}, "has no `description`"),
            ({"output_type": ...}, "has no `output_type`"),
            (
                {"output_type": "str"},
                "result of the tool 'get_weather' has the type 'str'.*did you mean 'string'",
            ),
            ({"inputs": []}, r"must be a dict, not \[\]"),
            ({"inputs": {"city": "string"}}, "argument 'city' .* must be described by a dict"),
            ({"inputs": {"city": {"type": "string"}}}, "argument 'city' .* has no `description`"),
            ({"inputs": {"city": {"description": "x"}}}, "argument 'city' .* has no `type`"),
            (
                {"inputs": {"city": {"type": "text", "description": "x"}}},
                "argument 'city' .* has the type 'text'",
            ),
            ({"inputs": {"city": {"type": ["string", "text"], "description": "x"}}}, "has the type 'text'"),
            (
                {"inputs": {"city": {"type": "string", "description": "x", "nullable": True}}},
                "'city' .* is nullable in `inputs`, but `forward` requires it",
            ),
            ({"inputs": {}}, "takes an argument 'city' that `inputs` does not describe"),
            (
                {"inputs": {"citi": {"type": "string", "description": "x"}}},
                "argument 'city' that `inputs` does not describe; did you mean 'citi'",
            ),
            ({"forward": lambda self: ""}, "'city' .* is in `inputs`, but `forward` does not take it"),
            (
                {"forward": lambda self, city="": ""},
                "'city' .* may be left out of a call: set `'nullable': True`",
            ),
            ({"forward": ...}, "has no `forward`"),
        ],
    )
    def test_mistake_is_told_at_construction(self, attributes: dict[str, Any], words: str) -> None:
        with pytest.raises(ToolDefinitionError, match=words):
            tool_class(**attributes)()

    def test_optional_hint_counts_as_nullable(self) -> None:
        def forward(self: Tool, city: str | None) -> str:
            return str(city)

        inputs = {"city": {"type": "string", "description": "x", "nullable": True}}
        assert tool_class(forward=forward, inputs=inputs)()(None) == "None"

    def test_check_of_the_signature_can_be_skipped(self) -> None:
        class Loose(Tool):
            name = "loose"
            description = "Takes anything."
            inputs = {"a": {"type": "integer", "description": "x"}}
            output_type = "any"
            skip_forward_signature_validation = True

            def forward(self, *args: Any, **kwargs: Any) -> Any:
                return args, kwargs

        assert Loose()(a=1) == ((), {"a": 1})

    def test_attributes_may_be_set_by_init(self) -> None:
        class Named(Weather):
            def __init__(self, name: str) -> None:
                super().__init__()
                self.name = name

        class Further(Named):
            def __init__(self) -> None:
                super().__init__("further one")
                self.name = "further"

        assert Named("mine").name == "mine"
        assert Further().name == "further"
        with pytest.raises(ToolDefinitionError, match="not a Python identifier"):
            Named("not mine")

    def test_init_of_a_mixin_is_checked_as_well(self) -> None:
        class Mixin:
            def __init__(self) -> None:
                self.ready = True

        class Mixed(Mixin, Weather):
            name = "not good"

        with pytest.raises(ToolDefinitionError, match="not a Python identifier"):
            Mixed()

    def test_inputs_may_be_read_from_forward(self) -> None:
        class Short(Tool):
            name = "short"

            async def forward(self, city: str, days: int = 3) -> list[str]:
                """Tell the weather.

                Args:
                    city: The city.
                    days: How many days.

                Returns:
                    One line for each day.
                """
                return [city] * days

        short = Short()
        assert short.description == "Tell the weather."
        assert short.inputs["days"] == {"type": "integer", "description": "How many days.", "default": 3}
        assert short.output_type == "array"
        assert "-> list[str]" in short.to_code_prompt()
        assert short("a", 2) == ["a", "a"]

    def test_tools_can_be_copied(self) -> None:
        weather = Weather()
        weather.json_schema()
        twin = copy.deepcopy(weather)
        twin.name = "other"
        assert twin.json_schema()["function"]["name"] == "other"
        assert weather.json_schema()["function"]["name"] == "get_weather"


class TestDescription:
    def test_json_schema_has_openai_form_and_is_made_once(self) -> None:
        weather = Weather()
        assert weather.json_schema() == {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Tells the weather.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string", "description": "The city."},
                        "days": {"type": "integer", "description": "How many days.", "nullable": True},
                    },
                    "required": ["city"],
                },
            },
        }
        assert weather.json_schema() is get_tool_json_schema(weather)

    def test_types_that_json_does_not_know_are_sent_as_others(self) -> None:
        inputs = {
            "a": {"type": "any", "description": "x"},
            "b": {"type": "image", "description": "x"},
            "c": {"type": "array", "items": {"type": "any"}, "description": "x"},
        }
        loose = tool_class(inputs=inputs, skip_forward_signature_validation=True)()
        sent = loose.json_schema()["function"]["parameters"]["properties"]
        assert sent["a"]["type"] == "string"
        assert sent["b"]["type"] == "string"
        assert sent["c"]["items"] == {}
        assert loose.check_arguments({"a": 1, "b": object(), "c": [None]})["a"] == 1

    def test_changed_attribute_changes_what_models_see(self) -> None:
        weather = Weather()
        before = weather.json_schema(), weather.to_code_prompt()
        weather.description = "Tells another weather."
        weather.inputs = {**weather.inputs, "city": {"type": "string", "description": "The town."}}
        after = weather.json_schema(), weather.to_code_prompt()
        assert "another weather" in str(after[0])
        assert "The town." in after[1]
        assert before != after

    def test_code_prompt_is_a_python_function(self) -> None:
        expected = (
            "def get_weather(city: str, days: int | None = None) -> str:\n"
            '    """Tells the weather.\n'
            "\n"
            "    Args:\n"
            "        city: The city.\n"
            "        days: How many days.\n"
            '    """'
        )
        assert Weather().to_code_prompt() == expected
        assert AsyncWeather().to_code_prompt() == expected
        compile(expected + "\n    ...", "prompt", "exec")

    def test_output_schema_is_told_in_the_code_prompt(self) -> None:
        schema = {
            "type": "object",
            "properties": {"degrees": {"type": "number"}, "sky": {"type": "string"}},
            "required": ["degrees"],
        }
        prompt = tool_class(output_type="object", output_schema=schema)().to_code_prompt()
        assert "Returns:\n        dict with the keys {'degrees': float, 'sky': str (optional)}." in prompt

    def test_tool_calling_prompt_names_inputs_and_output(self) -> None:
        text = Weather().to_tool_calling_prompt()
        assert text.startswith("get_weather: Tells the weather.\n    Takes inputs: {'city'")
        assert text.endswith("Returns an output of type: string")


class TestCalling:
    def test_sync_tool_runs_in_the_thread_of_the_caller(self) -> None:
        here = threading.current_thread().name
        assert Weather()("Bonn") == f"Bonn:None:{here}"

    async def test_sync_tool_never_runs_on_the_loop_of_acall(self) -> None:
        city, _, thread = (await Weather().acall("Bonn")).split(":")
        assert city == "Bonn"
        assert thread.startswith("tool-get_weather")

    async def test_async_tool_is_awaited_by_acall(self) -> None:
        weather = AsyncWeather()
        assert weather.is_async
        assert not Weather().is_async
        assert await weather.acall("Bonn", days=2) == "Bonn:2"

    def test_async_tool_gives_its_result_to_sync_code(self) -> None:
        assert AsyncWeather()("Bonn") == "Bonn:None"

    async def test_async_tool_gives_an_awaitable_to_async_code(self) -> None:
        assert await AsyncWeather()("Bonn") == "Bonn:None"

    async def test_one_dict_of_inputs_is_unpacked(self) -> None:
        assert await AsyncWeather().acall({"city": "Bonn", "days": 2}) == "Bonn:2"
        assert Weather()({"city": "Bonn"}).startswith("Bonn:None")

    def test_dict_that_is_an_argument_stays_one(self) -> None:
        inputs = {"city": {"type": "object", "description": "x"}}
        echo = tool_class(inputs=inputs)()
        assert echo({"other": 1}) == {"other": 1}
        assert echo({}) == {}

    async def test_sync_forward_may_return_an_awaitable(self) -> None:
        async def later() -> str:
            return "later"

        echo = tool_class(forward=lambda self, city: later())()
        assert await echo.acall("x") == "later"
        assert await echo("x") == "later"

    def test_awaitable_of_a_sync_forward_is_awaited_for_sync_code(self) -> None:
        async def later() -> str:
            return "later"

        assert tool_class(forward=lambda self, city: later())()("x") == "later"

    async def test_thousand_calls_of_one_tool_do_not_mix(self) -> None:
        weather = AsyncWeather()
        answers = await asyncio.gather(*(weather.acall(str(n), days=n) for n in range(1000)))
        assert answers == [f"{n}:{n}" for n in range(1000)]


class TestSetup:
    async def test_setup_runs_once_before_the_first_call(self) -> None:
        class Slow(AsyncWeather):
            counted: ClassVar[list[str]] = []

            async def setup(self) -> None:
                self.counted.append("begin")
                await asyncio.sleep(0.01)
                self.counted.append("end")

        slow = Slow()
        assert not slow.is_initialized
        await asyncio.gather(*(slow.acall("x") for _ in range(100)))
        assert slow.counted == ["begin", "end"]
        assert slow.is_initialized

    async def test_sync_setup_runs_once_and_off_the_loop(self) -> None:
        class Slow(AsyncWeather):
            threads: ClassVar[list[str]] = []

            def setup(self) -> None:
                self.threads.append(threading.current_thread().name)

        slow = Slow()
        await asyncio.gather(*(slow.acall("x") for _ in range(100)))
        assert len(slow.threads) == 1
        assert slow.threads[0].startswith("tool-get_weather")

    def test_setup_runs_once_for_threads_with_loops_and_without(self) -> None:
        class Slow(Weather):
            def __init__(self) -> None:
                self.begun = 0
                self.gate = threading.Barrier(8)

            def setup(self) -> None:
                self.begun += 1

        slow = Slow()

        def call(n: int) -> None:
            slow.gate.wait()
            if n % 2:
                slow("x")
            else:
                asyncio.run(slow.acall("x"))

        threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert slow.begun == 1

    async def test_failed_setup_is_its_callers_error_and_the_next_call_tries_again(self) -> None:
        class Shaky(AsyncWeather):
            tries: ClassVar[list[int]] = []

            async def setup(self) -> None:
                self.tries.append(1)
                await asyncio.sleep(0)
                if len(self.tries) == 1:
                    raise ConnectionError("no server")

        shaky = Shaky()
        answers = await asyncio.gather(shaky.acall("x"), shaky.acall("x"), return_exceptions=True)
        assert isinstance(answers[0], ConnectionError)
        assert answers[1] == "x:None"

    async def test_cancelled_setup_leaves_it_to_those_who_wait(self) -> None:
        started = asyncio.Event()
        release = asyncio.Event()

        class Slow(AsyncWeather):
            async def setup(self) -> None:
                started.set()
                await release.wait()

        slow = Slow()
        first = asyncio.create_task(slow.acall("x"))
        await started.wait()
        second = asyncio.create_task(slow.acall("y"))
        third = asyncio.create_task(slow.acall("z"))
        await asyncio.sleep(0)
        third.cancel()
        first.cancel()
        release.set()
        assert await second == "y:None"
        assert (await asyncio.gather(first, third, return_exceptions=True))[
            0
        ].__class__ is asyncio.CancelledError

    def test_async_setup_of_a_sync_tool_is_done_for_sync_code(self) -> None:
        class Slow(Weather):
            async def setup(self) -> None:
                self.client = "client"

            def forward(self, city: str, days: int | None = None) -> str:
                return self.client

        assert Slow()("x") == "client"
