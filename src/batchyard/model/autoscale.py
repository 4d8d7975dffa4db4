"""What an autoscale formula saw and decided, as `batchyard autoscale` reads it; no SDK knows these shapes."""

from __future__ import annotations

import msgspec

from batchyard.model.common import Duration, Shape, Timestamp
from batchyard.model.pool import AutoScaleRun

SAMPLE_PERIOD_US = 30_000_000


class Sample(msgspec.Struct, frozen=True):
    """Counters of a pool at a time (µs since 1970); a row of `autoscale_sample` behind its pool."""

    at: int
    active_tasks: int = 0
    """Tasks of the pool's active jobs that could start at once."""
    running_tasks: int = 0
    succeeded_tasks: int = 0
    failed_tasks: int = 0
    active_task_slots: int = 0
    running_task_slots: int = 0
    task_slots_per_node: int = 1
    current_dedicated_nodes: int = 0
    current_low_priority_nodes: int = 0
    preempted_node_count: int = 0
    usable_node_count: int = 0
    sample_node_count: int = 0

    @property
    def pending_tasks(self) -> int:
        """Tasks that run or could."""
        return self.active_tasks + self.running_tasks

    @property
    def pending_task_slots(self) -> int:
        """Slots of the tasks that run or could."""
        return self.active_task_slots + self.running_task_slots


class AutoScaleSample(Shape):
    """A sample on the wire, and a line of a history file; a counter that is left out is 0, slots per node 1."""

    timestamp: Timestamp
    active_tasks: int | None = None
    running_tasks: int | None = None
    succeeded_tasks: int | None = None
    failed_tasks: int | None = None
    active_task_slots: int | None = None
    running_task_slots: int | None = None
    task_slots_per_node: int | None = None
    current_dedicated_nodes: int | None = None
    current_low_priority_nodes: int | None = None
    preempted_node_count: int | None = None
    usable_node_count: int | None = None
    sample_node_count: int | None = None


class AutoScaleDecision(Shape):
    """What an evaluation made of a pool's size."""

    old_target_dedicated_nodes: int
    old_target_low_priority_nodes: int
    target_dedicated_nodes: int
    target_low_priority_nodes: int
    node_deallocation_option: str
    resized: bool
    """True when a resize was started."""


class AutoScaleTrace(Shape):
    """An evaluation with all that explains it."""

    cause: str
    """`added`, `enabled`, `interval` or `demand`."""
    formula: str
    run: AutoScaleRun
    decision: AutoScaleDecision
    variables: dict[str, str]
    """The formula's own variables as the result string prints them."""
    samples: list[AutoScaleSample]
    """The newest samples that the formula could see, the oldest first."""
    sample_count: int
    """How many samples there were in all."""


class AutoScaleReport(Shape):
    """How a pool is scaled: settings, the last evaluations, the newest first, and the samples when asked for."""

    pool_id: str
    enable_auto_scale: bool
    target_dedicated_nodes: int
    target_low_priority_nodes: int
    runs: list[AutoScaleTrace]
    auto_scale_formula: str | None = None
    auto_scale_evaluation_interval: Duration | None = None
    next_evaluation_time: Timestamp | None = None
    samples: list[AutoScaleSample] | None = None
