"""The trained model behind HTTP, as MLflow serves it."""

PARAMS = {"temperature": float, "top_k": int, "max_new_tokens": int, "seed": int}  # of a request
