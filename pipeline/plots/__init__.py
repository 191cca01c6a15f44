"""The figures of Lossbook, in one style."""
