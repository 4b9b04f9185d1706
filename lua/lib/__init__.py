"""Shared parts of the Lua scripts, included by a checked include."""
