"""What an object is. No I/O.

record           one version of one object, with its JSON text
metadata         names, uids, preconditions
schema           the JSON types of what clients send
decoding         applies them: what a typed server makes of a body
quantity         amounts of resources and their canonical text
names            names, labels and their keys
pod_parts        the checks on volumes, environment sources and tolerations
pod_resources    the checks on what a container requests and is limited to
defaults         the defaults of a new pod
validation       the checks on names, labels and pods
managed_fields   which manager owns which field of a pod
patching         merge patch, strategic merge patch, JSON patch
selectors        label and field selectors
errors           failures as `Status` objects
resources        the resources of this server
clock            time as Kubernetes writes it
json_text        JSON values and their text
"""
