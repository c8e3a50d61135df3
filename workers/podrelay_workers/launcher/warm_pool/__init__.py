"""Warm pods: pods that are started before a task needs them. Launches of equal shape may use each other's.

shape        pure: the shape of a rendered pod, the idle pod of a shape, the patch that assigns one to a launch
demand       pure: how many warm pods each shape needs
"""
