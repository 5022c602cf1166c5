"""The broker: Celery carries the ids of tasks, and nothing else."""
