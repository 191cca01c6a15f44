"""Lossbook: pretrain a GPT, write every loss in a book, and learn what the numbers are worth."""
