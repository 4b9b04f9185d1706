"""The fault suite: real processes, real faults, and a checker that replays what they did."""
