"""Requests to the Kubernetes API server, in the order in which a request passes through the modules.

client          the requests: create, get, list, watch, patch and delete pods, read logs and events
encoding        request bodies to JSON, answers from JSON (pure)
connection      one HTTP request: renewed credentials, errors
connection_pool  kept connections for requests of single objects
socket_stream   opens them, with TLS or without; sends and reads
http_answer     reads their answers (pure)
credentials     address, credentials, proxy and timeouts from `[kubernetes_executor]`
loader_process  starts the short-lived process that loads credentials
credential_loader, provider_client, exec_expiry  what runs in it; only they import client libraries
plain_configuration, memory_file  what it finds: plain data, and files in memory only
authorization   authorization headers, renewed by the client's hook or from a token file
client_headers  headers that a user's client adds (pure)
start_up        both clients of a process, once they can be used
unbounded_call  code that may never return, in threads
send_guard      a check at the moment a request is sent
quantity        amounts such as 200Mi (pure)
paced_reading   reads a watch in few and large pieces
errors          error classes for the server's answers (pure)
pod_decoder     fast decoding of the fields that the watcher reads (pure)
"""
