"""The API of objects over HTTP.

request_handler  entry point of every request: authentication, faults, routing, audit log
core_api         the core group's resources: one method per verb
delete_options   reads the options of a deletion
listing          lists: selectors, chunks, resource versions
watching         watches: streams of events
representation   the form of an object in a response: whole, metadata only, table
pod_log          which part of which container's log a request reads
"""
