"""PostgreSQL: the embedded server, the tables with their migrations, and one store for each kind of record."""
