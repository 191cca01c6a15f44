"""Pages that stand alone: their templates, figures and text shaded token by token."""
