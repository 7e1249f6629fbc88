"""NATS: one connection, one declaration of streams and buckets, commands with typed replies, records with revisions."""
