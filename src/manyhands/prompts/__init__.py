"""Prompt templates: kept as YAML, written in Jinja2, checked and rendered here.

The template libraries are imported when the first prompt is made, not with the package.
"""

from __future__ import annotations

import copy
import functools
import pkgutil
from typing import TYPE_CHECKING, Any, TypedDict, cast

from manyhands.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Template


class PlanningPromptTemplate(TypedDict):
    """Templates for planning."""

    initial_plan: str
    update_plan_pre_messages: str
    update_plan_post_messages: str


class ManagedAgentPromptTemplate(TypedDict):
    """Templates for working as another agent's team member."""

    task: str
    report: str


class FinalAnswerPromptTemplate(TypedDict):
    """Templates for the answer after the last step."""

    pre_messages: str
    post_messages: str


class PromptTemplates(TypedDict):
    """All templates of an agent."""

    system_prompt: str
    planning: PlanningPromptTemplate
    managed_agent: ManagedAgentPromptTemplate
    final_answer: FinalAnswerPromptTemplate


EMPTY_PROMPT_TEMPLATES = PromptTemplates(
    system_prompt="",
    planning=PlanningPromptTemplate(
        initial_plan="", update_plan_pre_messages="", update_plan_post_messages=""
    ),
    managed_agent=ManagedAgentPromptTemplate(task="", report=""),
    final_answer=FinalAnswerPromptTemplate(pre_messages="", post_messages=""),
)


@functools.cache
def _load(name: str) -> PromptTemplates:
    import yaml  # type: ignore[import-untyped, unused-ignore]

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    merged: dict[str, Any] = {}
    for file in ("shared.yaml", f"{name}.yaml"):
        # Read by the import system, as code is: once per process, also from a zip.
        merged.update(yaml.load(pkgutil.get_data(__name__, file) or b"", Loader=loader))
    return cast("PromptTemplates", merged)


def load_templates(name: str) -> PromptTemplates:
    """Return the templates of one kind of agent, as a copy of the caller's own.

    Args:
        name: ``code_agent``, ``structured_code_agent`` or ``toolcalling_agent``.
    """
    return copy.deepcopy(_load(name))


def check_templates(templates: Mapping[str, Any]) -> None:
    """Check that ``templates`` has every key that an agent needs.

    Raises:
        TemplateError: Keys are missing; the message names them.
    """
    missing = [key for key in EMPTY_PROMPT_TEMPLATES if key not in templates]
    for key, inner in EMPTY_PROMPT_TEMPLATES.items():
        if isinstance(inner, dict) and key not in missing:
            missing += [f"{key}.{name}" for name in inner if name not in templates[key]]
    if missing:
        raise TemplateError(f"prompt_templates lacks {', '.join(missing)}.")


@functools.lru_cache(maxsize=256)
def _compile(template: str) -> Template:
    from jinja2 import Environment, StrictUndefined
    from jinja2.exceptions import TemplateSyntaxError

    environment = Environment(undefined=StrictUndefined, autoescape=False)
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        raise TemplateError(
            f"The prompt template is no valid Jinja2, line {error.lineno}: {error}."
        ) from error


def populate_template(template: str, variables: Mapping[str, Any]) -> str:
    """Render a template.

    Args:
        template: Jinja2 text; every variable it uses must be given.
        variables: Their values.

    Raises:
        TemplateError: The template is no valid Jinja2, or uses a variable that is not given.
    """
    from jinja2.exceptions import UndefinedError

    try:
        return _compile(template).render(**variables)
    except UndefinedError as error:
        raise TemplateError(
            f"Error during jinja template rendering: {error}. Given: {sorted(variables)}."
        ) from error
