"""The simulated routes: each module turns request bodies into work, or answers questions about the server."""
