"""Bytes on disk: durable writes, digests, JSON files, tables of rows (CSV, TSV, JSONL)."""
