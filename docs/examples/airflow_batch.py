"""Airflow: the batch of every night as one task, and what came of each model as a mapped task for those who follow.

A worker of Airflow runs it where `convert` is installed. What was made before a task was killed is not made again.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, task

MODELS = Path("/data/models/nightly.yaml")
OUT = Path("/data/out")


@dag(schedule="0 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def nightly_models() -> None:
    """Convert what is new on the list."""

    @task(retries=1, retry_delay=timedelta(minutes=30), execution_timeout=timedelta(hours=20))
    def convert_all() -> list[dict[str, str]]:
        """One batch; models fail by themselves, and are told in what is returned."""
        from convert import batch

        results = batch(MODELS, out=OUT, keep="outputs", stop_after=20)
        return [{"name": result.name, "status": result.status, "reason": result.reason} for result in results]

    @task
    def tell(result: dict[str, str]) -> None:
        """What follows a model: here it fails where that did, so that Airflow's own alerts name it."""
        if result["status"] in ("failed", "missed"):
            raise RuntimeError(f"{result['name']}: {result['reason']}")

    tell.expand(result=convert_all())


nightly_models()
