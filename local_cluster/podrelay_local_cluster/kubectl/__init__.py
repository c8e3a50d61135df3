"""What only kubectl needs.

discovery        the documents that it reads before its first request for pods
table            the columns that it prints
"""
