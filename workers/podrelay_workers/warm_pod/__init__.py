"""The process of a warm pod: it starts before its task is known, and runs one task.

process    the command line, signals and exit codes
inbox      waits for the workload
workload   runs it as Airflow does
preload    imports what tasks need
"""
