"""A short selection of the chaos harness, for every test run."""
