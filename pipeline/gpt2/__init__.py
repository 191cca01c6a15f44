"""OpenAI's GPT-2: fetched once, read into our model, written for others to read.

`sizes` is the one table of sizes. Fetching (`fetch`, `location`, `download`) needs neither torch
nor TensorFlow; reading (`load`) and writing (`export`) do.
"""
