"""What is sent to the API server is what json would send, whatever a pod holds."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from podrelay_workers.kube.encoding import encode

text = st.text(st.characters())  # halves of surrogate pairs too
keys = text | st.integers() | st.booleans() | st.none()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(text, values, max_size=4))
@example({"env": "half of a pair: \ud800"})
@example({"large": 2**70, "labels": {True: "yes", None: "none", 7: "seven"}})
def test_a_body_says_what_json_says(body: dict[str, object]) -> None:
    assert json.loads(encode(body)) == json.loads(json.dumps(body))
