"""The prepare stage: documents from wherever they lie into Parquet."""
