"""The rows of the fault suite: a module each, which exports `ROW`."""
