"""The Lua scripts that decide every money question, one transition a file."""
