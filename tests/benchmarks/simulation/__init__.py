"""A discrete-event simulation of a deployment: what many tasks cost, and how long they take.

machine     processors, and the processes that share them
unit_costs  what one step of one task costs each process, as `tests.benchmarks.costs` has measured it
services    Redis, the API server with its pods, an observer
workers     launchers and the watcher
schedulers  executors in the scheduler's loop
plan        what runs where, and with which load
deployment  one run: the parts together, and what comes out
burst       the arrivals of a busy hour
needs       pure: what a load needs, from unit costs alone
check       the simulation against measured lives
page        the measured parts of docs/sizing.md
__main__    `python -m tests.benchmarks.simulation`

Times are seconds of simulated time. Nothing here measures anything.
"""
