"""The objects and their history.

store            all objects and the counter of resource versions
event_log        the last changes of one resource
journal          all changes on disk
"""
