"""Real parts for tests: servers on loopback that start in milliseconds and are gone afterwards."""
