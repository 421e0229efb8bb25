"""Spans, metrics and logs of a batch of runs.

Spans and metrics are kept here, so that they can be shown. To send them to a collector, leave the providers
out and say where to:

    MANYHANDS_TELEMETRY=1 OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/shared_agent.py
"""

import asyncio
import logging
import sys
from collections import Counter

from _model import API_BASE, API_KEY, MODEL_ID
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from manyhands import CodeAgent, OpenAIServerModel
from manyhands.observe.logs import configure
from manyhands.observe.telemetry import instrument

logger = logging.getLogger("manyhands.example")

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
traces, meters = TracerProvider(), MeterProvider([reader])
traces.add_span_processor(BatchSpanProcessor(exporter))


def check(answer, memory, agent):
    """Log every answer; the log line knows its run."""
    logger.info("answered %s", answer)
    return True


async def main():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
    # Five at once: the others wait for a slot, and that is to be seen.
    agent = CodeAgent(
        tools=[], model=model, name="calculator", max_concurrency=5, final_answer_checks=[check]
    )
    configure(json=True, stream=sys.stdout)
    async with instrument(traces, meters):
        tasks = [f"What is {number} * 7?" for number in range(20)]
        await asyncio.gather(*(agent.arun(task) for task in tasks))

    spans = exporter.get_finished_spans()
    for name, count in sorted(Counter(span.name for span in spans).items()):
        seconds = sum(span.end_time - span.start_time for span in spans if span.name == name) / 1e9
        print(f"{count:4} x {name:40} {seconds / count:.3f} s on average")
    for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
        for metric in scope.metrics:
            points = metric.data.data_points
            total = sum(getattr(point, "sum", None) or getattr(point, "value", 0) for point in points)
            print(f"{metric.name:40} {total:10.2f} {metric.unit}")


if __name__ == "__main__":
    asyncio.run(main())
