"""podrelay's pages in Airflow's UI, served by the API server. They only read.

`podrelay.airflow_plugin` builds the application at the first request.

app: the FastAPI application, who may see what, and the files of static/.
readings: reads what the pages show from Redis, a few seconds old at most, however many people look.
series: the rollups of the last 24 hours as series for plots.
attempts: the launches of a task instance.
"""
