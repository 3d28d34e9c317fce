"""From documents to the pairs of a batch: which, how they count, what the towers are given."""
