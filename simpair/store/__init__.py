"""Documents ⇄ one SQLite file, one transaction per block. The only importer of sqlite3."""
