"""Functions read as JSON schemas, and the arguments of calls checked against them."""

from __future__ import annotations

import datetime
import enum
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from manyhands.errors import AgentToolCallError, ToolDefinitionError
from manyhands.schema import Parameter, Signature, describe_function, python_type


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    city: str
    zip: str = Field(pattern=r"^\d{5}$", default="00000")


class User(BaseModel):
    """Somebody."""

    name: str
    age: int
    addresses: list[Address] = []


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


@dataclass
class Point:
    x: float
    y: float = 0.0


class Movie(TypedDict):
    title: str
    year: int
    released: NotRequired[datetime.date]


def signature_of(fn: Any) -> Signature:
    return Signature(fn.__name__, describe_function(fn, name=fn.__name__).parameters)


def parameter_of(hint: Any, default: Any = ...) -> Parameter:
    """Return how an argument with this hint is described."""

    def fn(value: Any) -> None:
        """Do it.

        Args:
            value: What to take.
        """

    fn.__annotations__["value"] = hint
    if default is not ...:
        fn.__defaults__ = (default,)
    return describe_function(fn, name="fn").parameters[0]


def accepts(hint: Any, value: Any) -> Any:
    return Signature("fn", [parameter_of(hint)]).check({"value": value})["value"]


def refusal(hint: Any, value: Any) -> str:
    with pytest.raises(AgentToolCallError) as caught:
        accepts(hint, value)
    return str(caught.value)


class TestHintsToSchemas:
    @pytest.mark.parametrize(
        ("hint", "schema"),
        [
            (str, {"type": "string"}),
            (int, {"type": "integer"}),
            (float, {"type": "number"}),
            (bool, {"type": "boolean"}),
            (list, {"type": "array"}),
            (dict, {"type": "object"}),
            (Any, {"type": "any"}),
            (list[int], {"type": "array", "items": {"type": "integer"}}),
            (list[list[str]], {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}),
            (list[Any], {"type": "array"}),
            (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
            (Optional[int], {"type": "integer", "nullable": True}),  # noqa: UP045
            (str | None, {"type": "string", "nullable": True}),
            (int | str, {"type": ["integer", "string"]}),
            (Union[int, str, None], {"type": ["integer", "string"], "nullable": True}),  # noqa: UP007
            (list[int | None], {"type": "array", "items": {"type": ["integer", "null"]}}),
            (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
            (Literal[1, "b"], {"type": ["integer", "string"], "enum": [1, "b"]}),
            (
                int | list[int],
                {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
            ),
        ],
    )
    def test_plain_types_become_json_schema(self, hint: Any, schema: dict[str, Any]) -> None:
        described = dict(parameter_of(hint).schema)
        assert described.pop("description") == "What to take."
        if "anyOf" in schema:
            assert described.pop("type") == ["integer", "array"]
        assert described == schema

    def test_plain_types_do_without_pydantic(self) -> None:
        code = (
            "import sys\n"
            "from typing import Any, Literal, Optional\n"
            "from manyhands.tools.base import tool\n"
            "@tool\n"
            "def f(a: str, b: Optional[list[int]] = None, c: Literal['x'] = 'x', d: dict[str, Any] = {}):\n"
            "    '''Do it.\n\n    Args:\n        a: A.\n"
            "        b: B.\n        c: C.\n        d: D.\n    '''\n"
            "f.json_schema(); f.to_code_prompt(); f.check_arguments({'a': 'x', 'b': [1, 2.0]})\n"
            "print([name for name in ('pydantic', 'aiohttp', 'jinja2') if name in sys.modules])\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_enum_is_described_by_its_values(self) -> None:
        schema = parameter_of(Color).schema
        assert schema["type"] == "string"
        assert schema["enum"] == ["red", "blue"]

    def test_nested_models_are_put_in_place(self) -> None:
        schema = parameter_of(User).schema
        assert schema["type"] == "object"
        assert schema["required"] == ["name", "age"]
        address = schema["properties"]["addresses"]["items"]
        assert address["properties"]["city"] == {"type": "string"}
        assert "$ref" not in json.dumps(schema)
        assert "title" not in schema["properties"]["name"]

    def test_recursive_models_keep_a_definition_at_the_root(self) -> None:
        def fn(tree: Tree, trees: list[Tree]) -> None:
            """Do it.

            Args:
                tree: One.
                trees: Many.
            """

        whole = signature_of(fn).json_schema()
        text = json.dumps(whole)
        assert set(whole["$defs"]) == {"tree.Tree", "trees.Tree"}
        assert '"#/$defs/tree.Tree"' in text
        assert all("$defs" not in schema for schema in whole["properties"].values())

    def test_dataclass_typed_dict_date_and_tuple_are_described(self) -> None:
        assert set(parameter_of(Point).schema["properties"]) == {"x", "y"}
        assert set(parameter_of(Movie).schema["properties"]) == {"title", "year", "released"}
        assert parameter_of(Movie).schema["required"] == ["title", "year"]
        assert parameter_of(datetime.date).schema["format"] == "date"
        assert parameter_of(tuple[int, str]).schema["prefixItems"] == [
            {"type": "integer"},
            {"type": "string"},
        ]

    def test_class_that_no_json_stands_for_is_an_object(self) -> None:
        class Frame:
            pass

        frame = Frame()
        assert parameter_of(Frame).schema["type"] == "object"
        assert parameter_of(list[Frame]).schema["items"] == {"type": "object"}
        assert accepts(Frame, frame) is frame
        assert accepts(list[Frame], [frame]) == [frame]

    def test_picture_hint_is_an_image(self) -> None:
        image = pytest.importorskip("PIL.Image")
        assert parameter_of(image.Image).schema["type"] == "image"

    def test_defaults_are_told_and_make_an_argument_optional(self) -> None:
        assert parameter_of(int, 3).schema["default"] == 3
        assert parameter_of(Color, Color.RED).schema["default"] == "red"
        assert not parameter_of(int, 3).required
        assert parameter_of(str, None).schema["nullable"]
        assert "default" not in parameter_of(Any, object()).schema

    def test_optional_argument_without_default_may_be_left_out(self) -> None:
        parameter = parameter_of(int | None)
        assert not parameter.required
        assert Signature("fn", [parameter]).check({}) == {"value": None}

    def test_annotated_gives_description_and_bounds(self) -> None:
        def fn(
            city: Annotated[str, "The city."], days: Annotated[int, Field(ge=1, description="How long.")]
        ) -> None:
            """Do it."""

        city, days = describe_function(fn, name="fn").parameters
        assert city.schema == {"type": "string", "description": "The city."}
        assert days.schema["minimum"] == 1
        assert days.schema["description"] == "How long."

    def test_choices_in_the_docstring_become_an_enum(self) -> None:
        def fn(unit: str) -> None:
            """Do it.

            Args:
                unit: The unit (choices: ["c", "f"])
            """

        schema = describe_function(fn, name="fn").parameters[0].schema
        assert schema == {"type": "string", "description": "The unit", "enum": ["c", "f"]}

    def test_hints_written_as_text_are_looked_up_in_the_closure(self) -> None:
        def make() -> Any:
            class Kept(BaseModel):
                n: int

            def fn(value: Kept) -> Kept:
                """Do it.

                Args:
                    value: It.
                """
                return Kept(n=value.n)

            return fn

        schema = describe_function(make(), name="fn").parameters[0].schema
        assert schema["properties"] == {"n": {"type": "integer"}}

    def test_hints_are_looked_up_among_the_names_of_the_defining_function(self) -> None:
        class OnlyInHints(BaseModel):
            n: int

        def fn(value: list[OnlyInHints]) -> None:
            """Do it.

            Args:
                value: It.
            """

        items = describe_function(fn, name="fn").parameters[0].schema["items"]
        assert items["properties"] == {"n": {"type": "integer"}}

    def test_hint_that_cannot_be_resolved_names_the_argument(self) -> None:
        def fn(value: Any) -> None:
            """Do it.

            Args:
                value: It.
            """

        fn.__annotations__["value"] = "Nowhere"
        with pytest.raises(ToolDefinitionError, match=r"'Nowhere' of the argument 'value'.*TYPE_CHECKING"):
            describe_function(fn, name="fn")


class TestDefinitionErrors:
    def test_missing_hint_names_the_argument(self) -> None:
        def fn(city) -> None:  # type: ignore[no-untyped-def]
            """Do it.

            Args:
                city: The city.
            """

        with pytest.raises(ToolDefinitionError, match=r"argument 'city' of the tool 'fn' has no type hint"):
            describe_function(fn, name="fn")

    def test_missing_description_names_the_argument(self) -> None:
        def fn(city: str, days: int) -> None:
            """Do it.

            Args:
                city: The city.
            """

        with pytest.raises(ToolDefinitionError, match=r"argument 'days' of the tool 'fn' has no description"):
            describe_function(fn, name="fn")

    def test_description_of_an_argument_that_is_not_there_is_a_mistake(self) -> None:
        def fn(city: str) -> None:
            """Do it.

            Args:
                city: The city.
                citi: The city again.
            """

        with pytest.raises(
            ToolDefinitionError, match=r"'citi' that the function does not take; did you mean 'city'"
        ):
            describe_function(fn, name="fn")

    def test_missing_docstring_is_an_error(self) -> None:
        def fn() -> None: ...

        with pytest.raises(ToolDefinitionError, match="has no description"):
            describe_function(fn, name="fn")

    def test_unnamed_arguments_are_an_error(self) -> None:
        def many(*cities: str) -> None:
            """Do it."""

        def placed(city: str, /) -> None:
            """Do it.

            Args:
                city: The city.
            """

        with pytest.raises(ToolDefinitionError, match=r"takes `\*cities.*list them one by one"):
            describe_function(many, name="many")
        with pytest.raises(ToolDefinitionError, match="'city' of the tool 'placed' is positional-only"):
            describe_function(placed, name="placed")

    def test_choices_that_are_not_json_are_an_error(self) -> None:
        def fn(unit: str) -> None:
            """Do it.

            Args:
                unit: The unit (choices: [a, b])
            """

        with pytest.raises(ToolDefinitionError, match="choices of the argument 'unit'"):
            describe_function(fn, name="fn")


class TestDocstrings:
    def test_sections_are_told_apart(self) -> None:
        def fn(city: str, unit: str = "c") -> str:
            """Get the weather.

            It is asked from a server.

            Args:
                city (str): The city,
                    or its code: three letters.
                unit: The unit.

            Returns:
                A sentence
                about it.

            Raises:
                ValueError: Never.
            """
            return city + unit

        told = describe_function(fn, name="fn")
        assert told.description == "Get the weather.\n\nIt is asked from a server."
        assert [p.schema["description"] for p in told.parameters] == [
            "The city, or its code: three letters.",
            "The unit.",
        ]
        assert told.result.words == "A sentence about it."
        assert told.result.type == "string"

    def test_structured_results_are_described(self) -> None:
        def model() -> User:
            """Do it."""
            raise AssertionError

        def mapping() -> list[Movie]:
            """Do it."""
            raise AssertionError

        user = describe_function(model, name="model").result
        assert user.type == "object"
        assert user.schema is not None
        assert user.words.startswith("User with the attributes {'name': str")
        movies = describe_function(mapping, name="mapping").result
        assert movies.hint == "list[dict]"
        assert "keys {'title': str, 'year': int" in movies.words

    def test_result_that_cannot_be_told_is_anything(self) -> None:
        def fn():  # type: ignore[no-untyped-def]
            """Do it."""

        assert describe_function(fn, name="fn").result.type == "any"
        fn.__annotations__["return"] = "Nowhere"
        assert describe_function(fn, name="fn").result.type == "any"


class TestChecking:
    @pytest.mark.parametrize(
        ("hint", "value", "expected"),
        [
            (str, "x", "x"),
            (int, 3, 3),
            (int, 3.0, 3),
            (float, 3, 3),
            (float, 2.5, 2.5),
            (bool, False, False),
            (str | None, None, None),
            (int | str, "x", "x"),
            (list[int], [1, 2.0], [1, 2]),
            (dict[str, list[int]], {"a": [1.0]}, {"a": [1]}),
            (Literal["a", "b"], "b", "b"),
            (Any, {"a": 1}, {"a": 1}),
            (list[int] | None, None, None),
        ],
    )
    def test_values_that_json_makes_of_the_type_are_taken(self, hint: Any, value: Any, expected: Any) -> None:
        taken = accepts(hint, value)
        assert taken == expected
        assert type(taken) is type(expected)

    @pytest.mark.parametrize(
        ("hint", "value", "words"),
        [
            (int, "3", "'3' (a string), but must be an integer"),
            (int, 3.5, "3.5 (a number), but must be an integer"),
            (int, True, "true, but must be an integer"),
            (str, 3, "3 (an integer), but must be a string"),
            (bool, 1, "must be true or false"),
            (str, None, "null, but must be a string"),
            (list[int], [1, "2"], "'value[1]' is '2' (a string)"),
            (dict[str, int], {"a": "b"}, "'value.a' is 'b' (a string)"),
            (Literal["celsius", "kelvin"], "celcius", "one of 'celsius', 'kelvin'; did you mean 'celsius'?"),
            (int | list[int], "x", "must be an integer or a list (each item an integer)"),
            (list[str], "x", "must be a list"),
        ],
    )
    def test_other_values_are_refused_in_words(self, hint: Any, value: Any, words: str) -> None:
        text = refusal(hint, value)
        assert words in text
        assert text.startswith("Invalid call of the tool 'fn': argument 'value")

    def test_long_values_are_shown_short(self) -> None:
        assert len(refusal(int, "x" * 10_000)) < 300

    def test_models_enums_dataclasses_and_dates_are_given_as_objects(self) -> None:
        assert accepts(User, {"name": "Ann", "age": 3.0, "addresses": [{"city": "Bonn"}]}) == User(
            name="Ann", age=3, addresses=[Address(city="Bonn")]
        )
        assert accepts(Color, "red") is Color.RED
        assert accepts(Point, {"x": 1}) == Point(1.0)
        assert accepts(datetime.date, "2024-02-29") == datetime.date(2024, 2, 29)
        assert accepts(tuple[int, str], [1, "a"]) == (1, "a")
        released = datetime.date(1931, 5, 11)
        assert accepts(list[Movie], [{"title": "M", "year": 1931, "released": "1931-05-11"}]) == [
            {"title": "M", "year": 1931, "released": released}
        ]
        assert accepts(list[User] | None, None) is None
        assert accepts(dict[str, Color], {"a": "blue"}) == {"a": Color.BLUE}

    def test_objects_that_exist_already_are_taken(self) -> None:
        user = User(name="Ann", age=3)
        assert accepts(User, user) is user
        assert accepts(Color, Color.RED) is Color.RED

    def test_refusals_inside_models_name_the_place(self) -> None:
        assert "'value.age' is '3' (a string)" in refusal(User, {"name": "Ann", "age": "3"})
        assert "'value.age' is missing (an integer)" in refusal(User, {"name": "Ann"})
        nested = refusal(User, {"name": "Ann", "age": 3, "addresses": [{"city": "B", "zip": "1"}]})
        assert "'value.addresses[0].zip' is '1' (a string), but must be text that matches" in nested
        assert "'value.children[0].value' is missing" in refusal(Tree, {"value": 1, "children": [{}]})

    def test_what_only_pydantic_can_tell_is_refused_too(self) -> None:
        assert "'value' is '2024-02-30' (a string), which is refused" in refusal(datetime.date, "2024-02-30")

    def test_all_mistakes_are_named_at_once(self) -> None:
        def fn(city: str, days: int, unit: str = "c") -> None:
            """Do it.

            Args:
                city: A.
                days: B.
                unit: C.
            """

        with pytest.raises(AgentToolCallError) as caught:
            signature_of(fn).check({"citty": "Bonn", "days": "3"})
        text = str(caught.value)
        assert "there is no argument 'citty'; did you mean 'city'?" in text
        assert "argument 'days' is '3' (a string), but must be an integer" in text
        assert "argument 'city' is missing (a string)" in text
        assert text.endswith(
            "Its arguments are: city (a string), days (an integer), unit (a string; optional)."
        )

    def test_arguments_may_be_the_text_of_an_object(self) -> None:
        checked = Signature("fn", [parameter_of(str)])
        assert checked.check('{"value": "two\nlines"}') == {"value": "two\nlines"}
        assert Signature("fn", []).check("") == {}
        assert Signature("fn", []).check(None) == {}

    @pytest.mark.parametrize("given", ["{'value': 1}", "[1]", '"x"', "nonsense", [1], 3])
    def test_arguments_that_are_no_object_are_refused(self, given: Any) -> None:
        with pytest.raises(AgentToolCallError, match=r"not valid JSON|must be one JSON object"):
            Signature("fn", [parameter_of(str)]).check(given)

    def test_schemas_written_by_hand_are_checked_in_depth(self) -> None:
        schema = {
            "type": "object",
            "description": "It.",
            "properties": {
                "n": {"type": "integer", "minimum": 1, "maximum": 9},
                "s": {"type": "string", "minLength": 2},
                "kind": {"const": "a"},
                "pair": {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
                "one": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]},
            },
            "required": ["n"],
            "additionalProperties": False,
            "$defs": {"leaf": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        }
        signature = Signature("fn", [Parameter("value", schema)])

        def said(value: Any) -> str:
            with pytest.raises(AgentToolCallError) as caught:
                signature.check({"value": value})
            return str(caught.value)

        good = {"n": 9, "s": "ab", "kind": "a", "pair": [1, "b"], "one": {"x": 1}}
        assert signature.check({"value": good}) == {"value": good}
        assert "'value.n' is 0 (an integer), but must be at least 1" in said({"n": 0})
        assert "'value.s' is 'a' (a string), but must be at least 2 characters long" in said(
            {"n": 1, "s": "a"}
        )
        assert "'value.kind' is 'b' (a string), but must be 'a'" in said({"n": 1, "kind": "b"})
        assert "'value.pair[1]' is 2" in said({"n": 1, "pair": [1, 2]})
        assert "'value.m' is unknown" in said({"n": 1, "m": 2})
        assert "'value.n' is missing" in said({})
        assert "'value.one.x' is 'y'" in said({"n": 1, "one": {"x": "y"}})

    def test_pattern_of_another_dialect_is_left_to_the_tool(self) -> None:
        signature = Signature(
            "fn", [Parameter("value", {"type": "string", "description": "It.", "pattern": "[a-"})]
        )
        assert signature.check({"value": "x"}) == {"value": "x"}

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        )
    )
    def test_any_json_value_fits_or_is_refused_with_a_sentence(self, value: Any) -> None:
        hints = [
            str,
            int | None,
            list[int],
            dict[str, Any],
            Literal["a", 1],
            User,
            Tree | int,
            Color,
            list[Point],
        ]
        for hint in hints:
            try:
                accepts(hint, value)
            except AgentToolCallError as error:
                assert "argument 'value" in str(error)
            assert accepts(Any, value) == value


class TestSchemasAsPython:
    @pytest.mark.parametrize(
        ("hint", "shown"),
        [
            (str, "str"),
            (int | None, "int | None"),
            (list[float], "list[float]"),
            (dict[str, int], "dict[str, int]"),
            (Literal["a", "b"], "Literal['a', 'b']"),
            (int | list[str], "int | list[str]"),
            (Any, "Any"),
            (User, "dict"),
        ],
    )
    def test_schema_is_shown_as_a_hint(self, hint: Any, shown: str) -> None:
        assert python_type(parameter_of(hint).schema) == shown
