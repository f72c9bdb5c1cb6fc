"""Price experiments over products and time, as Dagster assets over DuckDB."""
