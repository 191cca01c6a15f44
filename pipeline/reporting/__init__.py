"""What a run leaves for people to read: figures, tables and the report."""
