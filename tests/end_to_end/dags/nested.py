"""Mapping over the results of mapped tasks, in and out of mapped task groups; the run's conf says how wide."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, get_current_context, task, task_group


@dag(schedule=None, catchup=False, params={"groups": 2, "width": 2})
def nested() -> None:
    @task
    def numbers() -> list[int]:
        return list(range(1, get_current_context()["params"]["groups"] + 1))

    @task_group
    def section(number: int) -> None:
        @task
        def double(number: int) -> int:
            return 2 * number

        @task
        def spread(doubled: int) -> list[int]:
            return [doubled] * get_current_context()["params"]["width"]

        spread(double(number))  # type: ignore[arg-type]

    @task
    def flat(lists: list[list[int]]) -> list[int]:
        return [number for one in lists for number in one]

    @task
    def plus_one(number: int) -> int:
        return number + 1

    @task
    def total(values: list[int]) -> int:
        return sum(values)

    sections: Any = section.expand(number=numbers())
    # A list per section, seen from outside of them; each number in it is a task again.
    lists = sections.children["section.spread"].output
    total(plus_one.expand(number=flat(lists)))  # type: ignore[arg-type]


nested()
