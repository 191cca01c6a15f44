"""Training on several processes: who they are, how they meet, and how they share a model."""
