"""Snakemake's executor for Kubernetes, for pods that share a volume with the one that starts them.

The plugin `kubernetes` takes for granted that nothing is shared, and would send every file through
an object store; a stage here reads and writes a results folder. With a volume that is mounted at
one path everywhere, its jobs are those of any other cluster, begun in the results folder.
Snakemake finds packages on the path by the beginning of their names, so it has to be one.
"""

import shlex
from dataclasses import replace

import snakemake_executor_plugin_kubernetes as kubernetes
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

ExecutorSettings = kubernetes.ExecutorSettings
common_settings = replace(
    kubernetes.common_settings,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(kubernetes.Executor):
    """The plugin's, whose pods begin in an empty folder of their own."""

    def get_job_exec_prefix(self, job: JobExecutorInterface) -> str:
        return f"cd {shlex.quote(str(self.workflow.workdir_init))}"
