"""The built-in policy, driven over HTTP by the smallest agents there can be: what they do decides."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import runpy
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from manyhands.testing.simulated import SimulatedProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

JSON = dict[str, Any]
EXAMPLES = Path(__file__).parents[2] / "examples"
MANAGED = """You are 'helper', and your manager gives you this task:
---
{task}
---
Put everything into three parts:
### 1. Task outcome (short version):
### 2. Task outcome (extremely detailed version):
### 3. Additional context (if relevant):"""


class Done(BaseException):
    """Carries the final answer out of the code."""


class Client:
    """Runs agents against one provider."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def say(self, messages: list[JSON], **fields: Any) -> JSON:
        body = {"model": "simulated", "messages": messages, **fields}
        async with self.session.post(self.url, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
        message: JSON = answer["choices"][0]["message"]
        return message

    async def chat(self, text: str, **fields: Any) -> str:
        content: str = (await self.say([{"role": "user", "content": text}], **fields))["content"]
        return content

    async def write_code(
        self, task: str, *tools: Callable[..., Any], opening: str = "<code>", closing: str = "</code>"
    ) -> Any:
        """Run a code agent to its final answer."""
        run = CodeRun(tools, opening, closing)
        messages = [
            {"role": "system", "content": run.system_prompt},
            {"role": "user", "content": f"New task:\n{task}"},
        ]
        # As agents do: a closing tag that is part of the opening one cannot be a stop sequence.
        stop = ["Observation:"] if closing in opening else ["Observation:", closing]
        for _ in range(6):
            text = (await self.say(messages, stop=stop))["content"]
            seen = run.step(text.partition(f"{opening}\n")[2].partition(closing)[0])
            if run.answers:
                return run.answers[0]
            messages.append({"role": "assistant", "content": text + closing})
            messages.append({"role": "user", "content": seen})
        raise AssertionError(messages)

    async def call_tools(self, task: str, *tools: Callable[..., Any], rounds: list[int] | None = None) -> Any:
        """Run a tool-calling agent to its final answer."""
        by_name = {tool.__name__: tool for tool in tools}
        messages: list[JSON] = [{"role": "user", "content": f"New task:\n{task}"}]
        definitions = [definition(tool) for tool in (*tools, final_answer)]
        for _ in range(6):
            said = await self.say(messages, tools=definitions, tool_choice="required")
            messages.append(said)
            if rounds is not None:
                rounds.append(len(said["tool_calls"]))
            for call in said["tool_calls"]:
                arguments = json.loads(call["function"]["arguments"])
                if call["function"]["name"] == "final_answer":
                    return arguments["answer"]
                result = called(by_name[call["function"]["name"]], arguments)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        raise AssertionError(messages)


class CodeRun:
    """Executes the code of one run; plain ``exec`` is enough for code that we wrote ourselves."""

    def __init__(self, tools: tuple[Callable[..., Any], ...], opening: str, closing: str) -> None:
        self.answers: list[Any] = []
        self.names: JSON = {tool.__name__: tool for tool in tools} | {"final_answer": self.answer}
        signatures = "\n".join(signature(tool) for tool in tools)
        self.system_prompt = (
            f"You write code between\n'{opening}' and '{closing}'.\nTools:\n{signatures}\nBegin!"
        )

    def answer(self, value: Any) -> None:
        self.answers.append(value)
        raise Done

    def step(self, code: str) -> str:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, self.names)
        except Done:
            pass
        except Exception as error:
            return f"Error:\n{type(error).__name__}: {error}\nNow let's retry."
        return f"Observation:\nExecution logs:\n{printed.getvalue()}\nLast output from code snippet:\nNone"


def signature(tool: Callable[..., Any]) -> str:
    kinds = ", ".join(f"{name}: {kind}" for name, kind in tool.__annotations__.items() if name != "return")
    head = f"  def {tool.__name__}({kinds}) -> {tool.__annotations__['return']}:"
    return f'{head}\n      """{tool.__doc__}\n      """'


def definition(tool: Callable[..., Any]) -> JSON:
    kinds = {"str": "string", "int": "integer", "float": "number"}
    properties = {
        name: {"type": kinds[kind]} for name, kind in tool.__annotations__.items() if name != "return"
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": tool.__name__, "description": tool.__doc__, "parameters": schema}
    return {"type": "function", "function": function}


def called(tool: Callable[..., Any], arguments: JSON) -> str:
    try:
        return str(tool(**arguments))
    except Exception as error:
        return f"Error:\n{error}"


def final_answer(answer: str) -> str:
    """Give the final answer."""
    return answer


def python_interpreter(code: str) -> str:
    """Run Python code."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    return f"Stdout:\n{printed.getvalue()}\nOutput: None"


PEOPLE = {"France": 64_756_584, "Norway": 5_474_360, "Peru": 34_352_719}


def population_of(country: str) -> int:
    """Look up how many people live in a country."""
    return PEOPLE[country]


def capital_of(country: str) -> str:
    """Look up the capital of a country."""
    return {"France": "Paris", "Norway": "Oslo", "Peru": "Lima"}[country]


def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Rain in {city}"


def human_approval(action: str) -> str:
    """Ask a person whether an action may be done."""
    return f"approved: {action}"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@asynccontextmanager
async def solving(**settings: Any) -> AsyncIterator[Client]:
    async with SimulatedProvider(**settings) as provider, aiohttp.ClientSession() as session:
        yield Client(f"{provider.base_url}/chat/completions", session)


COMPUTED = [
    ("What is 2 + 2?", 4),
    ("Calculate 10 * 5", 50),
    ("What is 100 / 4?", 25.0),
    ("What is 17 * 23 + 4?", 395),
    ("What is (3 + 4) * (2 - 9)?", -49),
    ("Please compute -3 * 4.", -12),
    ("What is 1,000 + 2,500?", 3500),
    ("What is 7 times 8 minus 6?", 50),
    ("What is 2^10?", 1024),
    ("What is 12 squared plus 1?", 145),
    ("What is 15% of 80?", 12.0),
    ("Sum the squares of the numbers from 1 to 40", 22140),
    ("What is the sum of all even numbers from 1 to 10?", 30),
    ("What is the product of the integers from 1 to 6?", 720),
    ("How many primes are there below 100?", 25),
    ("List the prime numbers up to 11", [2, 3, 5, 7, 11]),
    ("What is the largest prime below 100?", 97),
    ("What is the 10th prime number?", 29),
    ("Is 91 prime?", "no"),
    ("What is the 10th Fibonacci number?", 55),
    ("How many numbers from 1 to 100 are divisible by 3 and 5?", 6),
    ("What is the gcd of 48 and 36?", 12),
    ("What is the factorial of 6?", 720),
    ("What is the square root of 144?", 12.0),
    ("What is the sum of the digits of 2**15?", 26),
    ("What is the average of 3, 4 and 8?", 5.0),
    ("Sort 5, 3, 9", [3, 5, 9]),
    ("Convert 100 degrees Celsius to Fahrenheit", 212.0),
    ('How many words are in the sentence "the quick brown fox"?', 4),
    ("Count the words in: many hands make light work", 5),
    ("How many times does the letter 'r' appear in 'strawberry'?", 3),
    ("How many r's are in strawberry?", 3),
    ('How many vowels are in "manyhands"?', 2),
    ("How many letters are in 'manyhands'?", 9),
    ("Reverse the word 'hands'", "sdnah"),
    ("What is the longest word in 'many hands make'?", "hands"),
]


@pytest.mark.parametrize(("task", "expected"), COMPUTED)
async def test_a_code_agent_computes_what_is_asked(task: str, expected: Any) -> None:
    async with solving() as client:
        assert await client.write_code(task) == expected


@pytest.mark.parametrize(("task", "expected"), COMPUTED)
async def test_a_tool_agent_computes_with_the_interpreter(task: str, expected: Any) -> None:
    async with solving() as client:
        assert await client.call_tools(task, python_interpreter) == expected


LOOKED_UP = [
    ("What is the capital of Norway?", "Oslo"),
    ("What's the capital of France", "Paris"),
    ("How many people live in Peru?", 34_352_719),
    ("What are the capitals of Norway, France and Peru?", "Oslo and Paris and Lima"),
    ("How many more people live in France than in Norway?", 59_282_224),
    ("How many people live in France and Norway together?", 70_230_944),
    ("Which country has more people, Norway or Peru?", "Peru"),
    ("What is the population of Peru divided by 2?", 17_176_359.5),
    ("How many letters are in the capital of Norway?", 4),
    ("What is the weather in Tokyo?", "Rain in Tokyo"),
]


@pytest.mark.parametrize(("task", "expected"), LOOKED_UP)
async def test_agents_look_up_what_they_cannot_know(task: str, expected: Any) -> None:
    tools = (population_of, capital_of, get_weather)
    async with solving() as client:
        assert await client.write_code(task, *tools) == expected
        assert await client.call_tools(task, python_interpreter, *tools) == expected


async def test_the_answer_is_what_the_tool_said_even_if_it_is_wrong() -> None:
    def capital_of(country: str) -> str:
        """Look up the capital of a country."""
        return f"the moon over {country}"

    async with solving() as client:
        assert await client.write_code("What is the capital of Norway?", capital_of) == "the moon over Norway"
        assert await client.call_tools("What is the capital of Norway?", capital_of) == "the moon over Norway"


async def test_two_look_ups_are_called_in_one_round() -> None:
    rounds: list[int] = []
    task = "How many more people live in France than in Norway?"
    async with solving() as client:
        await client.call_tools(task, python_interpreter, population_of, rounds=rounds)
    assert rounds == [2, 1, 1]


async def test_a_tool_for_one_operation_is_used_for_it() -> None:
    async with solving() as client:
        assert await client.call_tools("What is 20 + 22?", add) == 42


async def test_without_a_suitable_tool_agents_say_so() -> None:
    async with solving() as client:
        assert await client.call_tools("What is 2 + 2?") == "I have no tool to compute this."
        for agent in (client.write_code, client.call_tools):
            answer = await agent("What is the capital of Norway?", get_weather)
            assert answer == "I have no tool to look up the capital of Norway."


async def test_a_tool_that_fails_once_is_tried_again() -> None:
    calls = []

    def capital_of(country: str) -> str:
        """Look up the capital of a country."""
        calls.append(country)
        if len(calls) % 2:
            raise ConnectionError("the line is down")
        return "Oslo"

    async with solving() as client:
        assert await client.write_code("What is the capital of Norway?", capital_of) == "Oslo"
        assert await client.call_tools("What is the capital of Norway?", capital_of) == "Oslo"
    assert len(calls) == 4


async def test_after_two_failures_agents_say_why_they_stop() -> None:
    async with solving() as client:
        for agent in (client.write_code, client.call_tools):
            answer = await agent("What is the capital of Atlantis?", capital_of)
            assert answer.startswith("I could not find the answer: ")
            assert "Atlantis" in answer


async def test_a_tool_named_in_the_task_is_called_with_what_the_task_gives() -> None:
    async with solving() as client:
        for agent in (client.write_code, client.call_tools):
            assert await agent("Call get_weather for 'Bergen'.", capital_of, get_weather) == "Rain in Bergen"
            assert await agent("Use `add` on 3 and 4", get_weather, add) == 7


async def test_a_tool_that_resembles_the_task_is_tried() -> None:
    task = "Delete important file with approval"
    async with solving() as client:
        for agent in (client.write_code, client.call_tools):
            assert await agent(task, get_weather, human_approval) == f"approved: {task}"


async def test_anything_else_gets_a_plausible_answer() -> None:
    async with solving() as client:
        for agent in (client.write_code, client.call_tools):
            assert await agent("Task 3") == "Done: Task 3"
            assert await agent("Hello!") == "Hello! How can I help you?"


@pytest.mark.parametrize(("opening", "closing"), [("```python", "```"), ("<py>", "</py>")])
async def test_code_comes_between_the_tags_that_the_prompt_names(opening: str, closing: str) -> None:
    async with solving() as client:
        assert await client.write_code("What is 6 * 7?", opening=opening, closing=closing) == 42


async def test_structured_output_holds_thought_and_code() -> None:
    schema = {"type": "object", "properties": {"thought": {"type": "string"}, "code": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "step", "schema": schema}}
    async with solving() as client:
        step = json.loads(await client.chat("New task:\nWhat is 6 * 7?", response_format=wanted))
    assert set(step) == {"thought", "code"}
    assert "6 * 7" in step["code"]


async def test_any_other_json_schema_is_filled_in() -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["spam", "ham"]},
            "score": {"type": "number"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        },
        "required": ["kind", "score", "tags", "note"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with solving() as client:
        answer = json.loads(await client.chat("Classify this.", response_format=wanted))
    assert answer == {"kind": "spam", "score": 1.0, "tags": ["something"], "note": None}


async def test_a_planning_request_gets_facts_and_steps() -> None:
    prompt = (
        "Write facts and a plan. After the last step write '<end_plan>' and stop.\n"
        "The task:\n```\nHow many more people live in France than in Norway?\n```"
    )
    async with solving() as client:
        plan = await client.chat(prompt)
        cut = await client.chat(prompt, stop=["<end_plan>"])
    assert plan == f"{cut}<end_plan>"
    assert "## 1. Facts survey" in plan
    assert "1. Look up the population of France.\n2. Look up the population of Norway.\n3. Compute" in plan


async def test_a_plan_in_the_conversation_does_not_stop_the_work() -> None:
    system = {"role": "system", "content": "You write code between '<code>' and '</code>'."}
    task = {"role": "user", "content": "New task:\nWhat is 6 * 7?"}
    plan = {"role": "assistant", "content": "1. Compute."}
    go_on = {"role": "user", "content": "Now go on and carry out this plan."}
    seen = {"role": "user", "content": "Observation:\nExecution logs:\n42\n"}
    async with solving() as client:
        assert "result = 6 * 7" in (await client.say([system, task, plan, go_on]))["content"]
        later = [system, task, {"role": "assistant", "content": "..."}, seen, plan, go_on]
        assert "final_answer(42)" in (await client.say(later))["content"]


async def test_a_manager_gets_a_report_in_its_parts() -> None:
    task = MANAGED.format(task="What is 17 * 23?")
    async with solving() as client:
        for report in (await client.write_code(task), await client.call_tools(task, python_interpreter)):
            assert report.startswith("### 1. Task outcome (short version):\n391\n### 2. ")
            assert "### 3. Additional context" in report


async def test_a_manager_gives_to_its_team_what_it_cannot_do_and_takes_the_outcome() -> None:
    given = []

    def researcher(task: str) -> str:
        """Find out things."""
        given.append(task)
        return f"Here is the final answer from your managed agent 'researcher':\n{report}"

    report = "### 1. Task outcome (short version):\nOslo\n### 2. Task outcome (long):\nIt is Oslo.\n"
    question = "What is the capital of Norway?"
    async with solving() as client:
        assert await client.write_code(question, researcher) == "Oslo"
        assert await client.call_tools(question, researcher) == "Oslo"
    assert given == [question, question]


async def test_at_the_last_step_the_best_known_value_is_given() -> None:
    before = {"role": "system", "content": "An agent ran out of steps. This is what it did:"}
    task = {"role": "user", "content": "New task:\nWhat is 6 * 7?"}
    seen = {
        "role": "user",
        "content": "Observation:\nExecution logs:\n42\nLast output from code snippet:\nNone",
    }
    failed = {"role": "user", "content": "Error:\nNameError: x"}
    ask = {"role": "user", "content": "From the above, provide an answer to this task:\nWhat is 6 * 7?"}
    step = {"role": "assistant", "content": "..."}
    async with solving() as client:
        assert (await client.say([before, task, step, seen, step, failed, ask]))["content"] == "42"
        assert "could not" in (await client.say([before, task, ask]))["content"]


async def test_a_conversation_goes_on_from_the_last_answer() -> None:
    system = {"role": "system", "content": "You write code between '<code>' and '</code>'."}
    first = {"role": "user", "content": "New task:\nWhat is 6 * 7?"}
    answered = {"role": "assistant", "content": "Thought: done.\n<code>\nfinal_answer(42)\n</code>"}
    async with solving() as client:

        async def then(task: str) -> str:
            messages = [system, first, answered, {"role": "user", "content": f"New task:\n{task}"}]
            content: str = (await client.say(messages))["content"]
            return content

        assert "result = 42 * 2" in await then("Multiply that by 2")
        assert "result = 42 + 5" in await then("Now add 5 to it.")
        assert "What is 6 * 7?" in await then("What was my first question?")


async def test_variables_given_with_the_task_are_used_by_name() -> None:
    task = "What is n * 3 + k?\nYou have been provided with these additional arguments:\n{'n': 5, 'k': 2}"
    system = {"role": "system", "content": "You write code between '<code>' and '</code>'."}
    async with solving() as client:
        said = await client.say([system, {"role": "user", "content": f"New task:\n{task}"}])
    assert "result = n * 3 + k" in said["content"]


async def test_flattened_tool_calls_are_understood() -> None:
    calls = [
        {"id": "1", "type": "function", "function": {"name": "capital_of", "arguments": {"country": name}}}
        for name in ("Norway", "France")
    ]
    messages = [
        {"role": "user", "content": "New task:\nWhat are the capitals of Norway and France?"},
        {"role": "assistant", "content": f"Calling tools:\n{calls}"},
        {"role": "user", "content": "Observation:\nOslo\nParis"},
    ]
    async with solving() as client:
        said = await client.say(messages, tools=[definition(capital_of), definition(final_answer)])
    [call] = said["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"answer": "Oslo and Paris"}


async def test_the_client_decides_whether_a_tool_is_called() -> None:
    question = [{"role": "user", "content": "What is the capital of Norway?"}]
    tools = [definition(get_weather), definition(capital_of)]
    forced = {"type": "function", "function": {"name": "get_weather"}}
    async with solving() as client:
        auto = await client.say(question, tools=tools)
        none = await client.say(question, tools=tools, tool_choice="none")
        named = await client.say(question, tools=tools, tool_choice=forced)
        required = await client.say([{"role": "user", "content": "Hm."}], tools=tools, tool_choice="required")
    assert auto["tool_calls"][0]["function"]["name"] == "capital_of"
    assert "tool_calls" not in none
    assert named["tool_calls"][0]["function"]["name"] == "get_weather"
    assert len(required["tool_calls"]) == 1


async def test_a_plain_chat_is_answered_in_words_without_results() -> None:
    async with solving() as client:
        assert await client.chat("Hello!") == "Hello! How can I help you?"
        assert len((await client.chat("Tell me a story")).split()) > 40
        assert "391" not in await client.chat("What is 17 * 23?")
        assert "You said: " in await client.chat("Lorem ipsum")


async def test_an_endless_task_is_read_in_no_time() -> None:
    long = "how many people live in " * 20_000 + "1 + " * 20_000
    async with solving() as client, asyncio.timeout(2):
        await client.chat(f"New task:\n{long}")
        await client.write_code(f"What is 1 + 1? {long}")


@pytest.fixture(scope="module")
def tables() -> JSON:
    sys.path.insert(0, str(EXAMPLES))
    try:
        return runpy.run_path(str(EXAMPLES / "make_tasks.py"))
    finally:
        sys.path.remove(str(EXAMPLES))


def read_tasks() -> list[JSON]:
    return [json.loads(line) for line in (EXAMPLES / "tasks.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_tasks_file_is_what_its_script_makes(tables: JSON) -> None:
    tasks = read_tasks()
    assert tables["make_tasks"]() == tasks
    assert len(tasks) >= 300
    assert len({task["task"] for task in tasks}) == len(tasks)


async def test_every_example_task_is_solved_by_both_kinds_of_agent(tables: JSON) -> None:
    countries, elements, planets = tables["COUNTRIES"], tables["ELEMENTS"], tables["PLANETS"]

    def capital_of(country: str) -> str:
        """Look up the capital of a country."""
        return str(countries[country][0])

    def population_of(country: str) -> int:
        """Look up how many people live in a country."""
        return int(countries[country][1])

    def continent_of(country: str) -> str:
        """Look up the continent of a country."""
        return str(countries[country][2])

    def currency_of(country: str) -> str:
        """Look up the currency of a country."""
        return str(countries[country][3])

    def element_symbol(element: str) -> str:
        """Look up the symbol of a chemical element."""
        return str(elements[element][0])

    def atomic_number(element: str) -> int:
        """Look up the atomic number of a chemical element."""
        return int(elements[element][1])

    def diameter_of(planet: str) -> int:
        """Look up the diameter of a planet."""
        return int(planets[planet])

    tools = (
        capital_of, population_of, continent_of, currency_of, element_symbol, atomic_number, diameter_of,
    )  # fmt: skip
    wrong = []
    async with solving() as client:
        for task in read_tasks():
            coded = await client.write_code(task["task"], *tools)
            called = await client.call_tools(task["task"], python_interpreter, *tools)
            if (coded, called) != (task["expected"], task["expected"]):
                wrong.append((task, coded, called))
    assert wrong == []
