"""What runs the steps of a plan: worker processes of this machine, or those of a Dask cluster."""

from __future__ import annotations

import functools

from pipeline.execution.cluster_address import cluster_address
from pipeline.execution.display import PlanDisplay
from pipeline.execution.executor import Executor
from pipeline.execution.local import make_executor
from pipeline.execution.runner import ExecutorFactory
from pipeline.params import MainParams
from pipeline.plan.records import Plan
from pipeline.stages.host_facts import data_settings, host_facts


def executor_factory(params: MainParams, plan: Plan) -> ExecutorFactory:
    """Return what creates the executor once a step has to run.

    Raises:
        UserInputError: The cluster's address is not valid, not protected or not reachable.
    """
    if not params.cluster:
        return functools.partial(make_executor, params.workers)
    return functools.partial(cluster_executor, cluster_address(params.cluster), plan)


def cluster_executor(address: str, plan: Plan, display: PlanDisplay) -> Executor:
    """Return what submits steps to a Dask scheduler; its workers' hosts are compared with this one."""
    from pipeline.execution.dask_executor import DaskExecutor, HostCheck  # imports Dask, which is optional

    data = data_settings(plan)
    return DaskExecutor(address, HostCheck(data, host_facts(data)))
