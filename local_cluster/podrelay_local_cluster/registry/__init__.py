"""The rules by which objects are created, changed and deleted; named after the same part of a real API server.

pods             pods, with graceful deletion
other_objects    namespaces, Secrets, ConfigMaps, quotas, service accounts
garbage          removal of objects whose owners are gone
events           events about pods that have trouble
admission        checks of a new object against other objects
"""
