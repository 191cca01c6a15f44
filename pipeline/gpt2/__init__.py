"""OpenAI's GPT-2: fetched once, read into our model, written for others to read.

Fetching (`release`, `cache`, `download`, `fetch`) needs neither torch nor TensorFlow; reading
(`load`, `tf_checkpoint`, `huggingface`) and writing (`export`) do.
"""
