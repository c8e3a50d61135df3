"""The processes beside the scheduler: launchers, watchers, and the local cluster of a laptop."""
