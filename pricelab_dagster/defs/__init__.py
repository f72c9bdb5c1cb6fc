"""Thin Dagster definitions, grouped by stage."""
