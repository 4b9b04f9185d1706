"""The HTTP API: routes, problem answers, and what turns a request into a call of the ledger."""
