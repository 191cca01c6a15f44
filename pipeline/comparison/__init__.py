"""The comparison: every model on one text, its table, verdict, figures and page."""
