"""What a `Model`, a `Samples` and a `Batch` show of themselves: a few lines of text, or a card in a notebook."""
