"""One partition is one experiment; its key is the name of the experiment's file."""

import dagster as dg

EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiment")
