"""Control nodes: they decide where a run goes on, and when."""

from engine.nodes.flow.branching import delay, if_, merge, switch
from engine.nodes.flow.children import foreach, loop, parallel, subworkflow
from engine.nodes.flow.end import End, end
from engine.nodes.flow.wait import Wait, wait

__all__ = [
    "End",
    "Wait",
    "delay",
    "end",
    "foreach",
    "if_",
    "loop",
    "merge",
    "parallel",
    "subworkflow",
    "switch",
    "wait",
]
