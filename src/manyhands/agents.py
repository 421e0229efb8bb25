"""The agents: frozen descriptions of who works, with what, and how.

An agent holds no state of a run, so that one object serves any number of runs at once, on any number
of loops and threads. What is costly (templates, prompts, an executor to copy from) is made when the
first run needs it and shared by all later ones.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from manyhands._bridge import iterate_sync, run_sync
from manyhands.acting.code import CodeActing
from manyhands.acting.tools import ToolActing
from manyhands.approvals import as_policy
from manyhands.callbacks import CallbackRegistry
from manyhands.errors import CallerError, check_count, check_seconds
from manyhands.executors.base import as_executor, check_executor_kind, make_executor
from manyhands.loop import drive, provide_final_answer, take_step
from manyhands.memory import AgentMemory
from manyhands.models.base import check_model, choose_model
from manyhands.parsing import CODE_TAGS, MARKDOWN_TAGS
from manyhands.plugins import accept_plugins
from manyhands.prompts import PromptTemplates, check_templates, load_templates, populate_template
from manyhands.run import Run, RunOptions, RunResult, current_run
from manyhands.session import Session
from manyhands.steps import ActionStep, SystemPromptStep
from manyhands.team import AgentTool, check_names
from manyhands.tools.base import Tool, resolve_tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from manyhands.approvals import ApprovalPolicy, ApprovalRequest
    from manyhands.callbacks import StepCallbacks
    from manyhands.crowd import MapResult
    from manyhands.events import ActionOutput, StreamEvent
    from manyhands.executors.base import PythonExecutor
    from manyhands.limits.budget import Budget
    from manyhands.limits.redis.slots import RedisConcurrencyRegistry
    from manyhands.limits.registry import ConcurrencyRegistry
    from manyhands.limits.runs import RunLimits
    from manyhands.loop import Acting
    from manyhands.messages import ChatMessage
    from manyhands.observe.monitor import Monitor
    from manyhands.plugins import Plugin
    from manyhands.run import Observer


def _run_limits(**limits: Any) -> RunLimits | None:
    """Return what bounds the runs of an agent; most agents have nothing that does."""
    if all(limit is None for limit in limits.values()):
        return None
    from manyhands.limits.runs import RunLimits

    return RunLimits(**limits)


@functools.cache
def _final_answer() -> Tool:
    """The tool that ends a run, for agents that bring none of their own: one for all."""
    return resolve_tools(["final_answer"])["final_answer"]


class MultiStepAgent:
    """An agent that works in steps; by itself it acts by calling tools.

    Args:
        tools: Tools, functions, or names of registered tools.
        model: A model, a function from messages to a reply, or a model's name; by default the one
            that the environment variable ``MANYHANDS_MODEL`` names.
        prompt_templates: Templates to use instead of the built-in ones.
        instructions: Text added to the system prompt.
        max_steps: Most steps of a run.
        add_base_tools: Add the built-in tools for the web (and for Python, where the agent does not
            write it itself).
        verbosity_level: What is shown on the console (see ``LogLevel``); by default everything of
            interest under ``run()`` and nothing under ``arun()``, where many runs may go on at once.
        managed_agents: Agents that this one may call like tools.
        step_callbacks: Functions called after steps; a list for action steps, or a mapping by class.
        planning_interval: Make a plan before the first step and every so many steps.
        name: Name of the agent.
        description: What the agent is good for, as its manager is told.
        provide_run_summary: Give a manager a summary of the work with the answer.
        final_answer_checks: Functions ``(answer, memory, agent=agent)``; the run goes on where one
            returns something false or raises.
        return_full_result: Give a :class:`RunResult` instead of the answer.
        logger: An ``AgentLogger`` for the console.
        stream_outputs: Ask the model for replies in pieces, and emit them.
        timeout: Most seconds of a run.
        tool_timeout: Most seconds of a tool call; a slower one gives the model
            ``{"error": "Tool timed out after ...s", "timeout": True}``, and the run goes on.
        max_tool_threads: Most sync tools of one run that work at the same time, on threads of their own;
            two by default.
        observers: Functions ``(run, event)`` told of everything that happens in any run, at once, on the
            loop. Of a stream event they may return something to wait for before the run goes on.
        plugins: Plugins around the agent's runs and their calls, beside those of the process.
        watch_loop: Report when something blocks the event loop while a run goes on: for longer than 0.1 s,
            or the number of seconds given.
        max_concurrency: Most runs of the agent at once; more wait, first come first served.
        max_queued: Most runs of one tenant that may wait; more are refused with ``QueueFullError``.
        tenant_weights: Shares of tenants that differ from 1, by tenant.
        registry: A ``ConcurrencyRegistry``, or one over Redis: its limit for the agent's name counts as well.
        budget: What each run may use up, with the runs it starts: ``tokens``, ``requests``, ``money`` (US
            dollars), ``seconds``, ``steps``, ``tool_calls``.
        max_depth: Most generations of managed agents below a run.
        max_breadth: Most managed agents at work at once below a run.
        approvals: Who approves tool calls that need it, and which do: an
            :class:`~manyhands.approvals.ApprovalPolicy`, a sync or async function of the request, or
            ``"console"``.

    Raises:
        CallerError: A parameter cannot be right; the message says which and why.
    """

    template_name: ClassVar[str] = "toolcalling_agent"
    base_tools: ClassVar[tuple[str, ...]] = ("python_interpreter", "web_search", "visit_webpage")

    def __init__(
        self,
        tools: Iterable[Any] = (),
        model: Any = None,
        prompt_templates: PromptTemplates | None = None,
        instructions: str | None = None,
        max_steps: int = 20,
        add_base_tools: bool = False,
        verbosity_level: int | None = None,
        managed_agents: Sequence[MultiStepAgent] | None = None,
        step_callbacks: StepCallbacks | None = None,
        planning_interval: int | None = None,
        name: str | None = None,
        description: str | None = None,
        provide_run_summary: bool = False,
        final_answer_checks: Sequence[Callable[..., Any]] | None = None,
        return_full_result: bool = False,
        logger: Any = None,
        *,
        stream_outputs: bool = False,
        timeout: float | None = None,
        tool_timeout: float | None = None,
        max_tool_threads: int | None = None,
        observers: Sequence[Observer] = (),
        plugins: Sequence[Plugin] = (),
        watch_loop: bool | float = False,
        max_concurrency: int | None = None,
        max_queued: int | None = None,
        tenant_weights: Mapping[str, float] | None = None,
        registry: ConcurrencyRegistry | RedisConcurrencyRegistry | None = None,
        budget: Mapping[str, float] | None = None,
        max_depth: int | None = None,
        max_breadth: int | None = None,
        approvals: ApprovalPolicy | Callable[[ApprovalRequest], Any] | str | None = None,
    ) -> None:
        self.tools: dict[str, Tool] = resolve_tools(tools)
        if add_base_tools:
            self.tools = resolve_tools(self.base_tools) | self.tools
        if "final_answer" not in self.tools:
            self.tools["final_answer"] = _final_answer()
        self.managed_agents: dict[str, MultiStepAgent] = {}
        if managed_agents:
            self.managed_agents = check_names(self.tools, managed_agents, name)
        self.model = choose_model(model) if model is None or isinstance(model, str) else check_model(model)
        self.name = name
        self.description = description
        self.instructions = instructions
        self.max_steps = check_count("max_steps", max_steps) or 1
        self.planning_interval = check_count("planning_interval", planning_interval)
        self.provide_run_summary = provide_run_summary
        self.final_answer_checks = final_answer_checks or ()
        self.return_full_result = return_full_result
        self.stream_outputs = stream_outputs
        self.timeout = check_seconds("timeout", timeout)
        self.tool_timeout = check_seconds("tool_timeout", tool_timeout)
        self.max_tool_threads = check_count("max_tool_threads", max_tool_threads)
        self.callbacks = CallbackRegistry(step_callbacks) if step_callbacks else None
        self.observers = observers
        self.plugins: tuple[Plugin, ...] = accept_plugins(plugins) if plugins else ()
        self.approvals = None if approvals is None else as_policy(approvals)
        self.watch_loop = (
            watch_loop if isinstance(watch_loop, bool) else check_seconds("watch_loop", watch_loop)
        )
        self.verbosity_level = verbosity_level
        self._logger = logger
        self._templates = prompt_templates
        self._system: tuple[Any, SystemPromptStep] | None = None
        self._acting: Acting | None = None
        self._active: set[Run] | None = None
        self._last_run: Run | None = None
        self.limits = _run_limits(
            max_concurrency=max_concurrency,
            max_queued=max_queued,
            tenant_weights=tenant_weights,
            registry=registry,
            budget=budget,
            max_depth=max_depth,
            max_breadth=max_breadth,
        )
        if prompt_templates is not None:
            check_templates(prompt_templates)
        shown_from = verbosity_level if logger is None else getattr(logger, "level", 0)
        if shown_from is not None and shown_from >= 0:
            self.observers = [*observers, self.logger.observe]

    # --- What the agent is ------------------------------------------------------------------

    @property
    def callables(self) -> dict[str, Tool]:
        """Everything the agent may call: its tools, and its team members as tools."""
        if not self.managed_agents:
            return self.tools
        return {**self.tools, **{name: agent.as_tool() for name, agent in self.managed_agents.items()}}

    tools_and_managed_agents = callables

    @property
    def acting(self) -> Acting:
        """How the agent acts."""
        if self._acting is None:
            self._acting = self.create_acting()
        return self._acting

    def create_acting(self) -> Acting:
        """Make the way to act; a subclass may return another."""
        return ToolActing()

    @property
    def prompt_templates(self) -> PromptTemplates:
        """The agent's templates, its own to change."""
        if self._templates is None:
            self._templates = load_templates(self.template_name)
        return self._templates

    @property
    def system_prompt(self) -> str:
        """The system prompt, as the next run will begin with it."""
        return self._system_step().system_prompt

    def initialize_system_prompt(self) -> str:
        """Render the system prompt; a subclass may write another."""
        return populate_template(self.prompt_templates["system_prompt"], self.prompt_variables())

    def prompt_variables(self) -> dict[str, Any]:
        """Return what the template of the system prompt may use."""
        return {
            "tools": self.tools,
            "managed_agents": {name: agent.as_tool() for name, agent in self.managed_agents.items()},
            "custom_instructions": self.instructions or "",
        }

    def _system_step(self) -> SystemPromptStep:
        """Return the step with the system prompt: one for all runs, until something it shows changes."""
        shows = (
            self.prompt_templates["system_prompt"],
            self.instructions,
            *self.tools.values(),
            *self.managed_agents.values(),
        )
        if self._system is None or self._system[0] != shows:
            self._system = (shows, SystemPromptStep(self.initialize_system_prompt()))
        return self._system[1]

    @property
    def logger(self) -> Any:
        """The agent's console (an ``AgentLogger``)."""
        if self._logger is None:
            from manyhands.observe.console import AgentLogger, LogLevel

            level = LogLevel.INFO if self.verbosity_level is None else self.verbosity_level
            self._logger = AgentLogger(level)
        return self._logger

    def _shows(self) -> bool:
        return self._logger is None or getattr(self._logger, "level", 0) >= 0

    @property
    def monitor(self) -> Monitor:
        """Tokens and durations of the steps of the run of the current context, else of the last one."""
        from manyhands.observe.monitor import Monitor

        return Monitor.over(self.memory.steps, self.model)

    # --- Running it ---------------------------------------------------------------------------

    def arun(
        self,
        task: str,
        stream: bool = False,
        reset: bool = True,
        images: list[Any] | None = None,
        additional_args: dict[str, Any] | None = None,
        max_steps: int | None = None,
        return_full_result: bool | None = None,
        *,
        timeout: float | None = None,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> Run:
        """Give the agent a task.

        Args:
            task: What to do.
            stream: Accepted for those who know it; any run can be iterated.
            reset: Begin anew; ``False`` continues the conversation of the last run.
            images: Pictures that belong to the task (PIL images, or PNG bytes).
            additional_args: Values for tools and code, by name.
            max_steps: Most steps, instead of the agent's own number.
            return_full_result: Whether awaiting gives a :class:`RunResult`.
            timeout: Most seconds, instead of the agent's own number; waiting for a slot does not count.
            tenant: Whose run it is, where tenants share the agent's slots.
            budget: What the run may use up, shared with whoever else holds it.

        Returns:
            The run: await it for the answer, or iterate it for its events.
        """
        options = self.run_options(
            images, additional_args, max_steps, return_full_result, timeout, tenant, budget
        )
        if reset:
            return self.new_run(task, options)
        return self.new_run(task, options, continues=self._last_finished())

    def run(
        self,
        task: str,
        stream: bool = False,
        reset: bool = True,
        images: list[Any] | None = None,
        additional_args: dict[str, Any] | None = None,
        max_steps: int | None = None,
        return_full_result: bool | None = None,
        *,
        timeout: float | None = None,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> Any | RunResult | Iterator[StreamEvent]:
        """Give the agent a task, from sync code; the arguments are those of :meth:`arun`.

        Returns:
            The answer, the full result, or with ``stream=True`` an iterator of events.
        """
        run = self.arun(
            task,
            stream,
            reset,
            images,
            additional_args,
            max_steps,
            return_full_result,
            timeout=timeout,
            tenant=tenant,
            budget=budget,
        )
        if self.verbosity_level is None and self._shows() and self.logger.observe not in run.observers:
            run.observers.append(self.logger.observe)
        return iterate_sync(aiter(run)) if stream else run_sync(run)

    astart = arun
    start = run

    def session(self) -> Session:
        """Begin a conversation whose turns remember each other."""
        return Session(self)

    def map(self, tasks: Iterable[Any], concurrency: int = 100, **options: Any) -> list[MapResult]:
        """Run many tasks, from sync code; the arguments are those of :meth:`amap`.

        Returns:
            One result per task, in order.
        """
        from manyhands.crowd import collect

        return run_sync(collect(self, tasks, concurrency=concurrency, **options))

    def amap(
        self, tasks: Iterable[Any] | AsyncIterable[Any], concurrency: int = 100, **options: Any
    ) -> AsyncIterator[MapResult]:
        """Run many tasks at once; see :func:`manyhands.crowd.amap`."""
        from manyhands.crowd import amap

        return amap(self, tasks, concurrency=concurrency, **options)

    def run_options(
        self,
        images: list[Any] | None,
        additional_args: dict[str, Any] | None,
        max_steps: int | None,
        return_full_result: bool | None,
        timeout: float | None,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> RunOptions:
        """Return what a caller asks of one run, filled up with what the agent says."""
        return RunOptions(
            max_steps=check_count("max_steps", max_steps) or self.max_steps,
            images=images,
            additional_args=additional_args,
            return_full_result=self.return_full_result if return_full_result is None else return_full_result,
            timeout=self.timeout if timeout is None else check_seconds("timeout", timeout),
            tenant=tenant,
            budget=budget,
        )

    def new_run(
        self, task: str, options: RunOptions, *, continues: Run | None = None, turn: Any = None
    ) -> Run:
        """Make a run of ``task``.

        Args:
            task: What to do.
            options: The rest of what is asked.
            continues: A run whose memory, variables and state the new one goes on with.
            turn: Makes the context in which the run works.
        """
        extra = options.additional_args or {}
        if continues is None:
            memory = AgentMemory(self._system_step())
            return Run(self, task, options, memory, drive, state=dict(extra), turn=turn)
        state = continues.state
        state.update(extra)
        run = Run(
            self, task, options, continues.memory, drive, state=state, executor=continues.executor, turn=turn
        )
        run.conversation = continues.conversation
        return run

    def _last_finished(self) -> Run | None:
        last = self._shown_run()
        if last is not None and last.status == "running":
            raise CallerError(
                "reset=False continues the last run, and that is still going on. Await it first, or use "
                "agent.session(), whose turns queue behind each other."
            )
        return last

    # --- What runs report back ------------------------------------------------------------------

    def began(self, run: Run) -> None:
        """Note that ``run`` has begun."""
        if self._active is None:
            self._active = set()
        self._active.add(run)
        self._last_run = run

    def ended(self, run: Run) -> None:
        """Note that ``run`` has ended."""
        if self._active is not None:
            self._active.discard(run)

    def _shown_run(self) -> Run | None:
        run = current_run.get()
        return run if run is not None and run.agent is self else self._last_run

    @property
    def pending(self) -> dict[str, ApprovalRequest]:
        """The open requests to people of all runs that go on now, by id."""
        return {id: request for run in list(self._active or ()) for id, request in run.pending.items()}

    @property
    def memory(self) -> AgentMemory:
        """The memory of the run of the current context, else of the last one."""
        run = self._shown_run()
        return AgentMemory(self._system_step()) if run is None else run.memory

    @property
    def state(self) -> dict[str, Any]:
        """The state of the run of the current context, else of the last one."""
        run = self._shown_run()
        return {} if run is None else run.state

    @property
    def task(self) -> str | None:
        """The task of the run of the current context, else of the last one."""
        run = self._shown_run()
        return None if run is None else run.task

    @property
    def step_number(self) -> int:
        """The step at which the run of the current context is, else where the last one ended."""
        run = self._shown_run()
        return 0 if run is None else run.step_number

    @property
    def step_callbacks(self) -> CallbackRegistry:
        """The step callbacks, to register more."""
        if self.callbacks is None:
            self.callbacks = CallbackRegistry()
        return self.callbacks

    def interrupt(self, reason: str = "Agent interrupted.") -> None:
        """End all runs of the agent that go on now, at once; from any thread.

        Args:
            reason: Text of the :class:`~manyhands.errors.AgentInterruptedError` that they raise.
        """
        for run in list(self._active or ()):
            run.interrupt(reason)

    def write_memory_to_messages(self, summary_mode: bool = False) -> list[ChatMessage]:
        """Return the messages that the memory makes.

        Args:
            summary_mode: Leave out the agent's own words and plans.
        """
        return self.memory.summary() if summary_mode else self.memory.messages()

    def replay(self, detailed: bool = False) -> None:
        """Show the steps of the last run on the console.

        Args:
            detailed: Show also what the model was shown at each step.
        """
        self.memory.replay(self.logger, detailed=detailed)

    def visualize(self) -> None:
        """Show the agent, its tools and its team as a tree on the console."""
        self.logger.visualize_agent_tree(self)

    async def astep(self, memory_step: ActionStep) -> ActionOutput | None:
        """Take one step of the last run, and put it into its memory.

        Args:
            memory_step: Gives the number of the step.

        Returns:
            What the action gave, ``None`` if it failed in a way that the model can mend.
        """
        run = self._shown_run()
        if run is None:
            raise CallerError("There is no run to go on with; call run() or arun() first.")
        run.step_number = memory_step.step_number
        return await take_step(run)

    def step(self, memory_step: ActionStep) -> ActionOutput | None:
        """Take one step of the last run, from sync code; see :meth:`astep`."""
        return run_sync(self.astep(memory_step))

    async def aprovide_final_answer(self, task: str | None = None) -> ChatMessage:
        """Ask the model for an answer from what the last run has found out.

        Args:
            task: Accepted for those who know it; the run knows its task.
        """
        run = self._shown_run()
        if run is None:
            run = self.new_run(task or "", self.run_options(None, None, None, None, None))
            run.close()
        return await provide_final_answer(run)

    def provide_final_answer(self, task: str | None = None) -> ChatMessage:
        """Ask the model for an answer, from sync code; see :meth:`aprovide_final_answer`."""
        return run_sync(self.aprovide_final_answer(task))

    # --- As a member of a team --------------------------------------------------------------------

    def as_tool(self) -> AgentTool:
        """Return the agent as a tool that another agent calls."""
        return AgentTool.of(self)

    async def acall(self, task: str, additional_args: dict[str, Any] | None = None) -> str:
        """Work on ``task`` for another agent, and report."""
        report: str = await self.as_tool().acall(task=task, additional_args=additional_args)
        return report

    def __call__(self, task: str, additional_args: dict[str, Any] | None = None) -> str:
        """Work on ``task`` for another agent, from sync code, and report."""
        return run_sync(self.acall(task, additional_args))

    # --- Its end ------------------------------------------------------------------------------------

    async def acleanup(self) -> None:
        """Release what the agent holds."""

    def cleanup(self) -> None:
        """Release what the agent holds, from sync code."""
        run_sync(self.acleanup())

    def __enter__(self) -> MultiStepAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    async def __aenter__(self) -> MultiStepAgent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.acleanup()

    def __repr__(self) -> str:
        name = f"{self.name!r}, " if self.name else ""
        return f"{type(self).__name__}({name}tools={list(self.tools)}, model={self.model!r})"


Agent = MultiStepAgent


class ToolCallingAgent(MultiStepAgent):
    """An agent that acts by calling tools; the calls of one reply run side by side.

    Args:
        tools: See :class:`MultiStepAgent`.
        model: See :class:`MultiStepAgent`.
        prompt_templates: See :class:`MultiStepAgent`.
        planning_interval: See :class:`MultiStepAgent`.
        stream_outputs: See :class:`MultiStepAgent`.
        max_tool_threads: Most sync tools of one run that work at the same time, on threads of their own;
            two by default.
        max_concurrent_tools: Most calls of one reply that run at once, sync or async; all by default.
        **kwargs: See :class:`MultiStepAgent`.
    """

    def __init__(
        self,
        tools: Iterable[Any] = (),
        model: Any = None,
        prompt_templates: PromptTemplates | None = None,
        planning_interval: int | None = None,
        stream_outputs: bool = False,
        max_tool_threads: int | None = None,
        *,
        max_concurrent_tools: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tools,
            model,
            prompt_templates,
            planning_interval=planning_interval,
            stream_outputs=stream_outputs,
            max_tool_threads=max_tool_threads,
            **kwargs,
        )
        self.max_concurrent_tools = check_count("max_concurrent_tools", max_concurrent_tools)

    def create_acting(self) -> Acting:
        """Act by calling tools, at most ``max_concurrent_tools`` at once."""
        return ToolActing(self.max_concurrent_tools)


class CodeAgent(MultiStepAgent):
    """An agent that acts by writing Python, in which its tools are plain functions.

    Args:
        tools: See :class:`MultiStepAgent`.
        model: See :class:`MultiStepAgent`.
        prompt_templates: See :class:`MultiStepAgent`.
        additional_authorized_imports: Modules that the code may import beside the basic ones:
            ``pkg``, ``pkg.sub``, ``pkg.*``, or ``*`` for all.
        planning_interval: See :class:`MultiStepAgent`.
        executor: The executor to run code in; each run gets its own copy of it. One that cannot be copied
            serves one run after the other.
        executor_type: Kind of executor, if none is given: ``local``, ``process``, ``docker``, ``monty``,
            ``e2b`` or ``modal``.
        executor_kwargs: Parameters of that executor.
        max_print_outputs_length: Most printed characters that the model is shown.
        stream_outputs: See :class:`MultiStepAgent`.
        use_structured_outputs_internally: Ask for ``{"thought": ..., "code": ...}`` in JSON.
        code_block_tags: What code stands between: a pair of regular expressions, or ``markdown``; by
            default ``<code>`` and ``</code>``.
        **kwargs: See :class:`MultiStepAgent`.
    """

    template_name = "code_agent"
    base_tools = ("web_search", "visit_webpage")

    def __init__(
        self,
        tools: Iterable[Any] = (),
        model: Any = None,
        prompt_templates: PromptTemplates | None = None,
        additional_authorized_imports: Sequence[str] | None = None,
        planning_interval: int | None = None,
        executor: Any = None,
        executor_type: str = "local",
        executor_kwargs: dict[str, Any] | None = None,
        max_print_outputs_length: int | None = None,
        stream_outputs: bool = False,
        use_structured_outputs_internally: bool = False,
        code_block_tags: str | tuple[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tools,
            model,
            prompt_templates,
            planning_interval=planning_interval,
            stream_outputs=stream_outputs,
            **kwargs,
        )
        check_executor_kind(executor_type)
        if isinstance(code_block_tags, str) and code_block_tags != "markdown":
            raise CallerError(f'code_block_tags is a pair of tags or "markdown", not {code_block_tags!r}.')
        self.additional_authorized_imports = additional_authorized_imports or ()
        self.use_structured_outputs_internally = use_structured_outputs_internally
        self._tags = code_block_tags
        self._executor: PythonExecutor | None = None if executor is None else as_executor(executor)
        self._executor_recipe = (executor_type, executor_kwargs, max_print_outputs_length)
        if self.template_name == "code_agent" and use_structured_outputs_internally:
            self.template_name = "structured_code_agent"  # type: ignore[misc]

    @property
    def authorized_imports(self) -> list[str]:
        """The modules that the code may import."""
        from manyhands.executors.local import BASE_BUILTIN_MODULES

        return sorted({*BASE_BUILTIN_MODULES, *self.additional_authorized_imports})

    @property
    def code_block_tags(self) -> tuple[str, str]:
        """What code stands between, as the model writes it."""
        if self._tags == "markdown":
            return ("```python", "```")
        return CODE_TAGS if self._tags is None else self._tags  # type: ignore[return-value]

    def create_acting(self) -> Acting:
        """Act by writing code."""
        tags = MARKDOWN_TAGS if self._tags == "markdown" else self.code_block_tags
        return CodeActing(
            self.create_python_executor,
            tags,
            self.code_block_tags[1],
            structured=self.use_structured_outputs_internally,
        )

    def create_python_executor(self) -> PythonExecutor:
        """Make the executor of one run."""
        return self._first_executor().spawn()

    def _first_executor(self) -> PythonExecutor:
        """The executor from which those of the runs are made."""
        if self._executor is None:
            kind, options, max_prints = self._executor_recipe
            self._executor = make_executor(
                kind,
                list(self.additional_authorized_imports),
                **{"max_print_outputs_length": max_prints, **(options or {})},
            )
        return self._executor

    @property
    def python_executor(self) -> PythonExecutor | None:
        """The executor of the run of the current context, else of the last one."""
        run = self._shown_run()
        return None if run is None else run.executor

    def prompt_variables(self) -> dict[str, Any]:
        """Return what the template of the system prompt may use."""
        imports = self.authorized_imports
        anything = "*" in imports
        if self._executor is not None or self._executor_recipe[0] != "local":
            first = self._first_executor()
            anything = anything or first.imports_anything
            imports = getattr(first, "authorized_imports", imports)
        opening, closing = self.code_block_tags
        return {
            **super().prompt_variables(),
            "authorized_imports": "any module" if anything else ", ".join(imports),
            "code_block_opening_tag": opening,
            "code_block_closing_tag": closing,
        }

    async def acleanup(self) -> None:
        """Release the executor that the runs' executors were made from."""
        if self._executor is not None:
            await self._executor.acleanup()
