"""Every table of the documents, printed of stored results; pictures that can be drawn of them; where each is from."""
