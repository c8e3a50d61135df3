"""Requests and responses, for the API of objects and for the control API.

request_info     what a request addresses: verb, resource, namespace, name
query            single parameters of a query
exchange         bodies, responses, broken connections
"""
