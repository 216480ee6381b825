"""Whether a result looks like the training labels: what is measured, what is usual, what is odd."""
