"""Keeps the files of Batchyard: records in JetStream KV, bytes in an object store."""
