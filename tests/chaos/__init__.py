"""Real processes, faults on a seeded schedule, and a judgement from outside. `python -m tests.chaos --help`."""
