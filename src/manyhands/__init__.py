"""manyhands: async-native LLM agents; write one the way you know, run ten thousand of it in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands._lazy import lazy_exports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from manyhands._bridge import iterate_sync as iterate_sync
    from manyhands._bridge import run_sync as run_sync
    from manyhands._bridge import to_async as to_async
    from manyhands.agents import Agent as Agent
    from manyhands.agents import CodeAgent as CodeAgent
    from manyhands.agents import MultiStepAgent as MultiStepAgent
    from manyhands.agents import ToolCallingAgent as ToolCallingAgent
    from manyhands.callbacks import CallbackRegistry as CallbackRegistry
    from manyhands.crowd import MapResult as MapResult
    from manyhands.errors import AgentError as AgentError
    from manyhands.errors import AgentExecutionError as AgentExecutionError
    from manyhands.errors import AgentGenerationError as AgentGenerationError
    from manyhands.errors import AgentInterruptedError as AgentInterruptedError
    from manyhands.errors import AgentMaxStepsError as AgentMaxStepsError
    from manyhands.errors import AgentParsingError as AgentParsingError
    from manyhands.errors import AgentToolCallError as AgentToolCallError
    from manyhands.errors import AgentToolExecutionError as AgentToolExecutionError
    from manyhands.errors import AuthenticationError as AuthenticationError
    from manyhands.errors import BadRequestError as BadRequestError
    from manyhands.errors import CallerError as CallerError
    from manyhands.errors import ConnectionFailedError as ConnectionFailedError
    from manyhands.errors import ExecutionTimeoutError as ExecutionTimeoutError
    from manyhands.errors import FinalAnswerException as FinalAnswerException
    from manyhands.errors import InterpreterError as InterpreterError
    from manyhands.errors import MissingExtraError as MissingExtraError
    from manyhands.errors import ProviderError as ProviderError
    from manyhands.errors import RateLimitError as RateLimitError
    from manyhands.errors import RefusedError as RefusedError
    from manyhands.errors import RunTimeoutError as RunTimeoutError
    from manyhands.errors import ServerError as ServerError
    from manyhands.errors import TemplateError as TemplateError
    from manyhands.errors import ToolDefinitionError as ToolDefinitionError
    from manyhands.errors import ToolRefusedError as ToolRefusedError
    from manyhands.errors import UnknownToolError as UnknownToolError
    from manyhands.events import ActionOutput as ActionOutput
    from manyhands.events import StreamEvent as StreamEvent
    from manyhands.executors.base import CodeOutput as CodeOutput
    from manyhands.executors.base import PythonExecutor as PythonExecutor
    from manyhands.executors.local import BASE_BUILTIN_MODULES as BASE_BUILTIN_MODULES
    from manyhands.executors.local import LocalPythonExecutor as LocalPythonExecutor
    from manyhands.executors.local import evaluate_python_code as evaluate_python_code
    from manyhands.limits.budget import Budget as Budget
    from manyhands.limits.budget import BudgetExceededError as BudgetExceededError
    from manyhands.limits.fallback import FallbackModel as FallbackModel
    from manyhands.limits.registry import ConcurrencyRegistry as ConcurrencyRegistry
    from manyhands.limits.registry import get_concurrency_registry as get_concurrency_registry
    from manyhands.limits.tenants import QueueFullError as QueueFullError
    from manyhands.memory import AgentMemory as AgentMemory
    from manyhands.messages import ChatMessage as ChatMessage
    from manyhands.messages import ChatMessageStreamDelta as ChatMessageStreamDelta
    from manyhands.messages import ChatMessageToolCall as ChatMessageToolCall
    from manyhands.messages import ChatMessageToolCallFunction as ChatMessageToolCallFunction
    from manyhands.messages import ChatMessageToolCallStreamDelta as ChatMessageToolCallStreamDelta
    from manyhands.messages import MessageRole as MessageRole
    from manyhands.messages import TokenUsage as TokenUsage
    from manyhands.messages import agglomerate_stream_deltas as agglomerate_stream_deltas
    from manyhands.models.anthropic import AnthropicModel as AnthropicModel
    from manyhands.models.azure import AzureOpenAIModel as AzureOpenAIModel
    from manyhands.models.azure import AzureOpenAIServerModel as AzureOpenAIServerModel
    from manyhands.models.base import Model as Model
    from manyhands.models.bedrock import AmazonBedrockModel as AmazonBedrockModel
    from manyhands.models.bedrock import AmazonBedrockServerModel as AmazonBedrockServerModel
    from manyhands.models.hub import InferenceClientModel as InferenceClientModel
    from manyhands.models.litellm import LiteLLMModel as LiteLLMModel
    from manyhands.models.mlx import MLXModel as MLXModel
    from manyhands.models.openai import OpenAIModel as OpenAIModel
    from manyhands.models.openai import OpenAIServerModel as OpenAIServerModel
    from manyhands.models.responses import OpenAIResponsesModel as OpenAIResponsesModel
    from manyhands.models.router import LiteLLMRouterModel as LiteLLMRouterModel
    from manyhands.models.transformers import TransformersModel as TransformersModel
    from manyhands.models.vllm import VLLMModel as VLLMModel
    from manyhands.observe.console import AgentLogger as AgentLogger
    from manyhands.observe.console import LogLevel as LogLevel
    from manyhands.observe.watchdog import Blockage as Blockage
    from manyhands.observe.watchdog import watch_loop as watch_loop
    from manyhands.plugins import FunctionPlugin as FunctionPlugin
    from manyhands.plugins import Plugin as Plugin
    from manyhands.plugins import Refuse as Refuse
    from manyhands.plugins import Replace as Replace
    from manyhands.plugins import plugin as plugin
    from manyhands.prompts import EMPTY_PROMPT_TEMPLATES as EMPTY_PROMPT_TEMPLATES
    from manyhands.prompts import FinalAnswerPromptTemplate as FinalAnswerPromptTemplate
    from manyhands.prompts import ManagedAgentPromptTemplate as ManagedAgentPromptTemplate
    from manyhands.prompts import PlanningPromptTemplate as PlanningPromptTemplate
    from manyhands.prompts import PromptTemplates as PromptTemplates
    from manyhands.prompts import populate_template as populate_template
    from manyhands.run import Run as Run
    from manyhands.run import RunResult as RunResult
    from manyhands.session import Session as Session
    from manyhands.steps import ActionStep as ActionStep
    from manyhands.steps import FinalAnswerStep as FinalAnswerStep
    from manyhands.steps import MemoryStep as MemoryStep
    from manyhands.steps import PlanningStep as PlanningStep
    from manyhands.steps import SystemPromptStep as SystemPromptStep
    from manyhands.steps import TaskStep as TaskStep
    from manyhands.steps import Timing as Timing
    from manyhands.steps import ToolCall as ToolCall
    from manyhands.steps import ToolOutput as ToolOutput
    from manyhands.tools.base import BaseTool as BaseTool
    from manyhands.tools.base import Tool as Tool
    from manyhands.tools.base import get_tool_json_schema as get_tool_json_schema
    from manyhands.tools.base import register_tool as register_tool
    from manyhands.tools.base import tool as tool
    from manyhands.tools.base import validate_tool_arguments as validate_tool_arguments
    from manyhands.tools.builtin import FinalAnswerTool as FinalAnswerTool
    from manyhands.tools.builtin import PythonInterpreterTool as PythonInterpreterTool
    from manyhands.tools.builtin import UserInputTool as UserInputTool
    from manyhands.tools.search import ApiWebSearchTool as ApiWebSearchTool
    from manyhands.tools.search import DuckDuckGoSearchTool as DuckDuckGoSearchTool
    from manyhands.tools.search import GoogleSearchTool as GoogleSearchTool
    from manyhands.tools.search import WebSearchTool as WebSearchTool
    from manyhands.tools.search import WikipediaSearchTool as WikipediaSearchTool
    from manyhands.tools.web import VisitWebpageTool as VisitWebpageTool

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
