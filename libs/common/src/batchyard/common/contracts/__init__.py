"""Commands, replies, events: every value that crosses a process boundary."""
