"""Warm pods: pods that are started before a task needs them. Launches of equal shape may use each other's.

shape        the shape of a pod, the idle pod of a shape, the patch that gives one to a launch (pure)
demand       how many warm pods each shape needs (pure)
upkeep       which pods to create, to remove, to look at (pure)
trouble      why a warm pod does not become ready (pure)
assignment   gives a launch its warm pod, or says that it goes the usual way
deliveries   waits until warm pods have taken their workloads
keeper       keeps the pool: one launcher of a cluster at a time
pool_switch  switches the warm pods of a shape off for a while
idle_pods    creates, reads, finds and deletes idle pods
parts        all of these, for one launcher
"""
