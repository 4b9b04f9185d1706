"""holdfast: a credit service for LLM and chat backends.

A backend reserves credits before it calls a model, commits what the call really cost, or releases
the hold. Redis decides in one atomic script; Postgres keeps the journal, settled exactly once.
"""

__version__ = "0.1.0"
