"""A whole Airflow with podrelay on one machine: `make demo`, `make up`, and the stack of the end-to-end tests."""
