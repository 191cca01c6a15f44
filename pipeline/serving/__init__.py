"""The trained model behind HTTP, as MLflow serves it."""

PARAMS = {"temperature": float, "top_k": int, "max_new_tokens": int, "seed": int}  # of a request

# A server computes on when its client has gone, so a request has an end that is not far.
MOST_NEW_TOKENS = 5_000  # of all prompts together
MOST_CHARACTERS = 1_000_000
