"""A complete Airflow with podrelay on one machine, for `make demo`, `make up` and the end-to-end tests."""
