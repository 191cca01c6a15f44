"""The trained model behind HTTP, as MLflow serves it."""
