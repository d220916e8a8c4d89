"""Documents ⇄ one SQLite file, one transaction per batch. The only importer of sqlite3."""
