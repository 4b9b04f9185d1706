"""The SQL that settlement runs, one described file a statement."""
