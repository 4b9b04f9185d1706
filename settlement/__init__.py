"""Settlement: carries every entry from the Redis stream into the Postgres journal, exactly once."""
